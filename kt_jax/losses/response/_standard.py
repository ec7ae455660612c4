"""Values in units of their own standard deviation."""
import jax
from jax import numpy as jnp


def standardized(x: jax.Array, axis: int,
                 where: jax.Array | None = None) -> jax.Array:
  """`(x - mean) / deviation` along `axis`, so that a mean product is Pearson's.

  Args:
    x: floating, finite where it counts.
    axis: the axis that mean and deviation (of the population) run over.
    where: broadcasts to `x`; entries that do not count come back as 0.

  Returns:
    The shape of `x`. Values that are constant but for rounding come back as 0,
    with gradient 0.
  """
  where = jnp.ones((), bool) if where is None else where
  x = jnp.where(where, x, 0)
  size = jnp.sum(jnp.broadcast_to(where, x.shape), axis, keepdims=True,
                 dtype=x.dtype)
  mean = lambda v: jnp.sum(v, axis, keepdims=True) / jnp.maximum(size, 1)
  centered = jnp.where(where, x - mean(x), 0)
  variance = mean(jnp.square(centered))
  rounding = 16 * jnp.finfo(x.dtype).eps
  flat = variance <= rounding**2 * mean(jnp.square(x))
  return jnp.where(flat, 0, centered / jnp.sqrt(jnp.where(flat, 1, variance)))
