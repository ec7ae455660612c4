"""Lifts a leaf operator to models given as pytrees."""
from collections.abc import Callable, Sequence
import re
from typing import Any

import jax
from jax import numpy as jnp
import numpy as np

from kt_jax import core

LeafOp = Callable[..., jax.Array]
Rules = Sequence[tuple[str, dict[str, Any] | None]]


def over_tree(
    op: LeafOp,
    base: Any,
    models: Sequence[Any],
    weight: jax.Array | Sequence[float],
    *extras: jax.Array,
    rules: Rules = (('', {}),),
    **settings,
) -> Any:
  """Merges pytrees leaf by leaf; a sharded leaf stays sharded as the base's.

  One leaf of all models is stacked at a time. Works under `jit`, where weights
  may be traced, and under `vmap`. Averages of T models are
  `over_tree(linear, base, models, [1 / T] * T)`; a step of momentum
  interpolation is `over_tree(linear, slow, [fast], [1 - tau])`.

  Args:
    op: a leaf operator of this package, or the user's.
    base: pytree of arrays.
    models: T pytrees with the structure and the shapes of `base`.
    weight: `[T]` weights.
    *extras: further arrays, given to `op` after the weights on every leaf.
    rules: `(regex, settings)` pairs; the first whose regex is found in a
      leaf's path ('block_0/conv/kernel') adds its settings to those below, or
      overrides them. None for settings copies the base's leaf.
    **settings: keyword-only parameters of `op`.

  Returns:
    A pytree like `base`.

  Raises:
    ValueError: no models, another structure or shape (with the leaf's path),
      weights that are not `[T]` or not finite (seen outside `jit` only), a leaf
      that no rule matches.
  """
  if not isinstance(models, (list, tuple)) or not models:
    raise ValueError('models must be a list of at least one pytree, got '
                     f'{models if models == [] else type(models)}.')
  weight = jnp.asarray(weight)
  if weight.shape != (len(models),):
    raise ValueError(f'weight must have one entry for each of {len(models)} '
                     f'models, got shape {weight.shape}.')
  if not isinstance(weight, jax.core.Tracer):
    if not np.isfinite(np.asarray(weight, np.float64)).all():
      raise ValueError(f'weight must be finite, got {weight}.')
  for number, model in enumerate(models):
    _check_alike(base, model, f'models[{number}]')

  def leaf(path, b, *ms):
    chosen = _settings(rules, core.path_str(path))
    if chosen is None:
      return b
    return op(jnp.asarray(b), jnp.stack(ms), weight, *extras,
              **settings | chosen)
  return jax.tree_util.tree_map_with_path(leaf, base, *models)


def _settings(rules: Rules, path: str) -> dict[str, Any] | None:
  for pattern, chosen in rules:
    if re.search(pattern, path):
      return chosen
  raise ValueError(f'rules: none matches leaf {path!r}; end with (\'\', {{}}) '
                   'for all others.')


def _check_alike(base: Any, model: Any, name: str) -> None:
  """Refuses a model that is not of the base's structure and shapes."""
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
