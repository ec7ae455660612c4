"""Trains only the leading singular values of a difference between models.

Axes: N values trained, r the rank of a difference.
"""
from typing import Any, NamedTuple

import jax
from jax import numpy as jnp
import numpy as np

from kt_jax import core
from kt_jax.merge.svd_factors import as_matrix
from kt_jax.merge.svd_factors import matmul
from kt_jax.merge.svd_factors import rank_of
from kt_jax.merge.svd_factors import svd_factors


class SingularBasis(NamedTuple):
  """What stays frozen; a pytree.

  Attributes:
    base: path -> array, with the differences of leaves that are not matrices.
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

  Stage 2 of AXIS; stage 1, `merge.multi_source_svd`, makes `merged`. With any
  optimiser:

    values, basis = singular_values(base, merged)
    descent = descend(lambda values, basis, batch: objective(
        singular_params(values, basis), batch), optax.adam(1e-1))
    state = descent.init(values)
    state, loss = descent.step(state, basis, batch)

  Args:
    base: flat dict, path -> array.
    merged: like `base`; a mean of models makes the baseline of the paper.
    rank: N: how many (int), or which share of the smaller side of each matrix
      (float).

  Returns:
    `(values, basis)`: path -> `[N]` to train, float32, possibly negative later;
    and the rest. Leaves with more than two axes are `[-1, last axis]` matrices,
    vectors are frozen as they are in `merged`.

  Raises:
    UserError: a rank out of range.

  Departures: N stops at the rank of D. Beyond it the paper trains values on
    null vectors, which the decomposition picks at will. Values below the
    rounding of the leaves are dropped. Not under `jit`, for ranks are shapes.

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
    delta = as_matrix(core.to_float(new) - core.to_float(leaf))
    u, s, v = svd_factors(delta)
    # Below the rounding of what was subtracted, singular values are noise.
    noise = float(jnp.max(jnp.abs(new))) * float(jnp.finfo(leaf.dtype).eps)
    floor = max(noise * max(delta.shape)**0.5, 1e-6 * float(s[0]))
    kept = int(np.sum(np.asarray(s) > floor))
    count = min(rank_of('singular_values', rank, len(s)), kept)
    left[path], right[path] = u[:, :kept], v[:kept]
    values[path], rest[path] = s[:count], s[count:kept]
  return values, SingularBasis(frozen, left, right, rest)


def singular_params(values: dict[str, jax.Array], basis: SingularBasis
                    ) -> dict[str, Any]:
  """Parameters from singular values: W_0 + U diag(s_top, s_rest) V'.

  Args:
    values: path -> `[N]`.
    basis: from `singular_values`.

  Returns:
    Path -> array, in the base's dtypes.

  Departures: none.

  References: osial2025axis, stage 2.
  """
  out = dict(basis.base)
  for path, top in values.items():
    leaf = basis.base[path]
    s = jnp.concatenate([top, basis.rest[path]])
    delta = matmul(basis.left[path] * s, basis.right[path])
    out[path] = (core.to_float(leaf) + delta.reshape(leaf.shape)).astype(
        leaf.dtype)
  return out
