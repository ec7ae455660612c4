"""Merges in which every leaf, or every part of a leaf, has its own weights.

Axes: T models, P parts of a leaf, n entries of a leaf.
"""
from collections.abc import Mapping, Sequence
import re
from typing import Any

import jax
from jax import numpy as jnp
import numpy as np

from kt_jax import core
from kt_jax import merge


def merge_per_leaf(op, base, models: Sequence[Any],
                   weight: Mapping[str, jax.Array], *,
                   parts: Mapping[str, jax.Array] | None = None,
                   rules=(('', {}),), **settings) -> dict[str, jax.Array]:
  """`over_tree` with weights that differ from leaf to leaf.

    leaf <- op(base, models, w[leaf]);   with parts, at an entry of part p:
    leaf <- op(base, models, w[leaf][:, p])

  With `linear` that is a scaling of each block of each task vector,
  base + sum_t w_t (m_t - base). Differentiable in the weights.

  Args:
    op: a leaf operator of `kt_jax.merge`.
    base: flat dict, path -> array.
    models: T dicts of the same paths and shapes.
    weight: regex -> `[T]`, the first regex found in a leaf's path counts; or
      exact path -> `[T]`, which goes first. `[T, P]` where the leaf has parts.
    parts: path -> integers in the shape of the leaf (`random_parts`).
    rules: as in `over_tree`; a weight in them does not count.
    **settings: of `over_tree` and of `op`: key, density.

  Returns:
    A dict like `base`. A leaf that no weight is for is copied from the base.

  Raises:
    UserError: no models.

  Departures: none.

  References: zhang2024atlas (blocks); yang2023adamerging (layer-wise).
  """
  if not models:
    raise core.UserError('merge_per_leaf: models is empty; give at least one.')
  found = {path: w if w is None else jnp.asarray(w)
           for path, w in ((path, find_weight(weight, path)) for path in base)}

  def merged(part: int) -> dict[str, jax.Array]:
    exact = []
    for path, w in found.items():
      chosen = next((chosen for pattern, chosen in rules
                     if re.search(pattern, path)), None)
      split = w is not None and w.ndim > 1
      if w is None or chosen is None or part and not split or (
          split and part >= w.shape[1]):
        chosen = None
      else:
        chosen = chosen | dict(weight=w[:, part] if split else w)
      exact.append((f'^{re.escape(path)}$', chosen))
    return merge.over_tree(op, base, models, [0.0] * len(models), rules=exact,
                           **settings)

  # An operator may look at the whole leaf, so it sees all of it for each part;
  # what is elementwise fuses into one pass.
  out = merged(0)
  last = max((w.shape[1] for w in found.values()
              if w is not None and w.ndim > 1), default=1)
  for part in range(1, last):
    one = merged(part)
    out = {path: leaf if found[path] is None or found[path].ndim < 2
           else jnp.where(parts[path] == part, one[path], leaf)
           for path, leaf in out.items()}
  return out


def find_weight(weight: Mapping[str, Any], path: str):
  """What `weight` has for `path`, or None."""
  if path in weight:
    return weight[path]
  for pattern, value in weight.items():
    if re.search(pattern, path):
      return value
  return None


def init_coefficients(base, count: int, *, per: str | Sequence[str] = 'leaf',
                      parts: int = 1, value: float = 0.3
                      ) -> dict[str, jax.Array]:
  """Coefficients for `merge_per_leaf`, all equal.

  Args:
    base: flat dict, path -> array.
    count: T, how many models.
    per: 'leaf', one coefficient for each tensor and model (AdaMerging's layers,
      the blocks of aTLAS); 'model', one for each model; or regexes, one for
      each regex and model.
    parts: P; above 1 the leaves are split as well (aTLAS x P).
    value: to begin with. 0 is the base; AdaMerging begins at 0.3, aTLAS at 0.

  Returns:
    Path or regex -> `[T]`, or `[T, P]`, float32. Leaves that are not floating
    have none.

  Raises:
    UserError: `per` or `parts` is not one of those, or parts per model.
  """
  if per == 'leaf':
    names = [path for path, leaf in base.items()
             if jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)]
  elif per == 'model':
    names = ['']
  elif isinstance(per, str):
    raise core.UserError('init_coefficients: ' + core.nearest(
        'value of per', per, ('leaf', 'model')) + ' Or a list of regexes.')
  else:
    names = list(per)
  if count < 1 or parts < 1:
    raise core.UserError('init_coefficients: count and parts must be at least '
                         f'1, got {count} and {parts}.')
  if parts > 1 and per != 'leaf':
    raise core.UserError("init_coefficients: parts asks for per='leaf', got "
                         f'{per!r}.')
  shape = (count, parts) if parts > 1 else (count,)
  return {name: jnp.full(shape, value, jnp.float32) for name in names}


def random_parts(base, parts: int, *, seed: int = 0) -> dict[str, jax.Array]:
  """Splits the entries of every leaf at random into P parts of equal size.

  Args:
    base: flat dict, path -> array.
    parts: P.
    seed: where randomness comes from; a leaf's split hangs on its path too.

  Returns:
    Path -> integers 0..P-1 in the leaf's shape, for each floating leaf; sizes
    differ by at most one. A leaf of fewer than P entries leaves parts empty,
    whose coefficients then have no gradient.

  Departures: the public code gives leaves of one shape the same split, and
    drops what is not a matrix (biases, convolutions); here every leaf has a
    split of its own. Labels are stored, one to two bytes for each entry.

  References: zhang2024atlas (aTLAS x P).
  """
  labels = {}
  for path, leaf in base.items():
    if jnp.issubdtype(jnp.result_type(leaf), jnp.inexact):
      shape = np.shape(leaf)
      size = int(np.prod(shape))
      rng = np.random.default_rng([seed, *path.encode()])
      dealt = np.arange(size) % parts
      labels[path] = jnp.asarray(rng.permutation(dealt).reshape(shape).astype(
          np.min_scalar_type(parts - 1)))
  return labels
