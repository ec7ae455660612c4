"""How often two models say the same."""
import jax

from kt_jax.scores import flips


def agreement(
    student_logits: jax.Array,
    teacher_logits: jax.Array,
    where: jax.Array | None = None,
) -> jax.Array:
  """Share of examples for which student and teacher predict the same class.

    1/n sum_i 1[argmax_k z_s,ik = argmax_k z_t,ik]

  Right or wrong does not matter: a student may be as accurate as its teacher
  and yet disagree on every example that either gets wrong.

  Args:
    student_logits: `[N, K]`.
    teacher_logits: `[N, K]`.
    where: `[N]` examples that count.

  Returns:
    Scalar float32 in [0, 1]; 0 where no example counts. A row with NaN agrees
    with none.

  Departures: none.

  References: stanton2021really (average top-1 agreement).
  """
  return flips.rate(flips.same(
      'agreement', where, student_logits=student_logits,
      teacher_logits=teacher_logits), where)
