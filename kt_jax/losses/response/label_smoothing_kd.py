"""Teacher-free knowledge distillation."""
import jax
from jax import numpy as jnp

from kt_jax import core
from kt_jax.losses.response._labels import is_true
from kt_jax.losses.response.kd import kd


def label_smoothing_kd(
    student_logits: jax.Array,
    labels: jax.Array,
    *,
    temperature: float | jax.Array = 20.0,
    correct_prob: float = 0.99,
) -> jax.Array:
  r"""Distillation from a virtual teacher that is always right.

    tau^2 KL(u' || softmax(z / tau)),   u' ~ u^(1/tau),
    u_k = a if k = y, else (1 - a) / (K - 1).

  Args:
    student_logits: `[..., K]` raw logits z, K >= 2.
    labels: `[...]` integer class ids y. An id outside 0..K-1 gives NaN.
    temperature: tau > 0, a scalar or one per example, `[...]`; possibly traced.
      At 1 it is label smoothing less the entropy of u.
    correct_prob: a, between 0 and 1.

  Returns:
    `[...]` losses in nats, tau^2 included, at least float32, 0 where softmax(z)
    is u.

  Departures: the paper has no tau^2. Its public code tempers u by softmax(u /
  tau), as if u were logits (nearly uniform at any tau), leaves the student at
  temperature 1, and averages over classes too.

  References: yuan2020tfkd, Tf-KD_reg; it weighs 0.1 beside the task's cross
  entropy.
  """
  fn = 'label_smoothing_kd'
  core.check_logits(fn, student_logits=student_logits)
  true = is_true(fn, student_logits, labels)
  a = correct_prob
  if not isinstance(a, jax.core.Tracer) and not 0 < a < 1:
    raise core.UserError(
        f'{fn}: correct_prob must be between 0 and 1, got {a}.')
  z = core.to_float(student_logits)
  others = jnp.log1p(-a) - jnp.log(max(z.shape[-1] - 1, 1))
  teacher = jnp.where(true, jnp.log(a), others).astype(z.dtype)
  teacher = jnp.where(jnp.any(true, axis=-1, keepdims=True), teacher, jnp.nan)
  return kd(z, teacher, temperature=temperature)
