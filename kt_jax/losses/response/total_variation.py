"""Total variation distance."""
import jax
from jax import numpy as jnp

from kt_jax import core


def total_variation(
    student_logits: jax.Array,
    teacher_logits: jax.Array,
) -> jax.Array:
  r"""Largest difference in probability of any set of classes.

    1/2 sum_k |p_k - q_k|,   p = softmax(z_t),  q = softmax(z_s).

  Args:
    student_logits: `[..., K]` raw logits z_s.
    teacher_logits: `[..., K]` raw logits z_t; no gradient is stopped here.

  Returns:
    `[...]` losses in [0, 1], without unit, at least float32, 0 at equality,
    where the gradient is taken as 0. Masked classes (-inf) are allowed.

  References: wen2023fdivergence, Sec. 3; it measures the learners of
  zhao2023limits.
  """
  core.check_logits('total_variation', student_logits=student_logits,
                    teacher_logits=teacher_logits)
  p, q = (jax.nn.softmax(core.to_float(z))
          for z in (teacher_logits, student_logits))
  # Within rounding they are equal: the sign of the rest would be noise.
  equal = jnp.abs(p - q) <= 4 * jnp.finfo(p.dtype).eps * jnp.maximum(p, q)
  return 0.5 * jnp.sum(jnp.where(equal, 0, jnp.abs(p - q)), axis=-1)
