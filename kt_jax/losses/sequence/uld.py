"""Universal logit distillation."""
import jax
from jax import numpy as jnp

from kt_jax import core


def uld(
    student_logits: jax.Array,
    teacher_logits: jax.Array,
) -> jax.Array:
  r"""Distance between sorted probabilities, of any two vocabularies.

    sum_i |p_(i) - q_(i)|,   p = softmax(z_t),  q = softmax(z_s),

  sorted in descending order, the shorter of the two padded with 0.

  Args:
    student_logits: `[..., V]` raw logits z_s.
    teacher_logits: `[..., U]` raw logits z_t, U may differ from V; no gradient
      is stopped here.

  Returns:
    `[...]` losses in [0, 2), without unit, at least float32; 0 wherever one is
    a permutation of the other, with the gradient taken as 0 there.

  Departures: the label's cross entropy, which the paper adds, is another term.
  There is no factor of one half, as in the public code.

  References: boizard2024uld, Sec. 3.
  """
  lead = student_logits.shape[:-1]
  if min(student_logits.ndim, teacher_logits.ndim) < 1 or (
      teacher_logits.shape[:-1] != lead):
    raise ValueError(
        f'uld: teacher_logits has shape {teacher_logits.shape}, student_logits '
        f'{student_logits.shape}; they must agree but for the last axis.')
  width = max(student_logits.shape[-1], teacher_logits.shape[-1])
  def ranked(z):
    p = -jnp.sort(-jax.nn.softmax(core.to_float(z)), axis=-1)
    return jnp.pad(p, [(0, 0)] * len(lead) + [(0, width - z.shape[-1])])
  p, q = ranked(teacher_logits), ranked(student_logits)
  # Within rounding they are equal: the sign of the rest would be noise.
  equal = jnp.abs(p - q) <= 4 * jnp.finfo(p.dtype).eps * jnp.maximum(p, q)
  return jnp.sum(jnp.where(equal, 0, jnp.abs(p - q)), axis=-1)
