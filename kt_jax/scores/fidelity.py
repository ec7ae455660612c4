"""Divergence of a student's probabilities from its teacher's."""
import jax
from jax import numpy as jnp

from kt_jax import core
from kt_jax.scores import _flips


def fidelity(
    student_logits: jax.Array,
    teacher_logits: jax.Array,
    where: jax.Array | None = None,
) -> jax.Array:
  """Average predictive KL of the student from the teacher; 0 is perfect.

    1/n sum_i sum_k p_ik (log p_ik - log q_ik),
    p = softmax(z_t),  q = softmax(z_s)

  Args:
    student_logits: `[N, K]`.
    teacher_logits: `[N, K]`.
    where: `[N]` examples that count.

  Returns:
    Scalar >= 0 in nats, at least float32; 0 where no example counts. It is
    the mean over examples of `losses.kd` at temperature 1.

  References: stanton2021really (average predictive KL).
  """
  _flips.check_pair('fidelity', where, student_logits=student_logits,
                   teacher_logits=teacher_logits)
  log_q, log_p = (jax.nn.log_softmax(core.to_float(z))
                  for z in (student_logits, teacher_logits))
  p = jnp.exp(log_p)
  # 0 (log 0 - log q) is 0. NaN == 0 is false, so that a NaN stays one.
  gap = jnp.where(p == 0, 0, log_p) - jnp.where(p == 0, 0, log_q)
  return core.masked_mean(jnp.sum(p * gap, axis=-1), where)
