"""Knowledge distillation."""
import jax
from jax import numpy as jnp

from kt_jax import core
from kt_jax.losses.response._temper import temper


def kd(
    student_logits: jax.Array,
    teacher_logits: jax.Array,
    *,
    temperature: float | jax.Array = 4.0,
) -> jax.Array:
  r"""Divergence of the tempered student from the tempered teacher.

    tau^2 KL(p || q) = tau^2 sum_k p_k (log p_k - log q_k),
    p = softmax(z_t / tau),  q = softmax(z_s / tau).

  Args:
    student_logits: `[..., K]` raw logits z_s.
    teacher_logits: `[..., K]` raw logits z_t; no gradient is stopped here.
    temperature: tau > 0, a scalar or one per example, `[...]`; possibly traced.

  Returns:
    `[...]` losses in nats, at least float32, 0 at equality. tau^2 is included:
    gradients keep their size when tau changes. A class that both mask by a
    logit of -inf adds nothing; one that only the student masks costs inf.

  Departures: the paper writes a cross entropy with the soft targets, which
  differs from this by the teacher's entropy: the same gradient, but a floor
  above 0. Its task term is `losses.cross_entropy`.

  References: hinton2015kd, Sec. 2.
  """
  core.check_logits('kd', student_logits=student_logits,
                    teacher_logits=teacher_logits)
  log_s, log_t = map(jax.nn.log_softmax, temper(
      'kd', temperature, student_logits, teacher_logits))
  p = jnp.exp(log_t)
  # 0 (log 0 - log q) is 0. NaN == 0 is false, so that a NaN stays one.
  gap = jnp.where(p == 0, 0, log_t) - jnp.where(p == 0, 0, log_s)
  return temperature**2 * jnp.sum(p * gap, axis=-1)
