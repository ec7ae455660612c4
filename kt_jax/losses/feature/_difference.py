"""Difference of two vectors of length one."""
import jax
from jax import numpy as jnp


def difference(x: jax.Array, y: jax.Array) -> jax.Array:
  """`x - y`; entries equal up to rounding give 0 with gradient 0.

  Two vectors of length one round differently. Where a norm has a kink, that
  alone would give a gradient of full size.
  """
  tolerance = 8 * jnp.finfo(x.dtype).eps * jnp.maximum(jnp.abs(x), jnp.abs(y))
  gap = x - y
  return jnp.where(jnp.abs(gap) <= tolerance, 0, gap)
