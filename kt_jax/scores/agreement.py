"""Agreement of the predictions of two models."""
import jax

from kt_jax.scores import _flips


def agreement(
    student_logits: jax.Array,
    teacher_logits: jax.Array,
    where: jax.Array | None = None,
) -> jax.Array:
  """Share of examples for which student and teacher predict the same class.

    1/n sum_i 1[argmax_k z_s,ik = argmax_k z_t,ik]

  Right or wrong does not matter: a student can be as accurate as its teacher
  and disagree on every example that either gets wrong.

  Args:
    student_logits: `[N, K]`.
    teacher_logits: `[N, K]`.
    where: `[N]` examples that count.

  Returns:
    Scalar float32 in [0, 1]; 0 where no example counts. A row with NaN never
    agrees.

  References: stanton2021really (average top-1 agreement).
  """
  return _flips.rate(_flips.same(
      'agreement', where, student_logits=student_logits,
      teacher_logits=teacher_logits), where)
