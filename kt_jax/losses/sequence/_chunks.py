"""Tokens in chunks, and chunks in blocks.

Step i of n has the tokens i modulo n: if the axis of tokens is sharded, every
device has a part of each step, where consecutive tokens would be on one.
"""
import math

import jax
from jax import numpy as jnp


def chunked(x: jax.Array, valid: jax.Array, chunk: int, block: int
            ) -> jax.Array:
  """`[..., *rest]` as `[chunks, about chunk, *rest]`, 0 where not `valid`.

  Padded so that `in_blocks` can split a chunk.
  """
  count = math.prod(valid.shape)
  chunks = math.ceil(count / chunk) or 1
  blocks = math.ceil(count / chunks / block) or 1
  rest = x.shape[valid.ndim:]
  x = jnp.where(valid.reshape(valid.shape + (1,) * len(rest)), x,
                jnp.zeros((), x.dtype)).reshape(count, *rest)
  x = jnp.pad(x, [(0, -count % (chunks * blocks))] + [(0, 0)] * len(rest))
  x = x.reshape(len(x) // (chunks * blocks), blocks, chunks, *rest)
  return jnp.moveaxis(x.reshape(-1, chunks, *rest), 1, 0)


def in_blocks(fn, z: jax.Array, row, block: int):
  """`(sum of fn(z, row), its gradient by z)`, a block of a chunk at a time.

  Intermediate values of fn stay in fast memory. The gradient takes z's place.

  Args:
    fn: `(z [n, V], row) -> scalar`, a sum over n.
    z: `[chunk, V]`.
    row: arrays `[chunk, ...]`.
    block: about n, rows at a time.
  """
  return _loop(jax.value_and_grad(fn), z, row, block)


def sum_in_blocks(fn, z: jax.Array, row, block: int) -> jax.Array:
  """`in_blocks` without the gradient."""
  return _loop(lambda z, row: (fn(z, row), None), z, row, block)[0]


def _loop(fn, z, row, block):
  steps = math.ceil(len(z) / block)
  split = lambda x: x.reshape(-1, steps, *x.shape[1:])
  at = lambda x, i: jax.lax.dynamic_index_in_dim(x, i, 1, keepdims=False)
  row = jax.tree.map(split, row)
  def step(i, state):
    total, z = state
    value, grad = fn(at(z, i), jax.tree.map(lambda x: at(x, i), row))
    if grad is not None:
      z = jax.lax.dynamic_update_index_in_dim(z, grad, i, 1)
    return total + value, z
  total, out = jax.lax.fori_loop(0, steps, step,
                                 (jnp.zeros((), z.dtype), split(z)))
  return total, out.reshape(z.shape)
