"""What an operator that runs on chunks must know of the whole leaf."""
from collections.abc import Callable, Iterable
from typing import Any

import jax
from jax import numpy as jnp
import numpy as np

from kt_jax import core
from kt_jax.merge import select

_NOTHING = (np.inf, -1)  # bounds between which there is no magnitude


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

  Of n entries the int(gamma n) largest go, fewer if otherwise less than
  `density` would stay; of the rest the max(1, int(density n)) largest stay (0
  at density 0). Entries that tie with a bound stay in as well.

  Args:
    base: `[...]` leaf of the base model.
    models: `[T, ...]` the same leaf of T models.
    weight: not read.
    density: share of the entries kept, one or `[T]`.
    gamma: share of the largest dropped first, one or `[T]`.
    **settings: not read.

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


def bounds_unless(density: float, gamma: float = 0.0) -> Callable:
  """`magnitude_bounds` with the defaults of an operator.

  The measure has the two parts of one that chooses from all entries:
  `entries(base, models, weight, **settings)`, T arrays, and, on the host,
  `choose(rows, **settings) -> [T, 2]`, with the same result.
  """
  defaults = dict(density=density, gamma=gamma)

  def measure(base, models, weight=None, **settings):
    return magnitude_bounds(base, models, weight, **defaults | settings)

  measure.entries = _entries
  measure.choose = lambda rows, **settings: choose(rows, **defaults | settings)
  return measure


def choose(rows: select.Rows, *, density: Any = 1.0, gamma: Any = 0.0,
           **settings) -> np.ndarray:
  """`magnitude_bounds` from the magnitudes of T models, on the host."""
  del settings
  share = per_model('density', density, rows.count)
  keep, drop = _counts(rows.size, share,
                       per_model('gamma', gamma, rows.count))
  # What is known not to matter is not searched.
  wanted = {(0, t): (t, int(keep[t] + drop[t])) for t in range(rows.count)
            if 0 < share[t] < 1} | {
                (1, t): (t, int(drop[t] + 1)) for t in range(rows.count)
                if drop[t]}
  found = np.zeros((2, rows.count), np.float32)
  if wanted:
    found[tuple(zip(*wanted))] = select.kth_largest_host(
        rows, list(wanted.values()))
  return np.stack(_clamp(np, *found, keep, drop, share), axis=1).astype(
      np.float32)


def measures_of(op: Callable[..., jax.Array],
                settings: dict[str, Any]) -> dict[str, Callable] | None:
  """What `op` must be told of a leaf that it reads in chunks.

  Returns:
    Name of its array parameter -> measure; `{}` if chunks are enough; None if
    it needs whole leaves, at all or under these settings (`op.whole`).
  """
  whole = getattr(op, 'whole', None)
  if not hasattr(op, 'measures') or whole is not None and whole(**settings):
    return None
  return op.measures


def whole_model_bounds(
    leaves: Iterable | Callable[[], Iterable],
    density: Any,
    gamma: Any = 0.0,
) -> np.ndarray:
  """`magnitude_bounds` over all leaves of a model at once, on the host.

  Three passes over the leaves, or over chunks of them: no more than the chunk
  that is read is in memory.

  Args:
    leaves: pairs of a base chunk `[...]` and models `[T, ...]` (or T arrays);
      a list, or a function that starts an iteration over them. Chunks that are
      not floating are left out.
    density: share of the model's entries kept, one or `[T]`.
    gamma: share of the largest dropped first, one or `[T]`.

  Returns:
    `[T, 2]` float32, the `threshold` of `ties` for every leaf; exact for deltas
    in float32.

  Raises:
    UserError: no floating leaf, or a share outside [0, 1].
  """
  if not callable(leaves):
    leaves = list(leaves).__iter__

  def floating():
    for base, models in leaves():
      if jnp.issubdtype(base.dtype, jnp.floating):
        yield np.ravel(base).astype(np.float32), models

  def read():
    for base, models in floating():
      yield np.abs(np.stack([np.ravel(m).astype(np.float32) - base
                             for m in models]))

  counts, size = 0, 0
  for base, models in floating():
    counts, size = len(models), size + base.size
  if not size:
    raise core.UserError('whole_model_bounds: no floating entries.')
  return choose(select.Rows(counts, size, read), density=density, gamma=gamma)


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
  # What is known not to matter is not searched.
  if not (concrete and np.all((density >= 1) | (density <= 0))):
    low = select.kth_largest(deltas, column(keep + drop), axes)
  if not (concrete and np.all(drop == 0)):
    high = select.kth_largest(deltas, column(drop + 1), axes)
  return _clamp(jnp, low, high, *map(column, (keep, drop, density)))


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
  """How many of `size` entries stay, and how many of the largest go."""
  xp = jnp if any(isinstance(x, jax.core.Tracer) for x in (density, gamma)
                  ) else np
  whole = lambda share: xp.floor(share * size).astype(
      np.int64 if xp is np else jnp.uint32)
  keep = xp.where(density > 0, xp.maximum(whole(density), 1), 0)
  keep = xp.minimum(keep, size)
  return keep, xp.minimum(whole(gamma), size - keep)


def _clamp(xp, low, high, keep, drop, density):
  """Bounds that hold at density 0 and 1 and where nothing large goes."""
  high = xp.where(drop == 0, np.inf, high)
  low = xp.where(density >= 1, 0, low)
  empty = keep == 0
  return (xp.where(empty, _NOTHING[0], low), xp.where(empty, _NOTHING[1], high))


def _entries(base, models, weight=None, **settings):
  """T arrays, magnitudes of the deltas; of one array XLA makes slower loops."""
  del weight, settings
  return [jnp.abs(core.to_float(model) - core.to_float(base))
          for model in models]
