"""Magnitudes between which a trim keeps the entries of a delta."""
from typing import Any

import jax
from jax import numpy as jnp
import numpy as np

from kt_jax import core
from kt_jax.merge import _select
from kt_jax.merge.contract import Choice

_EMPTY = (np.inf, -1)  # bounds between which there is no magnitude


def magnitude_bounds(
    base: jax.Array,
    models: jax.Array,
    weight: jax.Array | None = None,
    *,
    density: Any = 1.0,
    gamma: Any = 0.0,
    **settings,
) -> jax.Array:
  """Smallest and largest magnitude of each delta that a trim keeps.

  Of n entries max(1, int(density n)) stay (0 at density 0): the largest after
  the min(int(gamma n), what is left) largest of all are dropped. Entries that
  tie with a bound stay too.

  Args:
    base: `[...]` leaf of the base model.
    models: `[T, ...]` the same leaf of T models.
    weight: not used.
    density: share of the entries kept, a number or `[T]`.
    gamma: share of the largest dropped first, a number or `[T]`.
    **settings: not used.

  Returns:
    `[T, 2]` in the dtype of the deltas: at least float32. Exact; `[0, inf]` at
    density 1, so that NaN stays too.
  """
  del weight, settings
  deltas = jnp.abs(core.to_float(models) - core.to_float(base))
  low, high = bounds(deltas, per_model('density', density, len(models)),
                     per_model('gamma', gamma, len(models)),
                     tuple(range(1, models.ndim)))
  return jnp.stack([low.reshape(-1), high.reshape(-1)], axis=1)


def bounds_measure(density: float, gamma: float = 0.0) -> Choice:
  """`magnitude_bounds` as a measure, with the defaults of an operator."""
  defaults = dict(density=density, gamma=gamma)
  return Choice(
      lambda base, models, weight=None, **settings: magnitude_bounds(
          base, models, weight, **defaults | settings),
      _entries,
      lambda rows, **settings: choose(rows, **defaults | settings))


def choose(rows: _select.Rows, *, density: Any = 1.0, gamma: Any = 0.0,
           **settings) -> np.ndarray:
  """`magnitude_bounds` from the magnitudes of T models, on the host."""
  del settings
  share = per_model('density', density, rows.count)
  keep, drop = _counts(rows.size, share,
                       per_model('gamma', gamma, rows.count))
  # Only bounds that have an effect are searched.
  ranks = {(0, t): (t, int(keep[t] + drop[t])) for t in range(rows.count)
           if 0 < share[t] < 1} | {
               (1, t): (t, int(drop[t] + 1)) for t in range(rows.count)
               if drop[t]}
  low, high = chosen = np.zeros((2, rows.count), np.float32)
  if ranks:
    chosen[tuple(zip(*ranks))] = _select.kth_largest_host(
        rows, list(ranks.values()))
  return np.stack(_clamp(np, low, high, keep, drop, share), axis=1).astype(
      np.float32)


def bounds(deltas: jax.Array, density, gamma,
           axes: tuple[int, ...]) -> tuple[jax.Array, jax.Array]:
  """Lower and upper bound of `deltas [T, ...]` over axes, which become 1."""
  size = int(np.prod([deltas.shape[axis] for axis in axes]))
  keep, drop = _counts(size, density, gamma)
  column = lambda x: x.reshape((-1,) + (1,) * (deltas.ndim - 1))
  concrete = not any(isinstance(x, jax.core.Tracer) for x in (keep, drop))
  low = high = jnp.zeros(
      [1 if axis in axes else n for axis, n in enumerate(deltas.shape)],
      jnp.promote_types(deltas.dtype, jnp.float32))
  # Only bounds that have an effect are searched.
  if not (concrete and np.all((density >= 1) | (density <= 0))):
    low = _select.kth_largest(deltas, column(keep + drop), axes)
  if not (concrete and np.all(drop == 0)):
    high = _select.kth_largest(deltas, column(drop + 1), axes)
  return _clamp(jnp, low, high, column(keep), column(drop), column(density))


def per_model(name: str, value: Any, count: int):
  """A share in [0, 1] for each of `count` models; numpy unless traced.

  Raises:
    UserError: another shape, or outside [0, 1]; traced values pass.
  """
  traced = isinstance(value, jax.core.Tracer) or (
      isinstance(value, (list, tuple))
      and any(isinstance(v, jax.core.Tracer) for v in value))
  value = jnp.asarray(value) if traced else np.asarray(value)
  if value.shape not in ((), (count,)):
    raise core.UserError(f'{name} must be one number or one for each of {count}'
                         f' models, got shape {value.shape}.')
  if not traced and not np.all((value >= 0) & (value <= 1)):
    raise core.UserError(f'{name} must be in [0, 1], got {value.tolist()}.')
  return (jnp if traced else np).broadcast_to(value, (count,))


def _counts(size: int, density, gamma):
  """Numbers of entries that stay, and of the largest that are dropped."""
  xp = jnp if any(isinstance(x, jax.core.Tracer) for x in (density, gamma)
                  ) else np
  count = lambda share: xp.floor(share * size).astype(
      np.int64 if xp is np else jnp.uint32)
  keep = xp.where(density > 0, xp.maximum(count(density), 1), 0)
  keep = xp.minimum(keep, size)
  return keep, xp.minimum(count(gamma), size - keep)


def _clamp(xp, low, high, keep, drop, density):
  """The bounds, open at density 0 and 1 and where gamma drops no entry."""
  high = xp.where(drop == 0, np.inf, high)
  low = xp.where(density >= 1, 0, low)
  empty = keep == 0
  return xp.where(empty, _EMPTY[0], low), xp.where(empty, _EMPTY[1], high)


def _entries(base, models, weight=None, **settings):
  """Magnitudes of the deltas as T arrays, faster in XLA than as one array."""
  del weight, settings
  return [jnp.abs(core.to_float(model) - core.to_float(base))
          for model in models]
