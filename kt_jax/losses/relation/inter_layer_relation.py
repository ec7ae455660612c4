"""Structured knowledge transfer: relations between layers."""
import itertools

import jax
from jax import numpy as jnp

from kt_jax import core
from kt_jax.losses.feature._layers import add_layers
from kt_jax.losses.feature._layers import zip_layers

_FN = 'inter_layer_relation'


def inter_layer_relation(
    student_features: list[jax.Array],
    teacher_features: list[jax.Array],
    *,
    eps: float = 1e-5,
) -> jax.Array:
  r"""Correlations over positions between the channels of every two layers.

    sum_{l < m} |G^s_lm - G^t_lm|^2,   G_lm = F_l^T F_m / (h w),

  F_l the map of layer l, one position per row, each channel at mean 0 and
  variance 1 over positions: G_lm are Pearson correlations, which a positive
  scale and a shift of a channel leave unchanged (up to `eps`).

  Args:
    student_features: list of two or more `[B, H, W, C_l]`. Maps larger than the
      smallest are max-pooled to it, by whole factors.
    teacher_features: as many maps, of the same C_l (else project the student:
      `modules.Projector`); no gradient is stopped here.
    eps: >= 0, added to the variance.

  Returns:
    `[B]` losses, at least float32, without unit, 0 at equality: sums over the
    entries of G and over pairs of layers, they grow with C_l C_m.

  Departures: the public code reads the first image of a batch only; the paper
  has one image per batch: this is its loss.

  References: liu2020skt, Sec. 3.
  """
  if not isinstance(eps, jax.core.Tracer) and not eps >= 0:
    raise core.UserError(f'{_FN}: eps must be >= 0, got {eps}.')
  layers = zip_layers(_FN, student_features, teacher_features)
  if len(layers) < 2:
    raise ValueError(f'{_FN}: needs two or more layers, got {len(layers)}.')
  for s, t in layers:
    if (s.ndim != 4 or t.ndim != 4 or s.shape[0] != t.shape[0]
        or s.shape[-1] != t.shape[-1]):
      raise ValueError(
          f'{_FN}: student_features has shape {s.shape}, teacher_features '
          f'{t.shape}; they must be [B, H, W, C] and agree in B and C.')
  students, teachers = (_standard(maps, eps) for maps in zip(*layers))

  def cost(i, j):
    gap = _gram(students[i], students[j]) - _gram(teachers[i], teachers[j])
    return jnp.sum(jnp.square(gap), axis=(1, 2))

  return add_layers(cost(i, j) for i, j in itertools.combinations(
      range(len(layers)), 2))


def _standard(maps, eps):
  """`[B, C, P]` channels over the positions of the smallest map."""
  h, w = (min(x.shape[axis] for x in maps) for axis in (1, 2))
  out = []
  for x in maps:
    b, x_h, x_w, c = x.shape
    if x_h % h or x_w % w:
      raise ValueError(f'{_FN}: a map of shape {x.shape} cannot be pooled to '
                       f'{h}x{w} by whole factors.')
    x = core.to_float(x).reshape(b, h, x_h // h, w, x_w // w, c)
    x = jnp.max(x, axis=(2, 4)).reshape(b, h * w, c)
    # Differences from one position first: a constant channel is exactly 0.
    x = x - jax.lax.stop_gradient(x[:, :1])
    x = x - jnp.mean(x, axis=1, keepdims=True)
    variance = jnp.mean(jnp.square(x), axis=1, keepdims=True) + eps
    flat = variance == 0
    x = jnp.where(flat, 0, x / jnp.sqrt(jnp.where(flat, 1, variance)))
    out.append(jnp.swapaxes(x, 1, 2))
  return out


def _gram(x, y):
  return core.dot(x, y) / x.shape[-1]
