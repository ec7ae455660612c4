"""Random numbers for the entries of a leaf, equal for wholes and chunks."""
import functools
import math
from typing import NamedTuple

import jax
from jax import numpy as jnp
import numpy as np

BLOCK = 2**20  # entries that share a key


class AtBlock(NamedTuple):
  """A leaf's key for a chunk of the leaf, as operators take it for `key`."""
  key: jax.Array
  first: jax.Array | np.integer | int  # number of the chunk's first block


def at_block(key: jax.Array, first: jax.Array | np.integer | int) -> AtBlock:
  """A key with which a chunk draws what the whole leaf draws there."""
  return AtBlock(key, first)


def uniform(key: jax.Array | AtBlock, shape: tuple[int, ...],
            stream: int | None = None) -> jax.Array:
  """One number in [0, 1) for each entry of a leaf, in flat order.

  Args:
    key: the leaf's, of the threefry kind (JAX's default); for a chunk that
      begins at a multiple of 2**20 entries of the leaf, `at_block`'s.
    shape: of the leaf or the chunk.
    stream: number of the draw, where a leaf has several (the model's number).

  Returns:
    float32 of that shape.
  """
  key, first = key if isinstance(key, AtBlock) else (key, 0)
  if stream is not None:
    key = jax.random.fold_in(key, stream)
  size = math.prod(shape)
  if size <= BLOCK:
    return block(key, first, size).reshape(shape)
  blocks = _blocks(key, first, -(-size // BLOCK), BLOCK)
  return blocks[:size].reshape(shape)


def block(key: jax.Array, number: jax.Array | np.integer | int, length: int
          ) -> jax.Array:
  """The first `length` numbers of a block of entries."""
  return jax.random.uniform(jax.random.fold_in(key, number), (length,),
                            jnp.float32)


@functools.partial(jax.jit, static_argnums=(2, 3))
def _blocks(key, first, count, length):
  # One after the other: with some kinds of keys, vmap would draw others.
  return jax.lax.map(lambda number: block(key, number, length),
                     first + jnp.arange(count)).reshape(-1)
