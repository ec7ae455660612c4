"""Maps `[B, H, W, C]` on a coarser grid."""
import jax
from jax import numpy as jnp
import numpy as np


def adaptive_pool(x: jax.Array, height: int, width: int) -> jax.Array:
  """`[B, H, W, C]` to `[B, height, width, C]`, by means over windows.

  Window i of n over a side of length L is [floor(i L / n), ceil((i+1) L / n)):
  together they cover the side and overlap where n does not divide L.
  """
  for axis, size in ((1, height), (2, width)):
    length = x.shape[axis]
    if size == length:
      continue
    if length % size == 0:
      split = x.shape[:axis] + (size, length // size) + x.shape[axis + 1:]
      x = jnp.mean(x.reshape(split), axis=axis + 1)
      continue
    weight = np.zeros((size, length))
    for i in range(size):
      start, stop = i * length // size, -(-(i + 1) * length // size)
      weight[i, start:stop] = 1 / (stop - start)
    rows = jnp.tensordot(x, jnp.asarray(weight, x.dtype), (axis, 1),
                         precision='highest')
    x = jnp.moveaxis(rows, -1, axis)
  return x


def common_grid(*maps: jax.Array) -> list[jax.Array]:
  """Maps `[B, H, W, C]`, each pooled to the least H and the least W of all."""
  height, width = (min(x.shape[axis] for x in maps) for axis in (1, 2))
  return [adaptive_pool(x, height, width) for x in maps]
