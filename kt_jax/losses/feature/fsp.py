"""Flow of the solution procedure."""
import jax
from jax import numpy as jnp

from kt_jax.losses.feature._layers import add_layers
from kt_jax.losses.feature._layers import matched_layers
from kt_jax.losses.feature._resize import common_grid


def fsp(
    student_features: list[jax.Array],
    teacher_features: list[jax.Array],
) -> jax.Array:
  r"""Difference of the Gram matrices between each layer and the next.

    sum_l ||G_l^s - G_l^t||_F^2,
    G_l = 1/(H W) sum_hw x_l[h, w] x_{l+1}[h, w]^T,  a matrix [C_l, C_{l+1}].

  Args:
    student_features: list of at least two maps `[B, H, W, C]`, in order. Each
      and the next make a pair, pooled to the smaller grid of the two.
    teacher_features: the same of the teacher, layer by layer with the student's
      C (H and W are free); no gradient is stopped here.

  Returns:
    `[B]` losses, at least float32, in units of the activations to the fourth.

  Departures: the paper's weights lambda_l, equal there, are one. The public
  code takes the mean over the entries of G where the paper has the sum.

  References: yim2017fsp, Eqs. 1 and 2.
  """
  layers = matched_layers('fsp', student_features, teacher_features, least=4,
                          grid=False)
  if len(layers) < 2:
    raise ValueError('fsp: student_features and teacher_features must be lists '
                     f'of at least 2 layers, got {len(layers)}.')
  for i, maps in enumerate(layers):
    if maps[0].ndim != 4:
      raise ValueError(f'fsp: layer {i} has shape {maps[0].shape}; maps are '
                       '[B, H, W, C].')
  return add_layers(
      jnp.sum((_flow(s, s_next) - _flow(t, t_next))**2, axis=(1, 2))
      for (s, t), (s_next, t_next) in zip(layers, layers[1:]))


def _flow(x, y):
  """`[B, C, D]` of maps with C and D channels."""
  x, y = common_grid(x, y)
  return jnp.einsum('bhwc,bhwd->bcd', x, y, precision='highest') / (
      x.shape[1] * x.shape[2])
