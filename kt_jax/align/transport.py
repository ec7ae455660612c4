"""Transport of a network's weights to the units of another."""
from collections.abc import Mapping
from typing import Any

import jax
from jax import numpy as jnp
import numpy as np

from kt_jax import core
from kt_jax.align import spec as specs

_INCOMING = ('columns', 'rows')


def transport(params: Any, spec: specs.Spec, maps: Mapping[str, np.ndarray], *,
              incoming: str = 'columns') -> Any:
  """A's parameters in terms of B's units, at B's widths.

    new[..., j, ...] = sum_i old[..., i, ...] T[i, j]   on every axis

  Args:
    params: pytree of A; BatchNorm's statistics too, although those are better
      re-estimated (`models.reestimate_statistics`).
    spec: path of every leaf -> an entry for each axis.
    maps: name of each group -> `[units of A, units of B]`, columns of sum 1.
      All groups of `params`; others are ignored.
    incoming: the sums that are 1 on inputs, which are all axes of a leaf but
      the last. 'columns': the paper's. 'rows': the total contribution of each
      unit of A is that in A, which keeps the network's outputs where B's units
      are copies of A's. At equal widths exact maps are permutations, and both
      agree.

  Returns:
    The pytree, each leaf in its dtype; arithmetic in float64. Leaves that are
    not floating and have no group are kept.

  Raises:
    UserError: the spec does not fit, a group has no map, or a map has other
      sizes or an entry that is not finite.

  References: singh2019otfusion, Sec. 4.
  """
  sizes = specs.check_spec(params, spec)
  check_incoming(incoming)
  for name, size in sizes.items():
    if name not in maps:
      raise core.UserError(f'maps lack group {name!r}.')
    shape = np.shape(maps[name])
    if len(shape) != 2 or shape[0] != size or not np.isfinite(
        maps[name]).all():
      raise core.UserError(f'maps: {name!r} must be [{size}, units of B] and '
                           f'finite, got shape {shape}.')

  def leaf(path, x):
    path = core.path_str(path)
    if all(entry is None for entry in spec[path]):
      return x
    old = np.asarray(jax.device_get(x))
    new = carry(path, old.astype(np.float64), spec, maps, incoming)
    new = new.astype(old.dtype)
    return jnp.asarray(new) if isinstance(x, jax.Array) else new
  return jax.tree_util.tree_map_with_path(leaf, params)


def check_incoming(incoming: str) -> None:
  if incoming not in _INCOMING:
    raise core.UserError(core.nearest('kind of incoming', incoming, _INCOMING))


def carry(path, x: np.ndarray, spec, maps, incoming: str, but=None):
  """A leaf through the maps of all its groups except that of `but`."""
  for part in specs.parts(path, spec[path], x.shape):
    if part == but:
      continue
    plan = np.asarray(maps[part.name], np.float64)
    if incoming == 'rows' and part.axis < x.ndim - 1:
      plan = plan / plan.sum(1, keepdims=True)
    moved = np.tensordot(specs.unfold(x, part), plan, (part.axis + 1, 0))
    x = specs.fold(np.moveaxis(moved, -1, part.axis + 1), part)
  return x
