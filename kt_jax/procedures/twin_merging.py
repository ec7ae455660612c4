"""Twin-Merging: a shared model and exclusive knowledge of each expert.

Axes: K experts, r rank, m inputs and n outputs of a kernel, B examples.
"""
from collections.abc import Callable, Sequence
import re
from typing import Any, NamedTuple

import jax
from jax import numpy as jnp

from kt_jax import core
from kt_jax import merge


class Twin(NamedTuple):
  """A shared model and low-rank parts of experts; a pytree.

  Attributes:
    shared: path -> array, the merged model.
    left: path -> `[K, m, r]`, for leaves with at least two axes.
    right: path -> `[K, r, n]`.
    whole: path -> `[K, ...]`, for all other floating leaves.
  """
  shared: dict[str, jax.Array]
  left: dict[str, jax.Array]
  right: dict[str, jax.Array]
  whole: dict[str, jax.Array]


def twin_merging(base, models: Sequence[Any], *, scale: float = 0.3,
                 rank: float | int = 0.1, skip: Sequence[str] = ()) -> Twin:
  """Splits experts into shared knowledge and low-rank exclusive knowledge.

    W* = W_0 + scale sum_k (W_k - W_0),   v_k = SVD_r(W_k - W*) = L_k R_k

  Args:
    base: flat dict, path -> array, the pretrained model.
    models: K experts like `base`.
    scale: of the task arithmetic for the shared model.
    rank: a count (int), or a share of the smaller side (float).
    skip: regexes of leaves that experts do not share, such as heads: they get
      no exclusive part.

  Returns:
    A `Twin`. A leaf with more than two axes is truncated as a `[-1, last axis]`
    matrix; vectors are not truncated. At full rank W* cancels:
    `twin_params(twin, r)` is sum_k r_k W_k for weights that sum to 1.

  Raises:
    UserError: a rank out of range.

  Departures: a rank that rounds down to 0 is 1 (the public code drops such
    leaves). The difference is to the merged model, as in the code.

  References: lu2024twin (knowledge modularization).
  """
  shared = merge.over_tree(merge.linear, base, models, [scale] * len(models))
  skipped = _skipped(skip, base)
  left, right, whole = {}, {}, {}
  for path, leaf in shared.items():
    if path in skipped or not jnp.issubdtype(leaf.dtype, jnp.inexact):
      continue
    delta = core.to_float(jnp.stack([m[path] for m in models])) - (
        core.to_float(leaf))
    if leaf.ndim < 2:
      whole[path] = delta
      continue
    matrix = merge.as_matrix(delta, 1)
    u, s, v = merge.svd_factors(
        matrix, merge.rank_of('twin_merging', rank, min(matrix.shape[1:])))
    root = jnp.sqrt(s)
    left[path] = u * root[:, None]
    right[path] = root[:, :, None] * v
  return Twin(shared, left, right, whole)


def twin_params(twin: Twin, weight: jax.Array) -> dict[str, jax.Array]:
  """The model for one input: W* + sum_k r_k L_k R_k.

  Args:
    twin: from `twin_merging`.
    weight: `[K]`, of the router.

  Returns:
    Path -> array, in the shared model's dtypes.

  References: lu2024twin (dynamic merging).
  """
  out = dict(twin.shared)
  for path, leaf in twin.shared.items():
    if path in twin.left:
      delta = jnp.einsum('k,kmr,krn->mn', weight, twin.left[path],
                         twin.right[path], precision='highest')
    elif path in twin.whole:
      delta = jnp.tensordot(weight, twin.whole[path], 1)
    else:
      continue
    out[path] = (core.to_float(leaf) + delta.reshape(leaf.shape)).astype(
        leaf.dtype)
  return out


def twin_forward(forward: Callable[[Any, jax.Array], jax.Array], twin: Twin,
                 weight: jax.Array, inputs: jax.Array, *,
                 batch_size: int = 8) -> jax.Array:
  """Each example through its own model.

  Args:
    forward: `(params, inputs [1, ...])` -> `[1, ...]`.
    twin: from `twin_merging`.
    weight: `[B, K]`, of the router.
    inputs: `[B, ...]`.
    batch_size: number of models in memory at once. A forward pass of your own
      that calls `twin_dense` has none in memory.

  Returns:
    `[B, ...]`.

  Departures: the public code takes one example at a time.

  References: lu2024twin (dynamic merging).
  """
  one = lambda pair: forward(twin_params(twin, pair[0]), pair[1][None])[0]
  return jax.lax.map(one, (weight, inputs), batch_size=batch_size)


def twin_dense(x: jax.Array, kernel: jax.Array, left: jax.Array,
               right: jax.Array, weight: jax.Array) -> jax.Array:
  """A dense layer with a kernel per example, which is never computed.

    y_b = x_b W* + sum_k r_bk (x_b L_k) R_k

  Args:
    x: `[B, ..., m]`.
    kernel: `[m, n]`, shared.
    left: `[K, m, r]`.
    right: `[K, r, n]`.
    weight: `[B, K]`.

  Returns:
    `[B, ..., n]`.

  References: lu2024twin (dynamic merging).
  """
  low = jnp.einsum('b...m,kmr->b...kr', x, left)
  weight = weight.reshape(len(weight), *(1,) * (x.ndim - 2), -1, 1)
  return x @ kernel + jnp.einsum('b...kr,krn->b...n', weight * low, right)


def _skipped(skip: Sequence[str], base) -> set[str]:
  """Paths in which a regex of `skip` matches."""
  return {path for path in base if any(re.search(s, path) for s in skip)}
