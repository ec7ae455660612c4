"""Trains only the leading singular values of a difference between models.

Axes: N values trained, r the rank of a difference.
"""
from typing import Any, NamedTuple

import jax
from jax import numpy as jnp
import numpy as np

from kt_jax import core
from kt_jax import merge


class SingularBasis(NamedTuple):
  """The frozen part of a decomposition; a pytree.

  Attributes:
    base: path -> array; leaves that are not matrices are those of `merged`.
    left: path -> `[m, r]`.
    right: path -> `[r, n]`.
    rest: path -> `[r - N]`, singular values that are not trained.
  """
  base: dict[str, jax.Array]
  left: dict[str, jax.Array]
  right: dict[str, jax.Array]
  rest: dict[str, jax.Array]


def singular_values(
    base, merged, *, rank: int | float = 0.1
) -> tuple[dict[str, jax.Array], SingularBasis]:
  """Decomposes merged - base so that its top singular values can be learned.

    D = W_merged - W_0 = U diag(s) V';   W(s) = W_0 + U diag(s_top, s_rest) V'

  Stage 2 of AXIS; `merged` is from stage 1, `merge.multi_source_svd`. With any
  optimizer:

    values, basis = singular_values(base, merged)
    descent = descend(lambda values, basis, batch: objective(
        singular_params(values, basis), batch), optax.adam(1e-1))
    state = descent.init(values)
    state, loss = descent.step(state, basis, batch)

  Args:
    base: flat dict, path -> array.
    merged: like `base`; with a mean of models, the baseline of the paper.
    rank: N, a count (int), or a share of the smaller side of each matrix
      (float).

  Returns:
    `(values, basis)`: path -> `[N]` to train, float32, which may become
    negative; and the rest. Leaves with more than two axes are `[-1, last axis]`
    matrices; vectors are those of `merged`, frozen.

  Raises:
    UserError: a rank out of range.

  Departures: N is at most the rank of D. Beyond it the paper trains values of
    arbitrary null vectors. Values below the rounding of the leaves are dropped.
    Not under `jit`, because ranks are shapes.

  References: osial2025axis, stage 2.
  """
  frozen, values, left, right, rest = {}, {}, {}, {}, {}
  for path, leaf in base.items():
    leaf = jnp.asarray(leaf)
    new = jnp.asarray(merged[path])
    if leaf.ndim < 2 or not jnp.issubdtype(leaf.dtype, jnp.inexact):
      frozen[path] = new
      continue
    frozen[path] = leaf
    delta = merge.as_matrix(core.to_float(new) - core.to_float(leaf))
    u, s, v = merge.svd_factors(delta)
    # Below the rounding of the leaves, singular values are noise.
    noise = float(jnp.max(jnp.abs(new))) * float(jnp.finfo(leaf.dtype).eps)
    floor = max(noise * max(delta.shape)**0.5, 1e-6 * float(s[0]))
    full = int(np.sum(np.asarray(s) > floor))
    count = min(merge.rank_of('singular_values', rank, len(s)), full)
    left[path], right[path] = u[:, :full], v[:full]
    values[path], rest[path] = s[:count], s[count:full]
  return values, SingularBasis(frozen, left, right, rest)


def singular_params(values: dict[str, jax.Array], basis: SingularBasis
                    ) -> dict[str, Any]:
  """Parameters from singular values: W_0 + U diag(s_top, s_rest) V'.

  Args:
    values: path -> `[N]`.
    basis: from `singular_values`.

  Returns:
    Path -> array, in the base's dtypes.

  References: osial2025axis, stage 2.
  """
  out = dict(basis.base)
  for path, top in values.items():
    leaf = basis.base[path]
    s = jnp.concatenate([top, basis.rest[path]])
    delta = jnp.matmul(basis.left[path] * s, basis.right[path],
                       precision='highest')
    out[path] = (core.to_float(leaf) + delta.reshape(leaf.shape)).astype(
        leaf.dtype)
  return out
