"""Bounds of a trim over a whole model, as in the TIES paper."""
from collections.abc import Callable, Iterable
from typing import Any

from jax import numpy as jnp
import numpy as np

from kt_jax import core
from kt_jax.merge import _bounds
from kt_jax.merge import _select


def whole_model_bounds(
    leaves: Iterable | Callable[[], Iterable],
    density: Any,
    gamma: Any = 0.0,
) -> np.ndarray:
  """Smallest and largest magnitude that a trim of all leaves at once keeps.

  Of the n entries of a model max(1, int(density n)) stay, after the int(gamma
  n) largest are dropped, as `ties` and `breadcrumbs` do it in each leaf. On the
  host, in three passes over the leaves, or over chunks of them: only the chunk
  that is read is in memory.

  Args:
    leaves: pairs of a base chunk `[...]` and models `[T, ...]` (or T arrays);
      a list, or a function that starts an iteration over them. Chunks that are
      not floating are left out.
    density: share of the model's entries kept, a number or `[T]`.
    gamma: share of the largest dropped first, a number or `[T]`.

  Returns:
    `[T, 2]` float32, the `threshold` of `ties` for every leaf; exact for deltas
    in float32.

  Raises:
    UserError: no floating leaf, or a share outside [0, 1].
  """
  start = leaves if callable(leaves) else list(leaves).__iter__

  def floating():
    for base, models in start():
      if jnp.issubdtype(base.dtype, jnp.floating):
        yield np.ravel(base).astype(np.float32), models

  def read():
    for base, models in floating():
      yield np.abs(np.stack([np.ravel(m).astype(np.float32) - base
                             for m in models]))

  count, size = 0, 0
  for base, models in floating():
    count, size = len(models), size + base.size
  if not size:
    raise core.UserError('whole_model_bounds: no floating entries.')
  return _bounds.choose(_select.Rows(count, size, read), density=density,
                        gamma=gamma)
