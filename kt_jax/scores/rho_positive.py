"""Complementary knowledge of a teacher."""
import jax

from kt_jax.scores import _flips


def rho_positive(
    student_logits: jax.Array,
    teacher_logits: jax.Array,
    labels: jax.Array,
    where: jax.Array | None = None,
) -> jax.Array:
  """Share of examples that the teacher gets right and the student wrong.

    rho_pos = 1/n sum_i 1[teacher right] 1[student wrong],

  so that acc_t - acc_s = rho_pos - rho_neg. A change from one wrong class to
  another counts in neither.

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
      'rho_positive', labels, student_logits=student_logits,
      teacher_logits=teacher_logits, where=where)
  return _flips.rate(hits, where)
