"""Knowledge review."""
from collections.abc import Sequence

import jax
from jax import numpy as jnp

from kt_jax import core
from kt_jax.losses.feature._layers import add_layers
from kt_jax.losses.feature._layers import matched_layers
from kt_jax.losses.feature._resize import adaptive_pool


def review_kd(
    student_features: jax.Array | list[jax.Array],
    teacher_features: jax.Array | list[jax.Array],
    *,
    levels: Sequence[int] = (4, 2, 1),
) -> jax.Array:
  r"""Hierarchical context loss: squared differences at several resolutions.

    sum_l sum_k 2^-k mean_i (P_k s_l - P_k t_l)_i^2 / sum_k 2^-k,

  `P_0` the map itself and `P_k` its mean over a grid of levels[k-1] squared;
  levels not smaller than the map's smaller side are left out and not counted.

  Args:
    student_features: `[B, H, W, C]`, or a list of layers, from
      `modules.ReviewFusion`. Layers without a grid (`[B, D]`, `[B, N, C]`) have
      only the first level.
    teacher_features: the same of the teacher; no gradient is stopped here.
      Maps that differ in H or W are pooled to the smaller grid.
    levels: sides of the coarser grids, all at least 1.

  Returns:
    `[B]` losses, at least float32, in squared units of the activations.

  Departures: the weights 2^-k are those of the authors' code; the paper gives
  them in words.

  References: chen2021review, Sec. 3, hierarchical context loss.
  """
  if any(level != int(level) or level < 1 for level in levels):
    raise core.UserError('review_kd: levels must be whole numbers of at least '
                         f'1, got {tuple(levels)}.')

  def cost(s, t):
    axes = tuple(range(1, s.ndim))
    side = min(s.shape[1:3]) if s.ndim == 4 else 0
    total, weight, weights = jnp.mean((s - t)**2, axes), 1.0, 1.0
    for level in levels:
      if level < side:
        weight /= 2
        weights += weight
        gap = adaptive_pool(s - t, level, level)
        total += weight * jnp.mean(gap**2, axes)
    return total / weights

  layers = matched_layers('review_kd', student_features, teacher_features)
  return add_layers(cost(s, t) for s, t in layers)
