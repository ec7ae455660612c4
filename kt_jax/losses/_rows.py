"""Rows of a batch: the valid ones, and arrays without the others."""
import jax
from jax import numpy as jnp

from kt_jax import core


def valid_rows(fn: str, x: jax.Array, where: jax.Array | None) -> jax.Array:
  """`[B]` bool, the examples of `x` that count."""
  if where is None:
    return jnp.ones(x.shape[:1], bool)
  if where.shape != x.shape[:1]:
    raise ValueError(f'{fn}: where has shape {where.shape}; it must be '
                     f'{x.shape[:1]}, one entry per example.')
  return where.astype(bool)


def blank(x: jax.Array, valid: jax.Array) -> jax.Array:
  """`x` in at least float32, with 0 in rows that do not count."""
  shape = valid.shape + (1,) * (x.ndim - valid.ndim)
  return jnp.where(valid.reshape(shape), core.to_float(x), 0)


def count(valid: jax.Array) -> jax.Array:
  """Float number of rows that count, at least 1."""
  return jnp.maximum(jnp.sum(valid, dtype=jnp.float32), 1)
