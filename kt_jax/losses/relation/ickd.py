"""Inter-channel correlation."""
import jax
from jax import numpy as jnp

from kt_jax import core
from kt_jax.losses.relation import pairs


def ickd(
    student_features: jax.Array | list[jax.Array],
    teacher_features: jax.Array | list[jax.Array],
    *,
    normalize: bool = True,
) -> jax.Array:
  r"""Which channels of an example's map go together.

    1/C sum_cd (G^s_cd - G^t_cd)^2,   G = F^T F, each row at length 1,

  F the map with one position a row; summed over pairs of layers.

  Args:
    student_features: `[B, ..., C]` maps or tokens, or a list of layers.
    teacher_features: `[B, ..., C]` of the same C (else project the student:
      `modules.Projector`) and any positions; no gradient is stopped here.
    normalize: whether rows of G are brought to length 1.

  Returns:
    `[B]` losses, at least float32, 0 at equality, without unit if `normalize`.

  Departures: rows of length 1 and 1/C follow the authors' code, whose
  transform of the student (1x1 convolution, batch norm) is a module's work. The
  grid variant for dense prediction is this on patches as examples.

  References: liu2021ickd, Sec. 3.
  """
  fn = 'ickd'
  total = 0.0
  for s, t in pairs.layers(fn, student_features, teacher_features):
    if (min(s.ndim, t.ndim) < 3 or s.shape[0] != t.shape[0]
        or s.shape[-1] != t.shape[-1]):
      raise ValueError(
          f'{fn}: student_features has shape {s.shape}, teacher_features '
          f'{t.shape}; they must be [B, ..., C] and agree in B and C.')
    gap = _correlation(s, normalize) - _correlation(t, normalize)
    total += jnp.sum(jnp.square(gap), axis=(1, 2)) / s.shape[-1]
  return total


def _correlation(x, normalize):
  x = core.to_float(x)
  x = jnp.swapaxes(x.reshape(len(x), -1, x.shape[-1]), 1, 2)
  if not normalize:
    return core.dot(x, x)
  largest = jax.lax.stop_gradient(jnp.max(jnp.abs(x), (1, 2), keepdims=True))
  x = x / jnp.where(largest == 0, 1, largest)
  return core.unit(core.dot(x, x))
