"""Reductions from per-example values to a scalar, and the dtype they run in."""
import jax
from jax import numpy as jnp


def to_float(x: jax.Array) -> jax.Array:
  """`x` in at least float32."""
  return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def masked_sum(x: jax.Array, where=None) -> tuple[jax.Array, jax.Array]:
  """Sum of `x` over the entries in `where`, and their number.

  The other entries may be NaN: they are left out, not multiplied by zero. Sums
  and counts add up over micro-batches and devices, means do not.
  """
  if where is None:
    return jnp.sum(x), jnp.asarray(x.size, x.dtype)
  where = jnp.broadcast_to(where.astype(bool), x.shape)
  return jnp.sum(x, where=where), jnp.sum(where, dtype=x.dtype)


def masked_mean(x: jax.Array, where=None) -> jax.Array:
  """Mean of `x` over the entries in `where`; 0 if there are none."""
  total, count = masked_sum(x, where)
  return total / jnp.maximum(count, 1)
