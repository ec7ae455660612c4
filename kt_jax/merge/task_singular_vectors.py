"""TSV-Merge: task vectors whose singular vectors do not interfere."""
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


def task_singular_vectors(
    base: jax.Array,
    models: jax.Array,
    weight: jax.Array,
    *,
    rank: int | float | None = None,
) -> jax.Array:
  r"""Merges low-rank task vectors with orthogonal singular vectors.

    m_t - base = U_t S_t V_t^T, cut to rank r
    base + P(U_1 .. U_T) diag(w_1 S_1 .. w_T S_T) P(V_1 .. V_T)^T

  P is the nearest matrix with orthonormal columns, A B^T of an SVD A s B^T
  (Procrustes; the same as whitening).

  Args:
    base: `[...]` leaf of the base model; also gives the dtype.
    models: `[T, ...]`.
    weight: `[T]`, factors of the singular values; 1 is the paper's.
    rank: of each task: a count (int), a share of min(m, n) (float), or None for
      the share 1 / T. One model at full rank is `linear`, bit for bit.

  Returns:
    `[...]` in base's dtype; a leaf that is not floating is the base's. Leaves
    with fewer than two axes move by the mean of the task vectors; kernels with
    more are matrices `[all but the last, last]`. Gradients treat the singular
    vectors as constants.

  Raises:
    UserError: rank out of range.

  Departures: at least rank 1, where the authors' int(min(m, n) / T) is 0 for
  more tasks than units. Where two tasks share a direction, to rounding, their P
  has an arbitrary one; here P is 0 along it, so that equal tasks give one of
  them, weighted by the mean. They move kernels of more than two axes by the
  mean.

  References: gargiulo2024tsv, Sec. 4.2 (TSV-M).
  """
  weight = core.to_float(jnp.asarray(weight))
  check_stack('task_singular_vectors', base, models, weight)
  count = len(models)
  most = min(as_matrix(base).shape) if base.ndim > 1 and base.size else 0
  if rank is None:
    rank = max(1, most // count)
  rank = rank_of('task_singular_vectors', rank, most)
  if not jnp.issubdtype(base.dtype, jnp.floating) or not most or (
      count == 1 and rank >= most):
    return span(base, models, weight / count)
  ours = core.to_float(base)
  delta = as_matrix(replicate(core.to_float(models) - ours), 1)
  u, s, v = svd_factors(delta, rank)
  left = _orthonormal(jnp.concatenate(list(u), 1))
  right = _orthonormal(jnp.concatenate(list(v), 0).T)
  values = (weight[:, None] * s).reshape(-1)
  merged = matmul(left * values, right.T).reshape(1, *base.shape)
  return span(base, ours + shard_like(merged, base), jnp.ones(1))


declare(task_singular_vectors, static=('rank',))


def _orthonormal(columns):
  """The nearest matrix of orthonormal columns, 0 outside of their span."""
  a, s, b = jnp.linalg.svd(columns, full_matrices=False)
  noise = max(columns.shape) * jnp.finfo(s.dtype).eps * s[0]
  return matmul(a * (s > noise), b)
