"""Reorders the units of a network."""
from collections.abc import Mapping
from typing import Any

import jax
from jax import numpy as jnp
import numpy as np

from kt_jax import core
from kt_jax.align import spec as specs


def permute(params: Any, spec: specs.Spec,
            permutations: Mapping[str, np.ndarray]) -> Any:
  """Parameters in another order of units; the network computes the same.

    new[..., j, ...] = old[..., p[j], ...]   on every axis of the group

  Args:
    params: pytree; BatchNorm's statistics are leaves like the others, permute
      them too (`params | stats`).
    spec: path of every leaf -> an entry for each axis.
    permutations: name of each group -> `[units]` int: the old unit at each new
      position. All groups of `params`; others are ignored.

  Returns:
    The pytree, its entries bit for bit.

  Raises:
    UserError: the spec does not fit, or the entry of a group is missing or not
      a permutation.
  """
  sizes = specs.check_spec(params, spec)
  for name, size in sizes.items():
    if name not in permutations:
      raise core.UserError(f'permutations lack group {name!r}.')
    order = np.asarray(permutations[name])
    if order.shape != (size,) or not np.array_equal(
        np.sort(order), np.arange(size)):
      raise core.UserError(f'permutations: {name!r} must have each of 0 to '
                           f'{size - 1} once.')

  def leaf(path, x):
    path = core.path_str(path)
    for part in specs.parts(path, spec[path], jnp.shape(x)):
      order = np.asarray(permutations[part.name])
      x = specs.fold(specs.unfold(x, part).take(order, axis=part.axis + 1),
                     part)
    return x
  return jax.tree_util.tree_map_with_path(leaf, params)
