"""The k-th largest magnitude, exact and without a sort."""
import functools

import jax
from jax import numpy as jnp
import numpy as np

from kt_jax import core

COARSE, FINE = 16, 15  # of the 31 bits of a magnitude in float32
_SAMPLE = 2**16
_CHUNK = 2**18


@functools.partial(jax.jit, static_argnames='axes')
def kth_largest(values: jax.Array, k: jax.Array | np.ndarray | int,
                axes: tuple[int, ...] | None = None) -> jax.Array:
  """The k-th largest of `|values|` over some axes.

  The bits of a float that is not negative rise with it, so each pass over the
  values settles two bits of the answer by counting. Sharded values stay where
  they are; a sort would be several times slower.

  Args:
    values: floats of any shape. NaN counts as larger than all.
    k: which, from 1; broadcast against the result, possibly traced. What is
      above the number of values gives 0.
    axes: over which; None for all.

  Returns:
    Magnitudes, exact to the bit (subnormals too), with axes of size 1.
  """
  values = core.to_float(values)
  axes = tuple(range(values.ndim)) if axes is None else axes
  width = 8 * values.dtype.itemsize
  signed = jnp.dtype(f'int{width}')  # compares faster than unsigned
  bits = jax.lax.bitcast_convert_type(values, signed)
  bits &= np.asarray(2**(width - 1) - 1, signed)
  k = jnp.asarray(k).astype(jnp.uint32)
  shape = tuple(1 if axis in axes else size
                for axis, size in enumerate(values.shape))

  def count(least):
    """How many are at least each of some values, in one pass."""
    ones = tuple((bits >= x).astype(jnp.uint32) for x in least)
    sums = jax.lax.reduce(ones, (np.uint32(0),) * len(ones),
                          lambda a, b: tuple(x + y for x, y in zip(a, b)), axes)
    return [x.reshape(shape) for x in sums]

  def settle(step, found):
    shift = (width - 4 - 2 * step).astype(signed)
    tries = [found | (np.asarray(n, signed) << shift) for n in (1, 2, 3)]
    digit = sum((n >= k).astype(signed) for n in count(tries))
    return found | (digit << shift)

  wide = jnp.broadcast_shapes(shape, k.shape)
  top = jnp.full(wide, 2**(width - 2), signed)  # below the sign bit
  found = jnp.where(count([top])[0] >= k, top, 0)
  found = jax.lax.fori_loop(0, width // 2 - 1, settle, found)
  return jax.lax.bitcast_convert_type(found, values.dtype)


def kth_largest_host(magnitudes: np.ndarray, k: int) -> np.float32:
  """The k-th largest on the host: a bracket from a sample, then a partition.

  Args:
    magnitudes: `[n]` float32, none with a sign bit. NaN counts as the largest.
    k: 1 to n.

  Returns:
    The value, exact to the bit: where the bracket misses, all are partitioned.
  """
  bits, n = np.ravel(magnitudes).view(np.int32), np.size(magnitudes)
  if n > 4 * _SAMPLE:
    sample = np.sort(bits[::n // _SAMPLE])
    share = 1 - k / n
    slack = 5 * np.sqrt(len(sample) * share * (1 - share)) + 5
    low, high = (np.clip(int(share * len(sample) + side * slack), 0,
                         len(sample) - 1) for side in (-1, 1))
    # The ends of the sample are not those of the values.
    low = sample[low] if low else np.int32(0)
    high = sample[high] if high < len(sample) - 1 else np.int32(2**31 - 1)
    above, near = 0, []
    for start in range(0, n, _CHUNK):  # what fits the cache
      part = bits[start:start + _CHUNK]
      over = part > high
      above += np.count_nonzero(over)
      near.append(part[(part >= low) & ~over])
    near = np.concatenate(near)
    if above < k <= above + len(near):
      bits, k = near, k - above
  place = len(bits) - k
  return np.partition(bits, place)[place:place + 1].view(np.float32)[0]


def histogram(magnitudes: np.ndarray, prefix: int | None = None) -> np.ndarray:
  """Counts of float32 magnitudes by their bits; counts of chunks add up.

  Args:
    magnitudes: float32, none with a sign bit.
    prefix: None counts by the upper 16 of 31 bits; else those that have this
      upper part are counted by the other 15.

  Returns:
    `[2**16]` or `[2**15]` int64.
  """
  bits = np.ravel(magnitudes).view(np.int32)
  if prefix is None:
    return np.bincount(bits >> FINE, minlength=2**COARSE)
  within = bits[bits >> FINE == prefix]
  return np.bincount(within & (2**FINE - 1), minlength=2**FINE)


def locate(counts: np.ndarray, k: int) -> tuple[int, int]:
  """The bin that holds the k-th largest, and which it is in there, from 1."""
  above = np.cumsum(counts[::-1])
  place = int(np.searchsorted(above, k))
  return len(counts) - 1 - place, int(k - above[place] + counts[::-1][place])
