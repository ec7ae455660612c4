"""The k-th largest magnitude, exact and without a sort."""
from collections.abc import Callable, Iterable, Iterator, Sequence
import functools

import jax
from jax import numpy as jnp
import numpy as np

from kt_jax import core

STRETCH = 512  # entries of a sample that lie together
_SAMPLE = 2**17
_CHUNK = 2**18  # what fits the cache
_HELD = 2**22  # entries of a bracket that are kept as they are
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


class Rows:
  """Rows of magnitudes of which a stretch at a time is in memory.

  Magnitudes are float32 without sign bits. What can be had cheaper than from
  all entries is overridden.

  Attributes:
    count: how many rows.
    size: entries of each.
    read: starts over and gives `count` rows of some entries at a time.
  """

  def __init__(self, count: int, size: int,
               read: Callable[[], Iterable[Sequence[np.ndarray]]]):
    self.count, self.size, self.read = count, size, read

  @classmethod
  def of(cls, array: np.ndarray) -> 'Rows':
    """Rows that are in memory, `[count, size]`."""
    array = np.asarray(array, np.float32)
    return cls(*array.shape, lambda: [array])

  def sample(self) -> np.ndarray:
    """`[count, some]` entries in their order; all of them where they are few.
    """
    # A stride that no layout of rows shares.
    stride = 1 if self.size <= _SAMPLE else self.size // _SAMPLE | 1
    found, at = [], 0
    for block in self.read():
      found.append(np.asarray(block)[:, -at % stride::stride])
      at += len(block[0])
    return np.concatenate(found, axis=1)

  def marked(self, picks: Sequence[int], low: np.ndarray, high: np.ndarray
             ) -> Iterator[tuple]:
    """The bits of rows, and for each row of `picks` what its bracket says.

    Args:
      picks: R rows.
      low, high: `[R]` int32 bits.

    Yields:
      `count` int32 arrays; R masks of what is above `high`; R masks of what is
      from `low` to `high`.
    """
    for block in self.read():
      whole = [np.ascontiguousarray(row).view(np.int32) for row in block]
      for start in range(0, len(whole[0]), _CHUNK):
        bits = [row[start:start + _CHUNK] for row in whole]
        over = [bits[row] > high[n] for n, row in enumerate(picks)]
        yield bits, over, [(bits[row] >= low[n]) & ~over[n]
                           for n, row in enumerate(picks)]


def spread(size: int) -> np.ndarray:
  """Where the stretches of a sample of `size` entries begin."""
  if size <= _SAMPLE:
    return np.arange(0, size, STRETCH)
  number = np.arange(_SAMPLE // STRETCH)
  part = size / len(number)  # one stretch somewhere in each
  jitter = number * ((5**0.5 - 1) / 2) % 1  # no layout of rows shares it
  return (number * part + jitter * (part - STRETCH)).astype(np.int64)


def kth_largest_host(rows: Rows, ranks: Sequence[tuple[int, int]]
                     ) -> np.ndarray:
  """The k-th largest of rows, on the host: a bracket, then counts within it.

  A sample says between which values the answer is; a pass counts what is above
  and, by their bits, those between. NaN counts as the largest.

  Args:
    rows: magnitudes.
    ranks: pairs of a row and k, from 1 to the size.

  Returns:
    `[len(ranks)]` float32, exact to the bit: where a bracket misses, or has too
    much and too many values to hold or count, there are more passes.
  """
  sample = np.ascontiguousarray(rows.sample(), np.float32).view(np.int32)
  ordered = np.sort(sample, axis=1)
  if sample.shape[1] == rows.size:
    found = [ordered[row, rows.size - k] for row, k in ranks]
    return np.asarray(found, np.int32).view(np.float32)
  brackets = [_Bracket(*_guess(sample[row], ordered[row], k / rows.size))
              for row, k in ranks]
  todo = set(range(len(ranks)))
  while todo:
    ends = np.array([(b.low, b.high) for b in brackets], np.int32).T
    for bits, over, near in rows.marked([row for row, _ in ranks], *ends):
      for n in todo:
        brackets[n].count(bits[ranks[n][0]], over[n], near[n])
    todo = {n for n in todo if not brackets[n].settle(ranks[n][1])}
  return np.array([b.low for b in brackets], np.int32).view(np.float32)


class _Bracket:
  """What lies from `low` to `high`; if it is much, counts of bit patterns."""

  def __init__(self, low: int, high: int):
    self.low, self.high = int(low), int(high)
    self.above, self.held, self.bins = 0, [], None
    self.shift = max(0, (self.high - self.low).bit_length() - _BINS)

  def count(self, bits, over, near):
    self.above += np.count_nonzero(over)
    self.held.append(bits.take(_where(near)))
    if sum(map(len, self.held)) > _HELD:
      self._bin()

  def _bin(self):
    """Moves what is held into counts, `2**shift` patterns to a bin."""
    if self.bins is None:
      count = ((self.high - self.low) >> self.shift) + 1
      self.bins = np.zeros(count, np.int64)
    found = np.concatenate([np.empty(0, np.int32), *self.held]) - self.low
    found = np.bincount(found >> self.shift)
    self.bins[:len(found)] += found
    self.held = []

  def settle(self, k: int) -> bool:
    """Whether `low` is the answer; else the bracket of the next pass is set."""
    if self.bins is not None:
      self._bin()
    k -= self.above
    held = sum(map(len, self.held)) if self.bins is None else self.bins.sum()
    if not 0 < k <= held:
      self.__init__(*((self.high + 1, _LARGEST) if k <= 0 else
                      (0, self.low - 1)))
      return False
    if self.bins is None:
      near = np.concatenate(self.held)
      self.low = int(np.partition(near, held - k)[held - k])
      return True
    upper = np.cumsum(self.bins[::-1])
    place = len(self.bins) - 1 - int(np.searchsorted(upper, k))
    low = self.low + (place << self.shift)
    done = not self.shift
    self.__init__(low, min(self.high, low + (1 << self.shift) - 1))
    return done


def _where(mask):
  """`np.flatnonzero` of a mask with little in it: eight entries at a time."""
  if len(mask) % 8:
    return np.flatnonzero(mask)
  words = mask.view(np.uint64)
  some = np.flatnonzero(words != 0)
  at = np.flatnonzero(words[some].view(bool))
  return 8 * some[at >> 3] + (at & 7)


def _guess(sample, ordered, share):
  """Bit patterns between which the largest `share` ends, all but surely."""
  count = len(sample)
  middle = min(int((1 - share) * count), count - 1)
  # Entries that lie together are alike: stretches are what is independent.
  whole = sample[:count - count % STRETCH].reshape(-1, STRETCH)
  over = np.count_nonzero(whole > ordered[middle], axis=1)
  slack = 5 * np.sqrt(len(over)) * np.std(over) + 5
  low, high = (int(np.clip(middle + side * slack, 0, count - 1))
               for side in (-1, 1))
  # The ends of the sample are not those of the values.
  return (ordered[low] if low else 0,
          ordered[high] if high < count - 1 else _LARGEST)
