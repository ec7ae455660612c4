"""Complementary knowledge of a student."""
import jax

from kt_jax.scores import _flips


def rho_negative(
    student_logits: jax.Array,
    teacher_logits: jax.Array,
    labels: jax.Array,
    where: jax.Array | None = None,
) -> jax.Array:
  """Share of examples that the teacher gets wrong and the student right.

    rho_neg = 1/n sum_i 1[teacher wrong] 1[student right],

  which is `rho_positive` with the two models exchanged.

  Args:
    student_logits: `[N, K]`.
    teacher_logits: `[N, K]`.
    labels: `[N]` integer class ids.
    where: `[N]` examples that count.

  Returns:
    Scalar float32 in [0, 1], of all n examples that count; 0 if none count.

  Departures: the authors' code reports percent.

  References: roth2024fantastic (complementary knowledge).
  """
  hits = _flips.positive_flips(
      'rho_negative', labels, teacher_logits=teacher_logits,
      student_logits=student_logits, where=where)
  return _flips.rate(hits, where)
