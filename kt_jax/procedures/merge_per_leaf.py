"""Merges with weights of their own for each leaf or part of a leaf.

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
                   weight: Mapping[str, Any], *,
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
    weight: regex -> `[T]`, of which the first that matches in a leaf's path is
      used; or exact path -> `[T]`, which takes precedence. `[T, P]` where the
      leaf has parts.
    parts: path -> integers in the shape of the leaf (`random_parts`).
    rules: as in `over_tree`; weights in them are not used.
    **settings: of `over_tree` and of `op`: key, density.

  Returns:
    A dict like `base`. A leaf without a weight is copied from the base.

  Raises:
    UserError: no models, or weights `[T, P]` without parts.

  References: zhang2024atlas (blocks); yang2023adamerging (layer-wise).
  """
  if not models:
    raise core.UserError('merge_per_leaf: models is empty; give at least one.')
  weights = {path: w if w is None else jnp.asarray(w)
             for path, w in ((p, find_weight(weight, p)) for p in base)}

  def merged(part: int) -> dict[str, jax.Array]:
    exact = []
    for path, w in weights.items():
      own = next((own for pattern, own in rules if re.search(pattern, path)),
                 None)
      split = w is not None and w.ndim > 1
      if w is None or own is None or part and not split or (
          split and part >= w.shape[1]):
        own = None
      else:
        own = own | dict(weight=w[:, part] if split else w)
      exact.append((f'^{re.escape(path)}$', own))
    return merge.over_tree(op, base, models, [0.0] * len(models), rules=exact,
                           **settings)

  # An operator may need the whole leaf, so each part computes all of it;
  # elementwise operators fuse into one pass.
  out = merged(0)
  counts = {path: w.shape[1] for path, w in weights.items()
            if w is not None and w.ndim > 1}
  for part in range(1, max(counts.values(), default=1)):
    if parts is None:
      raise core.UserError('merge_per_leaf: weights [T, P] need parts.')
    one = merged(part)
    out = {path: jnp.where(parts[path] == part, one[path], leaf)
           if path in counts else leaf for path, leaf in out.items()}
  return out


def find_weight(weight: Mapping[str, Any], path: str):
  """The weight of the leaf at `path`, or None."""
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
    count: T, the number of models.
    per: 'leaf', one coefficient per tensor and model (AdaMerging's layers, the
      blocks of aTLAS); 'model', one per model; or regexes, one per regex and
      model.
    parts: P; above 1 the leaves are split as well (aTLAS x P).
    value: first value. 0 is the base; AdaMerging begins at 0.3, aTLAS at 0.

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
    raise core.UserError("init_coefficients: parts need per='leaf', got "
                         f'{per!r}.')
  shape = (count, parts) if parts > 1 else (count,)
  return {name: jnp.full(shape, value, jnp.float32) for name in names}


def random_parts(base, parts: int, *, seed: int = 0) -> dict[str, jax.Array]:
  """Splits the entries of every leaf at random into P parts of equal size.

  Args:
    base: flat dict, path -> array.
    parts: P.
    seed: of all randomness; a leaf's split depends on its path too.

  Returns:
    Path -> integers 0..P-1 in the leaf's shape, for each floating leaf; sizes
    differ by at most one. A leaf of fewer than P entries leaves parts empty,
    whose coefficients then have no gradient.

  Departures: the public code gives leaves of one shape the same split, and
    leaves out biases and convolutions; here every leaf has a split of its own.
    Labels are stored, one to two bytes per entry.

  References: zhang2024atlas (aTLAS x P).
  """
  labels = {}
  for path, leaf in base.items():
    if jnp.issubdtype(jnp.result_type(leaf), jnp.inexact):
      shape = np.shape(leaf)
      size = int(np.prod(shape))
      rng = np.random.default_rng([seed, *path.encode()])
      even = np.arange(size) % parts
      labels[path] = jnp.asarray(rng.permutation(even).reshape(shape).astype(
          np.min_scalar_type(parts - 1)))
  return labels
