"""The k-th largest magnitude, exact and without a sort."""
from collections.abc import Callable, Iterable, Iterator, Sequence
import functools

import jax
from jax import numpy as jnp
import numpy as np

from kt_jax import core

STRETCH = 512  # neighboring entries in a sample
_SAMPLE = 2**17
_CHUNK = 2**18  # fits the cache
_HELD = 2**22  # entries of a bracket that are held before they are counted
_BINS = 20  # log2 of the number of counts in a bracket
_LARGEST = 2**31 - 1


@functools.partial(jax.jit, static_argnames='axes')
def kth_largest(values: jax.Array, k: jax.Array | np.ndarray | int,
                axes: tuple[int, ...] | None = None) -> jax.Array:
  """The k-th largest of `|values|` over some axes.

  The bits of a float that is not negative rise with it, so each pass over the
  values settles two bits of the answer by counting. Sharded values stay where
  they are; a sort would be several times slower.

  Args:
    values: floats of any shape. NaN counts as the largest.
    k: rank, from 1; broadcast against the result, possibly traced. A rank above
      the number of values gives 0.
    axes: reduced axes; None for all.

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
    """Counts of the values that are at least each of `least`, in one pass."""
    ones = tuple((bits >= x).astype(jnp.uint32) for x in least)
    sums = jax.lax.reduce(ones, (np.uint32(0),) * len(ones),
                          lambda a, b: tuple(x + y for x, y in zip(a, b)), axes)
    return [x.reshape(shape) for x in sums]

  def settle(step, prefix):
    shift = (width - 4 - 2 * step).astype(signed)
    tries = [prefix | (np.asarray(n, signed) << shift) for n in (1, 2, 3)]
    digit = sum((n >= k).astype(signed) for n in count(tries))
    return prefix | (digit << shift)

  wide = jnp.broadcast_shapes(shape, k.shape)
  top = jnp.full(wide, 2**(width - 2), signed)  # below the sign bit
  prefix = jnp.where(count([top])[0] >= k, top, 0)
  result = jax.lax.fori_loop(0, width // 2 - 1, settle, prefix)
  return jax.lax.bitcast_convert_type(result, values.dtype)


class Rows:
  """Rows of magnitudes, of which a part is in memory at a time.

  Magnitudes are float32 without sign bits. A subclass overrides methods where
  it has the result cheaper than from all entries.

  Attributes:
    count: number of rows.
    size: entries per row.
    read: starts over and yields `count` rows of some entries at a time.
  """

  def __init__(self, count: int, size: int,
               read: Callable[[], Iterable[Sequence[np.ndarray] | np.ndarray]]
               ):
    self.count, self.size, self.read = count, size, read

  @classmethod
  def of(cls, array: np.ndarray) -> 'Rows':
    """Rows that are in memory, `[count, size]`."""
    array = np.asarray(array, np.float32)
    return cls(len(array), array.shape[1], lambda: [array])

  def sample(self) -> np.ndarray:
    """`[count, some]` entries in their order; all of them where they are few.
    """
    # An odd stride does not follow the layout of rows.
    stride = 1 if self.size <= _SAMPLE else self.size // _SAMPLE | 1
    parts, at = [], 0
    for block in self.read():
      parts.append(np.asarray(block)[:, -at % stride::stride])
      at += len(block[0])
    return np.concatenate(parts, axis=1)

  def marked(self, picks: Sequence[int], low: np.ndarray, high: np.ndarray
             ) -> Iterator[tuple]:
    """The bits of all rows, and the brackets of some of them as masks.

    Args:
      picks: numbers of R rows.
      low, high: `[R]` int32 bits, the ends of their brackets.

    Yields:
      `count` int32 arrays; R masks of entries above `high`; R masks of entries
      from `low` to `high`.
    """
    for block in self.read():
      full = [np.ascontiguousarray(row).view(np.int32) for row in block]
      for start in range(0, len(full[0]), _CHUNK):
        bits = [row[start:start + _CHUNK] for row in full]
        over = [bits[row] > high[n] for n, row in enumerate(picks)]
        yield bits, over, [(bits[row] >= low[n]) & ~over[n]
                           for n, row in enumerate(picks)]


def stretch_starts(size: int) -> np.ndarray:
  """First entries of the stretches that are sampled from `size` entries."""
  if size <= _SAMPLE:
    return np.arange(0, size, STRETCH)
  number = np.arange(_SAMPLE // STRETCH)
  part = size / len(number)  # one stretch somewhere in each
  jitter = number * ((5**0.5 - 1) / 2) % 1  # does not follow the rows' layout
  return (number * part + jitter * (part - STRETCH)).astype(np.int64)


def kth_largest_host(rows: Rows, ranks: Sequence[tuple[int, int]]
                     ) -> np.ndarray:
  """The k-th largest of rows, on the host: a bracket, then counts within it.

  A sample gives a bracket around the answer; a pass counts the entries above it
  and, by their bits, those inside. NaN counts as the largest.

  Args:
    rows: magnitudes.
    ranks: pairs of a row and k, from 1 to the size.

  Returns:
    `[len(ranks)]` float32, exact to the bit: where a bracket misses the answer,
    or has too many entries to hold and values to count, there are more passes.
  """
  sample = np.ascontiguousarray(rows.sample(), np.float32).view(np.int32)
  ordered = np.sort(sample, axis=1)
  if sample.shape[1] == rows.size:
    exact = [ordered[row, rows.size - k] for row, k in ranks]
    return np.asarray(exact, np.int32).view(np.float32)
  brackets = [_Bracket(*map(int, _guess(sample[row], ordered[row],
                                        k / rows.size)))
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
  """The entries from `low` to `high`; of many, counts of bit patterns."""

  def __init__(self, low: int, high: int):
    self.reset(low, high)

  def reset(self, low: int, high: int):
    """Starts over, with other ends."""
    self.low, self.high = low, high
    self.above = 0
    self.held: list[np.ndarray] = []
    self.bins: np.ndarray | None = None
    self.shift = max(0, (self.high - self.low).bit_length() - _BINS)

  def count(self, bits, over, near):
    self.above += int(np.count_nonzero(over))
    self.held.append(bits.take(_where(near)))
    if sum(map(len, self.held)) > _HELD:
      self._bin()

  def _bin(self):
    """Moves held entries into counts, `2**shift` patterns to a bin."""
    if self.bins is None:
      size = ((self.high - self.low) >> self.shift) + 1
      self.bins = np.zeros(size, np.int64)
    offsets = np.concatenate([np.empty(0, np.int32), *self.held]) - self.low
    counts = np.bincount(offsets >> self.shift)
    self.bins[:len(counts)] += counts
    self.held = []

  def settle(self, k: int) -> bool:
    """Whether `low` is the answer; else the bracket of the next pass is set."""
    if self.bins is not None:
      self._bin()
    k -= self.above
    held = sum(map(len, self.held)) if self.bins is None else self.bins.sum()
    if not 0 < k <= held:
      if k <= 0:
        self.reset(self.high + 1, _LARGEST)
      else:
        self.reset(0, self.low - 1)
      return False
    if self.bins is None:
      near = np.concatenate(self.held)
      self.low = int(np.partition(near, held - k)[held - k])
      return True
    upper = np.cumsum(self.bins[::-1])
    last = len(self.bins) - 1 - int(np.searchsorted(upper, k))
    low = self.low + (last << self.shift)
    done = not self.shift
    self.reset(low, min(self.high, low + (1 << self.shift) - 1))
    return done


def _where(mask):
  """`np.flatnonzero` of a sparse mask: eight entries at a time."""
  if len(mask) % 8:
    return np.flatnonzero(mask)
  words = mask.view(np.uint64)
  some = np.flatnonzero(words != 0)
  at = np.flatnonzero(words[some].view(bool))
  return 8 * some[at >> 3] + (at & 7)


def _guess(sample, ordered, share):
  """Bit patterns between which the largest `share` ends, almost surely."""
  count = len(sample)
  middle = min(int((1 - share) * count), count - 1)
  # Neighbors are alike: only stretches count as independent.
  stretches = sample[:count - count % STRETCH].reshape(-1, STRETCH)
  over = np.count_nonzero(stretches > ordered[middle], axis=1)
  slack = 5 * np.sqrt(len(over)) * np.std(over) + 5
  low, high = (int(np.clip(middle + side * slack, 0, count - 1))
               for side in (-1, 1))
  # The ends of the sample are not those of the values.
  return (ordered[low] if low else 0,
          ordered[high] if high < count - 1 else _LARGEST)
