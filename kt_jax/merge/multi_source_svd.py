"""AXIS, stage 1: the largest singular components of all sources."""
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


def multi_source_svd(
    base: jax.Array,
    models: jax.Array,
    weight: jax.Array,
    *,
    components: int | float = 76,
) -> jax.Array:
  r"""Pools the singular triplets of all task vectors and keeps the largest.

    m_t - base = sum_k s_tk u_tk v_tk^T
    base + sum of w_t s_tk u_tk v_tk^T over the K largest |w_t| s_tk of all

  Larger task vectors get more of the K. Stage 2 trains singular values of the
  result: `svd_factors(merged - base, N)`, N <= K.

  Args:
    base: `[...]` leaf of the base model; also gives the dtype.
    models: `[T, ...]`.
    weight: `[T]`; 1 is the paper's.
    components: K, for all models together: a count (int) or a share of
      min(m, n) (float, may not exceed 1). A count of T min(m, n) or more is the
      plain sum of task vectors, bit for bit `linear`.

  Returns:
    `[...]` in base's dtype; a leaf that is not floating is the base's. Leaves
    with fewer than two axes move by the mean of the task vectors; kernels with
    more are matrices `[all but the last, last]`. Gradients treat the singular
    vectors and the choice as constants.

  Raises:
    UserError: components out of range.

  Departures: the paper's 76 is 10% of its width of 768; pass 0.1 for that at
  other widths. Weights and kernels with more axes are not in the paper.

  References: osial2025axis, stage 1 of the method.
  """
  weight = core.to_float(jnp.asarray(weight))
  check_stack('multi_source_svd', base, models, weight)
  count = len(models)
  floating = jnp.issubdtype(base.dtype, jnp.floating)
  if not floating or base.ndim < 2 or not base.size:
    return span(base, models, weight / count)
  most = min(as_matrix(base).shape)
  rank = rank_of('multi_source_svd', components,
                 most if isinstance(components, float) else count * most,
                 'components')
  if rank >= count * most:
    return span(base, models, weight)
  ours = core.to_float(base)
  delta = as_matrix(replicate(core.to_float(models) - ours), 1)
  u, s, v = svd_factors(delta)
  values = (weight[:, None] * s).reshape(-1)
  _, best = jax.lax.top_k(jnp.abs(values), rank)
  chosen = jnp.zeros(values.shape, bool).at[best].set(True)
  values = jnp.where(chosen, values, 0).reshape(s.shape)
  merged = jnp.sum(matmul(u * values[:, None], v), 0)
  merged = shard_like(merged.reshape(1, *base.shape), base)
  return span(base, ours + merged, jnp.ones(1))


declare(multi_source_svd, static=('components',))
