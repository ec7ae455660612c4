"""Lifts a leaf operator to models given as pytrees."""
from collections.abc import Sequence
from typing import Any

import jax
from jax import numpy as jnp
import numpy as np

from kt_jax import core
from kt_jax.merge import contract
from kt_jax.merge import rules as rules_lib
from kt_jax.merge._compiled import Compiled


def over_tree(
    op: contract.LeafOp,
    base: Any,
    models: Sequence[Any],
    weight: jax.Array | Sequence[float],
    *extras: jax.Array,
    rules: rules_lib.Rules = (('', {}),),
    key: jax.Array | None = None,
    **settings,
) -> Any:
  """Merges pytrees leaf by leaf; each leaf is sharded as the base's.

  One leaf of all models is stacked at a time. Works under `jit`, where weights
  may be traced, and under `vmap`. The average of T models is
  `over_tree(linear, base, models, [1 / T] * T)`; a step of momentum
  interpolation is `over_tree(linear, slow, [fast], [1 - tau])`.

  Args:
    op: a leaf operator of this package, or the user's (see `contract`).
    base: pytree of arrays.
    models: T pytrees with the structure and the shapes of `base`.
    weight: `[T]` weights.
    *extras: further arrays, passed to `op` after the weights on every leaf.
    rules: `(regex, settings)` pairs; the first that matches in a leaf's path
      ('block_0/conv/kernel') adds its settings to those below, or overrides
      them; a rule may also set `weight`. A `Gradient` is resolved by the leaf's
      depth. None for settings copies the base's leaf.
    key: for operators that draw; folded with each leaf's path, so that the
      order of leaves, devices and sharding have no effect.
    **settings: keyword parameters of `op`.

  Returns:
    A pytree like `base`.

  Raises:
    ValueError: no models, another structure or shape (with the leaf's path),
      weights that are not `[T]` or not finite (checked outside `jit` only), a
      leaf that no rule matches, no key for an operator that draws.
  """
  if not isinstance(models, (list, tuple)) or not models:
    raise ValueError('models must be a list of at least one pytree, got '
                     f'{models if models == [] else type(models)}.')
  for number, model in enumerate(models):
    _check_alike(base, model, f'models[{number}]')
  contract.check_key(op, key)
  depths = rules_lib.depths(core.flatten(base))
  settings = dict(weight=weight) | settings

  def leaf(path, b, *ms):
    path = core.path_str(path)
    own = rules_lib.settings_of(rules, path, depths[path], settings)
    if own is None:
      return b
    if key is not None and contract.draws(op):
      own['key'] = core.fold_path(key, path)
    weight = check_weight(own.pop('weight'), len(models))
    call = Compiled(op, own, contract.contract_of(op).static)
    call.check(b, ms, weight, *extras)
    return call(b, tuple(ms), weight, *extras)
  return jax.tree_util.tree_map_with_path(leaf, base, *models)


def check_weight(weight, count: int) -> jax.Array:
  """Weights as an array `[T]`.

  Raises:
    ValueError: another shape than `[count]`, or weights that are not finite.
  """
  weight = jnp.asarray(weight)
  if weight.shape != (count,):
    raise ValueError(f'weight must have one entry for each of {count} models, '
                     f'got shape {weight.shape}.')
  if not isinstance(weight, jax.core.Tracer):
    if not np.isfinite(np.asarray(weight, np.float64)).all():
      raise ValueError(f'weight must be finite, got {weight}.')
  return weight


def _check_alike(base: Any, model: Any, name: str) -> None:
  """Refuses a model of another structure or with other shapes than the base."""
  ours, theirs = core.flatten(base), core.flatten(model)
  for path in ours:
    if path not in theirs:
      raise ValueError(f'{name} lacks leaf {path!r} of base.')
  for path in theirs:
    if path not in ours:
      raise ValueError(f'{name} has leaf {path!r}, base has not.')
    if jnp.shape(theirs[path]) != jnp.shape(ours[path]):
      raise ValueError(f'{name}: leaf {path!r} has shape '
                       f'{jnp.shape(theirs[path])}, in base it has '
                       f'{jnp.shape(ours[path])}.')
  if jax.tree.structure(base) != jax.tree.structure(model):
    raise ValueError(f'{name} has the leaves of base in other containers: '
                     f'{jax.tree.structure(model)}, base '
                     f'{jax.tree.structure(base)}.')
