"""One tensor of a streamed merge: its sources, its blocks, its kernel."""
from collections.abc import Mapping, Sequence
import functools
from typing import Any, NamedTuple

import jax
from jax import numpy as jnp
import numpy as np

from kt_jax import core
from kt_jax.merge import _draw
from kt_jax.merge import _select
from kt_jax.merge import contract
from kt_jax.merge._compiled import Compiled

BLOCK = _draw.BLOCK  # entries at a time; random numbers are drawn alike
_SMALL = 2 ** 14  # the block of tensors up to this size
_CHUNK = 2 ** 19  # the block where any size would do: fits the cache
_ALIGNMENT = 64  # JAX reads such a buffer in place


class Job(NamedTuple):
  """One tensor of the result.

  A source has `name`, `shape`, `dtype`, `size` and `read(start, out)`, which
  fills the 1-D `out` with flattened entries (`checkpoint.Tensor`).
  """
  name: str
  base: Any  # source; the argument `base` of `op`
  models: tuple[Any, ...] = ()  # sources
  op: contract.LeafOp | None = None  # None copies the base
  weight: tuple[float, ...] = ()
  settings: Mapping[str, Any] = {}
  dtype: Any = None  # of the result; None: the base's
  cast: Any = None  # inputs are rounded to this dtype first; None: as they are
  measured: Mapping[str, Any] = {}  # values of measures, by name
  whole_model: bool = False  # measures are over all jobs with this flag


def dtype_of(job: Job) -> np.dtype:
  """The dtype of the result."""
  return np.dtype(job.base.dtype if job.dtype is None else job.dtype)


def is_floating(source) -> bool:
  return jnp.issubdtype(source.dtype, jnp.floating)


def weight_of(job) -> np.ndarray:
  return np.asarray(job.weight, np.float32)


class Buffers:
  """Aligned memory that a worker reuses: new pages cost more than reading."""

  def __init__(self):
    self._buffers = {}

  def take(self, slot, size: int, dtype) -> np.ndarray:
    dtype = np.dtype(dtype)
    need = size * dtype.itemsize
    if slot not in self._buffers or self._buffers[slot].nbytes < need:
      raw = np.empty(need + _ALIGNMENT, np.uint8)
      skip = -raw.ctypes.data % _ALIGNMENT
      self._buffers[slot] = raw[skip:skip + need]
    return self._buffers[slot][:need].view(dtype)


def read_blocks(buffers, job, start, stop, size=None):
  """Yields `(start, count, (base, models))`, padded with zeros to one size."""
  size = _SMALL if job.base.size <= _SMALL else size or BLOCK
  for at in range(start, stop, size):
    count = min(size, stop - at)
    blocks = []
    for slot, source in enumerate((job.base, *job.models)):
      block = buffers.take(slot, size, source.dtype)
      source.read(at, block[:count])
      block[count:] = 0
      blocks.append(block)
    yield at, count, (blocks[0], tuple(blocks[1:]))


class Rows(_select.Rows):
  """The entries from which a measure chooses, over the tensors of all jobs."""

  def __init__(self, buffers: Buffers, jobs: Sequence[Job],
               measure: contract.Choice):
    self._buffers, self._jobs = buffers, jobs
    self._entries = measure.entries
    self._ends = np.cumsum([job.base.size for job in jobs])
    self._sample = self._read_sample()
    super().__init__(len(self._sample), int(self._ends[-1]), self._read)

  def sample(self):
    return self._sample

  def marked(self, picks, low, high):
    for count, *marks in self._blocks(_marking(self._entries, tuple(picks)),
                                      low, high):
      yield tuple([np.asarray(x)[:count] for x in part] for part in marks)

  def _read(self):
    for count, *rows in self._blocks(self._entries):
      yield [np.asarray(row)[:count] for row in rows]

  def _blocks(self, fn, *extras):
    for job in self._jobs:
      call = self._call(fn, job)
      for _, count, blocks in read_blocks(self._buffers, job, 0, job.base.size,
                                          _CHUNK):
        yield count, *call(*blocks, weight_of(job), *extras)

  def _call(self, fn, job):
    # No shape depends on settings: all are traced and tensors share programs.
    return Compiled(_rounding(fn, job.cast), job.settings)

  def _read_sample(self):
    starts, rows = _select.stretch_starts(int(self._ends[-1])), []
    for job, end in zip(self._jobs, self._ends):
      first = end - job.base.size
      spans = [(max(s, first) - first, min(s + _select.STRETCH, end) - first)
               for s in starts if first - _select.STRETCH < s < end]
      arrays = [_read_spans(x, spans) for x in (job.base, *job.models)]
      count, call = sum(b - a for a, b in spans), self._call(self._entries, job)
      for at in range(0, count, _SMALL):
        base, *models = (x[at:at + _SMALL] for x in arrays)
        rows.append(np.stack([
            np.asarray(row)[:count - at]
            for row in call(base, tuple(models), weight_of(job))]))
    return np.concatenate(rows, axis=1)


def _read_spans(source, spans):
  """Spans of entries side by side, padded with zeros to whole blocks."""
  count, at = sum(b - a for a, b in spans), 0
  out = np.zeros(count + -count % _SMALL, source.dtype)
  for start, stop in spans:
    source.read(int(start), out[at:at + stop - start])
    at += stop - start
  return out


@functools.lru_cache(maxsize=64)  # as `_rounding`
def _marking(entries, picks):
  """`_select.Rows.marked` of a block, as one program."""
  def mark(base, models, weight, low, high, **settings):
    bits = [jax.lax.bitcast_convert_type(row, np.int32)
            for row in entries(base, models, weight, **settings)]
    picked = [bits[row] for row in picks]
    return (bits, [x > high[n] for n, x in enumerate(picked)],
            [(x >= low[n]) & (x <= high[n]) for n, x in enumerate(picked)])
  return mark


def measure_call(job: Job, measure: contract.Measure) -> Compiled:
  """A measure of a job's operator, on rounded inputs."""
  return Compiled(_rounding(measure.of_leaf, job.cast), job.settings,
                  contract.contract_of(job.op).static)


def call_of(job: Job, *, chunks: bool) -> Compiled:
  """The operator of a job on rounded inputs, for chunks or for whole leaves."""
  declared = contract.contract_of(job.op)
  static = declared.chunk_static() if chunks else declared.static
  return Compiled(_rounding(job.op, job.cast), job.settings, static,
                  *_finish(dtype_of(job)))


@functools.lru_cache(maxsize=256)  # so that equal calls have equal functions
def _rounding(fn, cast):
  if cast is None:
    return fn
  round_to = lambda x: x.astype(cast)
  return lambda base, models, *args, **kw: fn(
      round_to(base), round_to(models), *args, **kw)


@functools.lru_cache
def _finish(dtype):
  """Rounds a result, and tells whether it and the inputs are finite.

  Operators that select entries would drop NaN, or select by it. A model of
  weight 0 is not checked.
  """
  def finish(out, base, models, weight):
    out = out.astype(dtype)
    finite = jnp.isfinite(out) & jnp.isfinite(base)
    for w, model in zip(weight, models):  # fused into one loop, in the cache
      finite &= jnp.isfinite(model) | (w == 0)
    return out, jnp.all(finite)
  return finish, str(dtype)


def raise_not_finite(job: Job, arrays: Sequence[np.ndarray]):
  """Raises the error that names the source of NaN or infinite entries."""
  for source, array in zip((job.base, *job.models), arrays):
    if not np.isfinite(array.astype(np.float32)).all():
      raise core.UserError(
          f'{source.name}: has NaN or infinite entries, which a merge would '
          'spread; repair or leave out that checkpoint.')
  raise core.UserError(
      f'{job.name}: the result is beyond the range of {dtype_of(job)}; choose '
      'a wider dtype.')
