"""Inter-channel correlation."""
import jax
from jax import numpy as jnp

from kt_jax import core
from kt_jax.losses.feature._layers import add_layers
from kt_jax.losses.feature._layers import zip_layers


def ickd(
    student_features: jax.Array | list[jax.Array],
    teacher_features: jax.Array | list[jax.Array],
    *,
    normalize: bool = True,
) -> jax.Array:
  r"""Correlations between the channels of each example's map.

    1/C sum_cd (G^s_cd - G^t_cd)^2,   G = F^T F, each row at length 1,

  F the map with one position per row; summed over pairs of layers.

  Args:
    student_features: `[B, ..., C]` maps or tokens, or a list of layers.
    teacher_features: `[B, ..., C]` of the same C (else project the student:
      `modules.Projector`) and any positions; no gradient is stopped here.
    normalize: whether rows of G are brought to length 1.

  Returns:
    `[B]` losses, at least float32, 0 at equality, without unit if `normalize`.

  Departures: rows of length 1 and 1/C follow the authors' code, whose
  transform of the student (1x1 convolution, batch norm) belongs to a module.
  The grid variant for dense prediction is this loss, patches as examples.

  References: liu2021ickd, Sec. 3.
  """
  fn = 'ickd'

  def cost(s, t):
    if (min(s.ndim, t.ndim) < 3 or s.shape[0] != t.shape[0]
        or s.shape[-1] != t.shape[-1]):
      raise ValueError(
          f'{fn}: student_features has shape {s.shape}, teacher_features '
          f'{t.shape}; they must be [B, ..., C] and agree in B and C.')
    gap = _correlation(s, normalize) - _correlation(t, normalize)
    return jnp.sum(jnp.square(gap), axis=(1, 2)) / s.shape[-1]

  return add_layers(cost(s, t) for s, t in zip_layers(
      fn, student_features, teacher_features))


def _correlation(x, normalize):
  x = core.to_float(x)
  x = jnp.swapaxes(x.reshape(len(x), -1, x.shape[-1]), 1, 2)
  if not normalize:
    return core.dot(x, x)
  largest = jax.lax.stop_gradient(jnp.max(jnp.abs(x), (1, 2), keepdims=True))
  x = x / jnp.where(largest == 0, 1, largest)
  return core.unit(core.dot(x, x))
