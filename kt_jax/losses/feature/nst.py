"""Neuron selectivity transfer."""
import jax
from jax import numpy as jnp

from kt_jax import core
from kt_jax.losses.feature._layers import add_layers
from kt_jax.losses.feature._layers import matched_layers

_KERNELS = ('gaussian', 'linear', 'polynomial')


def nst(
    student_features: jax.Array | list[jax.Array],
    teacher_features: jax.Array | list[jax.Array],
    *,
    kernel: str = 'polynomial',
) -> jax.Array:
  r"""Distance of the distributions of channels, each a map of positions.

    sum_l mean k(t_c, t_c') + mean k(s_c, s_c') - 2 mean k(s_c, t_c'),

  means over all pairs c, c' of channels: the squared maximum mean discrepancy.
  `s_c` is channel c as a vector over the positions, of length one. k(x, y) is
  (x.y)^2 if polynomial, x.y if linear, exp(-||x - y||^2 / 2 v) if gaussian, v
  the mean of ||s_c - t_c'||^2.

  Args:
    student_features: `[B, H, W, C]` maps, `[B, N, C]` tokens, or a list of
      layers; C may differ from the teacher's.
    teacher_features: the same of the teacher; no gradient is stopped here.
      Maps that differ in H or W are pooled to the smaller grid.
    kernel: 'polynomial', 'linear' or 'gaussian'.

  Returns:
    `[B]` losses, at least float32, no unit. The paper's weight is lambda / 2.

  Departures: the paper takes v from 'the pairs'. Here they are the pairs of
  student and teacher of one example, and v has no gradient.

  References: huang2017nst, Sec. 4: the loss, then the three kernels.
  """
  if kernel not in _KERNELS:
    raise core.UserError(
        'nst: ' + core.nearest('kernel', kernel, _KERNELS))

  def cost(s, t):
    s, t = (core.unit(x.reshape(len(x), -1, x.shape[-1]), 1) for x in (s, t))
    k = _kernel(s, t, kernel)
    mean = lambda x, y: jnp.mean(k(x, y), axis=(1, 2))
    return mean(t, t) + mean(s, s) - 2 * mean(s, t)

  return add_layers(cost(s, t) for s, t in matched_layers(
      'nst', student_features, teacher_features, least=3, channels=False))


def _kernel(s, t, kernel):
  """`k(x, y)` of channels `[B, N, C]` and `[B, N, D]`: `[B, C, D]`."""
  dot = lambda x, y: jnp.einsum('bnc,bnd->bcd', x, y, precision='highest')
  if kernel == 'linear':
    return dot
  if kernel == 'polynomial':
    return lambda x, y: dot(x, y)**2

  def square(x, y):
    length = lambda x: jnp.sum(x * x, axis=1)
    return jnp.maximum(0, length(x)[:, :, None] + length(y)[:, None]
                       - 2 * dot(x, y))
  v = jax.lax.stop_gradient(jnp.mean(square(s, t), (1, 2), keepdims=True))
  # Lengths are one: below this all channels are equal, up to rounding.
  v = jnp.where(v < 1e-5, 1, v)
  return lambda x, y: jnp.exp(-square(x, y) / (2 * v))
