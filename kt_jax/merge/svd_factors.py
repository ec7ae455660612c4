"""Singular value decomposition with a defined sign and a finite gradient."""
import jax
from jax import numpy as jnp

from kt_jax import core


def svd_factors(
    matrix: jax.Array, rank: int | None = None
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """The largest singular triplets, with the same signs on all platforms.

  In each pair of vectors the largest entry of the left one is positive. Of a
  merged delta, `base + (u * s) @ v` with the parameter `s` trains singular
  values only (AXIS, stage 2); `rank` is then at most that of the delta, because
  the vectors of singular values 0 are arbitrary.

  Args:
    matrix: `[..., m, n]`, in float32 at least.
    rank: number of triplets; None for min(m, n).

  Returns:
    u `[..., m, r]`, s `[..., r]` in descending order, v `[..., r, n]`. Vectors
    have no gradient; that of the values is finite for any matrix.

  Raises:
    UserError: not a matrix, or a rank outside 1 .. min(m, n).
  """
  if matrix.ndim < 2:
    raise core.UserError(f'svd_factors: matrix must be [..., m, n], got shape '
                         f'{matrix.shape}.')
  most = min(matrix.shape[-2:])
  rank = most if rank is None else rank
  if not 1 <= rank <= most:
    raise core.UserError(
        f'svd_factors: rank must be in 1 .. {most}, got {rank}.')
  matrix = core.to_float(matrix)
  u, s, v = jnp.linalg.svd(jax.lax.stop_gradient(matrix), full_matrices=False)
  u, s, v = u[..., :rank], s[..., :rank], v[..., :rank, :]
  largest = jnp.take_along_axis(
      u, jnp.argmax(jnp.abs(u), -2, keepdims=True), -2)
  sign = jnp.where(largest < 0, -1, 1).astype(u.dtype)
  u, v = u * sign, v * jnp.swapaxes(sign, -1, -2)
  # d s = u^T d(matrix) v, in the gradient only.
  linear = jnp.sum(u * matmul(matrix, jnp.swapaxes(v, -1, -2)), -2)
  return u, s + linear - jax.lax.stop_gradient(linear), v


def matmul(x: jax.Array, y: jax.Array) -> jax.Array:
  """The product at full precision on every device."""
  return jnp.matmul(x, y, precision=jax.lax.Precision.HIGHEST)


def as_matrix(leaf: jax.Array, axes: int = 0) -> jax.Array:
  """`[T, h, w, in, out]` as `[T, h w in, out]`, keeping the first `axes`."""
  return leaf.reshape(leaf.shape[:axes] + (-1, leaf.shape[-1]))


def rank_of(fn: str, rank: int | float, most: int, name: str = 'rank'
            ) -> int:
  """A rank from a count, or from a share in [0, 1] of `most`; at least 1.

  Args:
    fn: name of the caller, for errors.
    rank: a count (int) or a share (float).
    most: the full rank.
    name: name of the argument, for errors.

  Raises:
    UserError: a share outside [0, 1], a count below 1.
  """
  if isinstance(rank, float):
    core.check_fraction(fn, **{name: rank})
    return max(1, int(rank * most))
  if rank < 1:
    raise core.UserError(f'{fn}: {name} must be at least 1 (or a float, the '
                         f'share of the full rank), got {rank}.')
  return min(rank, most)
