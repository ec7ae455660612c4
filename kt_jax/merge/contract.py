"""The contract of leaf operators: what the functions that lift them may do.

A leaf operator is a function

  op(base [...], models [T, ...], weight [T], *arrays, **settings) -> [...]

of one leaf of a base model and of T models. `over_tree` always calls it on
whole leaves. `over_stream` merges checkpoints larger than memory and would
rather call it on flat chunks of a leaf, which is right only if the operator
needs nothing else of the leaf. An operator states here what it needs; trees,
streams and the command line read it here and nowhere else. There are four
needs:

1. Other entries. An operator that declares nothing is called on whole leaves,
   which is always right and needs the most memory. `entrywise=True` promises
   that each entry of the result depends on the same entry of `base` and of
   `models`, on `weight` and the settings, and on the needs 2 and 4. Where that
   holds under some settings only, `entrywise` is a function of the settings.
   A chunk is flat, of any size, and the last one is padded with zeros.

2. Numbers of the whole leaf, such as a norm or the threshold of a trim: its
   `measures`. Each is named after an array parameter of the operator. Where
   that is None, as in trees, the operator measures the leaf itself; before
   chunks, the stream takes the measures in passes of their own.

3. Settings as Python numbers. Fractions and arrays among the settings are
   traced, so that one compiled program serves all their values. Settings on
   which shapes or ranks depend, and shares that are counted in float64, are
   `static`. On chunks only measures need them: if an operator has measures, its
   own static settings are traced there.

4. Random numbers. An operator with a parameter `key` draws; nothing else is
   declared. It is given a key folded with the leaf's path, and on chunks one
   with which `_draw.uniform` draws what the whole leaf draws there.

    def clip_update(base, models, weight, norm=None, *, limit=1.0):
      ...
    declare(clip_update, entrywise=True, measures={'norm': Measure(squares)})

`tests/merge_contract_test.py` runs all operators whole and in chunks: an
operator that has an undeclared need fails there.
"""
from collections.abc import Callable, Mapping
import dataclasses
import inspect
from typing import Any

import jax
import numpy as np

from kt_jax import core

LeafOp = Callable[..., jax.Array]
_ATTRIBUTE = 'contract'  # of an operator


@dataclasses.dataclass(frozen=True)
class Measure:
  """An array that an operator on chunks needs of the whole leaf: a sum.

  The values of chunks add up to that of the leaf.

  Attributes:
    of_leaf: `(base, models, weight, **settings)` -> array. A parameter with the
      name of an earlier measure of the operator gets the value of that.
  """
  of_leaf: Callable[..., jax.Array]


@dataclasses.dataclass(frozen=True)
class Choice(Measure):
  """A measure that is chosen from all entries, such as the k-th largest.

  Attributes:
    entries: with the arguments of `of_leaf`, the values of one chunk to choose
      from, a list of arrays `[...]`.
    choose: `(rows, **settings)` -> array: `of_leaf` on the host, from the
      `_select.Rows` of those values.
  """
  entries: Callable[..., list[jax.Array]]
  choose: Callable[..., np.ndarray]


@dataclasses.dataclass(frozen=True)
class Contract:
  """What an operator declares; see the module's docstring.

  Attributes:
    entrywise: whether chunks of a leaf will do, or a function that tells so
      from the settings, given as keywords.
    measures: name of an array parameter -> measure, in the order in which they
      are taken.
    static: names of settings that are not traced.
  """
  entrywise: bool | Callable[..., bool] = False
  measures: Mapping[str, Measure] = dataclasses.field(default_factory=dict)
  static: tuple[str, ...] = ()

  def chunk_measures(self, settings: Mapping[str, Any]
                     ) -> Mapping[str, Measure] | None:
    """The measures to take before chunks; None if whole leaves are needed."""
    entrywise = self.entrywise
    if callable(entrywise):
      entrywise = entrywise(**settings)
    return self.measures if entrywise else None

  def chunk_static(self) -> tuple[str, ...]:
    """Names of settings that are not traced where the measures are given."""
    return () if self.measures else self.static


def declare(op: LeafOp, *, entrywise: bool | Callable[..., bool] = False,
            measures: Mapping[str, Measure] | None = None,
            static: tuple[str, ...] = ()) -> None:
  """Attaches a `Contract` to an operator, whose fields the arguments are.

  Raises:
    UserError: a measure or a static setting that is not a parameter of `op`, a
      measure without default, or measures of an operator that is not entrywise.
  """
  measures = dict(measures or {})
  parameters = inspect.signature(op).parameters
  for name in (*measures, *static):
    if name not in parameters:
      raise core.UserError(f'{op.__name__}: ' + core.nearest(
          'parameter', name, parameters))
  for name in measures:
    if parameters[name].default is not None:
      raise core.UserError(f'{op.__name__}: the measure {name!r} must have the '
                           'default None.')
  if measures and not entrywise:
    raise core.UserError(f'{op.__name__}: measures are for entrywise operators;'
                         ' others are given the whole leaf.')
  setattr(op, _ATTRIBUTE, Contract(entrywise, measures, tuple(static)))


def contract_of(op: Any) -> Contract:
  """The declared contract; without one, whole leaves and traced settings."""
  return getattr(op, _ATTRIBUTE, Contract())


def draws(op: LeafOp) -> bool:
  """Whether an operator draws random numbers: it has a parameter `key`."""
  return 'key' in inspect.signature(op).parameters


def check_key(op: LeafOp, key: jax.Array | None) -> None:
  """Refuses a missing key.

  Raises:
    UserError: `op` draws and there is no key.
  """
  if draws(op) and key is None:
    raise core.UserError(f'{op.__name__} draws at random: give key=jax.random.'
                         'key(seed).')
