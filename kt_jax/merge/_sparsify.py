"""Masks of the delta entries that stay, and their rescaling."""
from collections.abc import Sequence

import jax
from jax import numpy as jnp

from kt_jax import core
from kt_jax.merge import _bounds
from kt_jax.merge import _draw


def by_magnitude(deltas: Sequence[jax.Array], density, gamma,
                 threshold: jax.Array | None = None,
                 axis: int | None = None) -> list[jax.Array]:
  """Masks of entries between two magnitudes; NaN stays, and shows.

  Args:
    deltas: T arrays `[...]`.
    density, gamma: `[T]` shares, as in `magnitude_bounds`.
    threshold: `[T, 2]` bounds; measured here if None.
    axis: each row along this axis has bounds of its own; None for the leaf.
      A leaf with fewer than two axes is one row.

  Returns:
    T masks `[...]`.
  """
  if threshold is None:
    stack = jnp.stack(deltas)
    axes = tuple(n + 1 for n in _axes(axis, stack.ndim - 1))
    low, high = _bounds.bounds(stack, density, gamma, axes)
  else:
    if axis is not None or threshold.shape != (len(deltas), 2):
      raise core.UserError(
          f'threshold must be ({len(deltas)}, 2), bounds of whole leaves, got '
          f'shape {threshold.shape} and axis {axis}.')
    low, high = threshold[:, 0], threshold[:, 1]
  return [~(jnp.abs(d) < low[t]) & ~(jnp.abs(d) > high[t])
          for t, d in enumerate(deltas)]


def at_random(key: jax.Array, deltas: Sequence[jax.Array],
              density: Sequence[jax.Array]) -> list[jax.Array]:
  """T masks that keep an entry with probability `density[t]`.

  Args:
    key: the leaf's, or `_draw.at_block`'s.
    deltas: T arrays `[...]`, for their shape.
    density: T probabilities, numbers or `[...]`.
  """
  return [_draw.uniform(key, delta.shape, t) < density[t]
          for t, delta in enumerate(deltas)]


def rank_probability(delta: jax.Array, density, epsilon,
                     axis: int | None) -> jax.Array:
  """Probabilities that rise with the rank of the magnitude in a row.

  From `density - epsilon` for the smallest to `density + epsilon` for the
  largest, linear in the rank; a row of one entry has `density`. At density 0
  and 1 epsilon has no effect. Ties rank in their order.
  """
  axes = _axes(axis, delta.ndim)
  rows, along = (delta, axes[0]) if len(axes) == 1 else (delta.reshape(-1), 0)
  # Bits rise with magnitudes, and integers sort faster than floats.
  size = jax.lax.bitcast_convert_type(jnp.abs(core.to_float(rows)),
                                      f'int{8 * rows.dtype.itemsize}')
  rank = jnp.argsort(jnp.argsort(size, along), along).reshape(delta.shape)
  last = rows.shape[along] - 1
  share = rank / last if last else jnp.full(delta.shape, 0.5)
  share = share.astype(core.to_float(delta).dtype)
  probability = density - epsilon + share * (2 * epsilon)
  return jnp.where((density <= 0) | (density >= 1), density, probability)


def rescaled(masks: Sequence[jax.Array], deltas: Sequence[jax.Array],
             probability: Sequence[jax.Array], how: str) -> list[jax.Array]:
  """Factors of the deltas: the masks times the rescaling.

  Args:
    masks: T masks `[...]`.
    deltas: T arrays `[...]`.
    probability: T probabilities of keeping an entry, numbers or `[...]`.
    how: 'none'; 'inverse' divides by the probability; 'l1' restores the L1
      norm that each delta had over the leaf.

  Returns:
    T arrays `[...]`.
  """
  factors = []
  for mask, delta, p in zip(masks, deltas, probability):
    gain = 1.0
    if how == 'inverse':
      gain = 1 / jnp.where(jnp.asarray(p) > 0, p, 1)
    elif how == 'l1':
      size = jnp.abs(delta)
      total, rest = jnp.sum(size), jnp.sum(jnp.where(mask, size, 0))
      shrunk = (rest > 0) & (rest < total)
      gain = jnp.where(shrunk, total / jnp.where(shrunk, rest, 1), 1)
    factors.append(jnp.where(mask, jnp.asarray(gain, delta.dtype), 0))
  return factors


def _axes(axis: int | None, ndim: int) -> tuple[int, ...]:
  """The axes of a leaf over which one row extends."""
  if axis is None or ndim < 2:
    return tuple(range(ndim))
  if not -ndim <= axis < ndim:
    raise core.UserError(f'axis must be in [{-ndim}, {ndim}) for a leaf of '
                         f'{ndim} axes, got {axis}.')
  return (axis % ndim,)
