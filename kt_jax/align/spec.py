"""Specs of units: parsing, checks, and views of leaves by unit."""
from collections.abc import Mapping
import math
from typing import Any, NamedTuple

import jax
from jax import numpy as jnp
import numpy as np

from kt_jax import core

Entry = None | str | tuple[str | int, ...]
Spec = Mapping[str, tuple[Entry, ...]]


def check_spec(params: Any, spec: Spec) -> dict[str, int]:
  """Sizes of the groups; refuses a spec that does not fit.

  Args:
    params: pytree.
    spec: path of every leaf -> an entry for each axis (see `kt_jax.align`).

  Returns:
    Name of each group that `params` has -> its size, in the order of the spec.

  Raises:
    UserError: a leaf is not in the spec or has another number of axes, an entry
      is malformed, an axis is not a multiple of its entry's sizes, or leaves
      disagree on the size of a group.
  """
  leaves = core.flatten(params)
  for path in leaves:
    if path not in spec:
      raise core.UserError(core.nearest('entry in the spec for leaf', path,
                                        spec))
  sizes: dict[str, tuple[int, str]] = {}
  for path in (path for path in spec if path in leaves):
    for part in parts(path, spec[path], jnp.shape(leaves[path])):
      size, first = sizes.setdefault(part.name, (part.size, path))
      if size != part.size:
        raise core.UserError(
            f'spec: group {part.name!r} has {size} units in {first!r}, but '
            f'{part.size} in axis {part.axis} of {path!r} '
            f'{jnp.shape(leaves[path])}.')
  return {name: size for name, (size, _) in sizes.items()}


class Part(NamedTuple):
  """The axis of a group in a leaf, as [before, size, after]."""
  name: str
  axis: int
  before: int
  size: int
  after: int


def parts(path: str, entries, shape: tuple[int, ...]) -> list[Part]:
  """The groups of a leaf.

  Raises:
    UserError: see `check_spec`.
  """
  if isinstance(entries, str) or len(entries) != len(shape):
    raise core.UserError(f'spec: {path!r} has {len(shape)} axes {shape}, its '
                         f'entry is {entries!r}; one for each axis is needed.')
  result = []
  for axis, entry in enumerate(entries):
    if entry is None:
      continue
    name, before, after = _factors(path, entry)
    if not shape[axis] or shape[axis] % (before * after):
      raise core.UserError(f'spec: axis {axis} of {path!r} {shape} is not a '
                           f'multiple of {before * after}, as in {entry!r}.')
    if name is not None:
      size = shape[axis] // (before * after)
      result.append(Part(name, axis, before, size, after))
  return result


def _factors(path: str, entry) -> tuple[str | None, int, int]:
  factors = (entry,) if isinstance(entry, str) else tuple(entry)
  names = [f for f in factors if isinstance(f, str)]
  sizes = [f for f in factors if not isinstance(f, str)]
  if len(names) > 1 or not all(
      isinstance(f, (int, np.integer)) and f > 0 for f in sizes):
    raise core.UserError(f'spec: {path!r} has the entry {entry!r}; it must be '
                         'None, a name, or a tuple of sizes and one name.')
  if not names:
    return None, 1, 1
  at = factors.index(names[0])
  return names[0], math.prod(sizes[:at]), math.prod(sizes[at:])


def unfold(x, part: Part):
  """`x` with the part's axis as three; the middle one has the units."""
  shape = x.shape
  return x.reshape(*shape[:part.axis], part.before, -1, part.after,
                   *shape[part.axis + 1:])


def fold(x, part: Part):
  """The inverse of `unfold`, with any size of the middle axis."""
  shape, at = x.shape, part.axis
  return x.reshape(*shape[:at], -1, *shape[at + 3:])


def units(x: np.ndarray, part: Part) -> np.ndarray:
  """`[units, rest]`: the part's units as rows."""
  rows = np.moveaxis(unfold(x, part), part.axis + 1, 0)
  return rows.reshape(len(rows), -1)


def host(params: Any) -> dict[str, np.ndarray]:
  """Path -> leaf on the host, in float64 if floating."""
  leaves = {}
  for path, leaf in core.flatten(params).items():
    floating = jnp.issubdtype(jnp.result_type(leaf), jnp.floating)
    leaf = np.asarray(jax.device_get(leaf))
    leaves[path] = leaf.astype(np.float64) if floating else leaf
  return leaves


def check_names(argument: str, names, groups) -> None:
  """Refuses names that are not exactly the groups of the spec."""
  for name in names:
    if name not in groups:
      raise core.UserError(core.nearest(f'group of the spec for {argument}',
                                        name, groups))
  for name in groups:
    if name not in names:
      raise core.UserError(f'{argument} lacks group {name!r}.')


def group_names(spec: Spec) -> dict[str, Entry]:
  """Name of each group -> the entry of the leaf that outputs its units.

  That is the first leaf with the group on its last axis, else the first of all.
  """
  outputs, inputs = {}, {}
  for path, entries in spec.items():
    for number, entry in enumerate(entries):
      if entry is not None:
        name = _factors(path, entry)[0]
        last = number == len(entries) - 1
        (outputs if last else inputs).setdefault(name, entry)
  return {name: entry for name, entry in (inputs | outputs).items()
          if name is not None}


def feature_units(name: str, entry: Entry, features) -> np.ndarray:
  """Activations `[..., units]` of a group -> `[units, samples]` in float64."""
  x = np.asarray(jax.device_get(features)).astype(np.float64)
  if x.ndim < 2 or not x.size:
    raise core.UserError(f'features of group {name!r} must be [N, ..., units], '
                         f'got shape {x.shape}.')
  blank = (None,) * (x.ndim - 1)
  part, = parts(f'features of {name}', (*blank, entry), x.shape)
  return units(x, part)
