"""The k-th largest magnitude, exact and without a sort."""
import functools

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import jax
from jax import numpy as jnp
import numpy as np

from kt_jax import core

_SAMPLE = 2**16
_CHUNK = 2**18
_BINS = 20  # log2 of how many counts a bracket has
_LARGEST = 2**31 - 1


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


class Rows(NamedTuple):
  """Rows of magnitudes of which a stretch at a time is in memory.

  Attributes:
    count: how many rows.
    size: entries of each.
    read: starts over and gives `[count, some]` float32 without sign bits.
  """
  count: int
  size: int
  read: Callable[[], Iterable[np.ndarray]]

  @classmethod
  def of(cls, array: np.ndarray) -> 'Rows':
    """Rows that are in memory, `[count, size]`."""
    array = np.asarray(array, np.float32)
    return cls(*array.shape, lambda: [array])


def kth_largest_host(rows: Rows, ranks: Sequence[tuple[int, int]]
                     ) -> np.ndarray:
  """The k-th largest of rows, on the host: a bracket, then counts within it.

  A first pass takes a sample that says between which values the answer is; a
  second counts what is above and, by their bits, those between. NaN counts as
  the largest.

  Args:
    rows: magnitudes.
    ranks: pairs of a row and k, from 1 to the size.

  Returns:
    `[len(ranks)]` float32, exact to the bit: where a bracket misses, or is too
    wide to count every value in it, there are more passes.
  """
  sample = _sample(rows, {row for row, _ in ranks})
  found, todo = np.zeros(len(ranks), np.int32), {}
  for number, (row, k) in enumerate(ranks):
    todo[number] = _Bracket(*_guess(sample[row], k, rows.size))
  while todo:
    for block in rows.read():
      block = np.ascontiguousarray(block).view(np.int32)
      for start in range(0, block.shape[1], _CHUNK):  # what fits the cache
        for number, bracket in todo.items():
          bracket.count(block[ranks[number][0], start:start + _CHUNK])
    for number, bracket in list(todo.items()):
      if bracket.settle(ranks[number][1]):
        found[number] = todo.pop(number).low
  return found.view(np.float32)


class _Bracket:
  """Counts of the bit patterns from `low` to `high`, `2**shift` to a bin."""

  def __init__(self, low: int, high: int):
    self.low, self.high = int(low), int(high)
    self.shift = max(0, (self.high - self.low).bit_length() - _BINS)
    self.above = 0
    self.bins = np.zeros(((self.high - self.low) >> self.shift) + 1, np.int64)

  def count(self, bits):
    over = bits > self.high
    self.above += np.count_nonzero(over)
    near = bits[(bits >= self.low) & ~over]
    if len(near):
      found = np.bincount((near - self.low) >> self.shift)
      self.bins[:len(found)] += found

  def settle(self, k: int) -> bool:
    """Whether `low` is the answer; else the bracket of the next pass is set."""
    upper = np.cumsum(self.bins[::-1])
    if not self.above < k <= self.above + upper[-1]:
      self.__init__(0, _LARGEST)
      return False
    place = len(self.bins) - 1 - int(np.searchsorted(upper, k - self.above))
    low = self.low + (place << self.shift)
    done = not self.shift
    self.__init__(low, min(self.high, low + (1 << self.shift) - 1))
    return done


def _sample(rows, wanted) -> dict[int, np.ndarray]:
  """Row -> sorted bits of some of its entries; of all where they are few."""
  # A stride that no layout of rows shares.
  stride = 1 if rows.size <= _SAMPLE else rows.size // _SAMPLE | 1
  found, at = {row: [] for row in wanted}, 0
  for block in rows.read():
    block = np.ascontiguousarray(block).view(np.int32)
    for row in wanted:
      found[row].append(block[row, -at % stride::stride].copy())
    at += block.shape[1]
  return {row: np.sort(np.concatenate(parts)) for row, parts in found.items()}


def _guess(sample, k, size):
  """Bit patterns between which the k-th largest is, all but surely."""
  if len(sample) == size:
    return (sample[size - k],) * 2
  share = 1 - k / size
  slack = 5 * np.sqrt(len(sample) * share * (1 - share)) + 5
  low, high = (np.clip(int(share * len(sample) + side * slack), 0,
                       len(sample) - 1) for side in (-1, 1))
  # The ends of the sample are not those of the values.
  return (sample[low] if low else 0,
          sample[high] if high < len(sample) - 1 else _LARGEST)
