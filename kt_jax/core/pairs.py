"""Geometry of the rows of a matrix, with finite gradients at equal rows."""
import jax
from jax import numpy as jnp


def dot(x: jax.Array, y: jax.Array) -> jax.Array:
  """`[..., B, C]` inner products of rows, at full precision on every device."""
  return jnp.matmul(x, jnp.swapaxes(y, -1, -2),
                    precision=jax.lax.Precision.HIGHEST)


def unit(x: jax.Array, axis: int | tuple[int, ...] = -1) -> jax.Array:
  """`x` at length 1 along `axis`; a zero vector stays 0 and has gradient 0."""
  # Dividing by the largest entry first keeps the squares in range.
  scale = jax.lax.stop_gradient(jnp.max(jnp.abs(x), axis, keepdims=True))
  x = x / jnp.where(scale == 0, 1, scale)
  square = jnp.sum(jnp.square(x), axis, keepdims=True)
  zero = square == 0
  return jnp.where(zero, 0, x / jnp.sqrt(jnp.where(zero, 1, square)))


def root(square: jax.Array) -> jax.Array:
  """Square root whose gradient at 0 is 0."""
  zero = square == 0
  return jnp.where(zero, 0, jnp.sqrt(jnp.where(zero, 1, square)))


@jax.custom_jvp
def squared_distances(x: jax.Array) -> jax.Array:
  """`[B, D]` -> `[B, B]` squared distances between rows.

  Differences are squared, as the identity with inner products would lose the
  distances of rows that are close. Compilers fuse the sum, and the derivative
  holds `[B, B]` only. Rows that agree to rounding are at distance 0: where a
  compiler contracts the operations before, x - x is an ulp.
  """
  square = jnp.sum(jnp.square(x[:, None] - x[None]), axis=-1)
  size = jnp.sum(jnp.square(x), axis=-1)
  same = square <= (4 * jnp.finfo(x.dtype).eps)**2 * (size[:, None] + size)
  return jnp.where(same | jnp.eye(len(x), dtype=bool), 0, square)


@squared_distances.defjvp
def _squared_distances_jvp(primals, tangents):
  (x,), (dx,) = primals, tangents
  centered = x - jnp.mean(x, axis=0)
  cross = dot(centered, dx)
  same = jnp.sum(centered * dx, axis=-1)
  return squared_distances(x), 2 * (same[:, None] + same - cross - cross.T)
