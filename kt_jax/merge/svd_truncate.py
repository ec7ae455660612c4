"""Sums of task vectors of low rank."""
import jax
from jax import numpy as jnp

from kt_jax import core
from kt_jax.merge._check import check_stack
from kt_jax.merge._layout import replicate
from kt_jax.merge._layout import shard_like
from kt_jax.merge._span import span
from kt_jax.merge.contract import declare
from kt_jax.merge.svd_factors import as_matrix
from kt_jax.merge.svd_factors import matmul
from kt_jax.merge.svd_factors import rank_of
from kt_jax.merge.svd_factors import svd_factors


def svd_truncate(
    base: jax.Array,
    models: jax.Array,
    weight: jax.Array,
    *,
    rank: int | float = 0.1,
) -> jax.Array:
  r"""Keeps the largest singular values of each task vector.

    base + sum_t w_t SVD_r(m_t - base)

  With the merged model as base and one expert at weight 1 it is the expert's
  exclusive knowledge of Twin-Merging.

  Args:
    base: `[...]` leaf of the base model; also gives the dtype.
    models: `[T, ...]`.
    weight: `[T]`.
    rank: a count (int), or a share of min(m, n) (float; at least one is kept).
      At full rank it is `linear`, bit for bit.

  Returns:
    `[...]` in base's dtype; a leaf that is not floating is the base's. Leaves
    with fewer than two axes are not truncated; kernels with more are matrices
    `[all but the last, last]`. Gradients treat the left vectors as constants.

  Raises:
    UserError: rank out of range.

  Departures: the authors' rank is int(0.1 min(m, n)), which is 0 for narrow
  layers; at least 1 here. They do not truncate kernels of more than two axes.

  References: lu2024twin, Sec. 3.2 (exclusive knowledge at rank r).
  """
  weight = core.to_float(jnp.asarray(weight))
  check_stack('svd_truncate', base, models, weight)
  most = min(as_matrix(base).shape) if base.ndim > 1 and base.size else 0
  rank = rank_of('svd_truncate', rank, most)
  if not jnp.issubdtype(base.dtype, jnp.floating) or rank >= most:
    return span(base, models, weight)
  ours = core.to_float(base)
  delta = as_matrix(replicate(core.to_float(models) - ours), 1)
  u, _, _ = svd_factors(delta, rank)
  low = matmul(u, matmul(jnp.swapaxes(u, -1, -2), delta))
  low = shard_like(low.reshape(models.shape), base)
  return span(base, ours + low, weight)


declare(svd_truncate, static=('rank',))
