"""Interpolation of logits, which may be -inf."""
import jax
from jax import numpy as jnp


def interpolate(start: jax.Array, end: jax.Array,
                share: float | jax.Array) -> jax.Array:
  """`(1 - share) start + share end`, where 0 times -inf is 0."""
  def part(weight, z):
    return jnp.where(weight == 0, 0, weight * z)
  return part(1 - share, start) + part(share, end)
