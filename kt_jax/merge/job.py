"""One tensor of a streamed merge: its sources, its blocks, its kernel."""
from collections.abc import Mapping
import functools
from typing import Any, NamedTuple

import jax
from jax import numpy as jnp
import numpy as np

from kt_jax import core
from kt_jax.merge import compiled
from kt_jax.merge import draw
from kt_jax.merge import lift
from kt_jax.merge import select

BLOCK = draw.BLOCK  # entries at a time; random numbers are drawn so too
_SMALL = 2 ** 14  # the block of tensors up to this size
_CHUNK = 2 ** 19  # the block where nothing hangs on its size: fits the cache
_ALIGNMENT = 64  # JAX reads such a buffer in place


class Job(NamedTuple):
  """One tensor of the result.

  A source has `name`, `shape`, `dtype`, `size` and `read(start, out)`, which
  fills the 1-D `out` with flattened entries (`checkpoint.Tensor`).
  """
  name: str
  base: Any  # source; what `op` takes as base
  models: tuple[Any, ...] = ()  # sources
  op: lift.LeafOp | None = None  # None copies the base
  weight: tuple[float, ...] = ()
  settings: Mapping[str, Any] = {}
  dtype: Any = None  # of the result; None: the base's
  cast: Any = None  # inputs are rounded to this dtype first; None: as they are
  known: Mapping[str, Any] = {}  # measures that the caller took
  whole_model: bool = False  # measures are over all jobs that say so


def dtype_of(job: Job) -> np.dtype:
  """Of the result."""
  return np.dtype(job.base.dtype if job.dtype is None else job.dtype)


def is_floating(source) -> bool:
  return jnp.issubdtype(source.dtype, jnp.floating)


def weight_of(job) -> np.ndarray:
  return np.asarray(job.weight, np.float32)


class Buffers:
  """Aligned memory that a worker reuses: fresh pages cost more than reading."""

  def __init__(self):
    self._held = {}

  def take(self, slot, size: int, dtype) -> np.ndarray:
    dtype = np.dtype(dtype)
    need = size * dtype.itemsize
    if slot not in self._held or self._held[slot].nbytes < need:
      raw = np.empty(need + _ALIGNMENT, np.uint8)
      skip = -raw.ctypes.data % _ALIGNMENT
      self._held[slot] = raw[skip:skip + need]
    return self._held[slot][:need].view(dtype)


def read_blocks(pool, job, start, stop, size=BLOCK):
  """`(start, count, arrays)`, what is beyond the tensor being zero."""
  size = _SMALL if job.base.size <= _SMALL else size
  for at in range(start, stop, size):
    count = min(size, stop - at)
    blocks = []
    for slot, source in enumerate((job.base, *job.models)):
      block = pool.take(slot, size, source.dtype)
      source.read(at, block[:count])
      block[count:] = 0
      blocks.append(block)
    yield at, count, (blocks[0], tuple(blocks[1:]))


class Rows(select.Rows):
  """What `measure` chooses from, over the tensors of all jobs."""

  def __init__(self, pool, jobs, measure):
    self._pool, self._jobs, self._entries = pool, jobs, measure.entries
    self._ends = np.cumsum([job.base.size for job in jobs])
    self._sample = self._read_sample()
    super().__init__(len(self._sample), int(self._ends[-1]), self._read)

  def sample(self):
    return self._sample

  def marked(self, picks, low, high):
    for count, *found in self._blocks(_marking(self._entries, tuple(picks)),
                                      low, high):
      yield [[np.asarray(x)[:count] for x in part] for part in found]

  def _read(self):
    for count, *rows in self._blocks(self._entries):
      yield [np.asarray(row)[:count] for row in rows]

  def _blocks(self, fn, *extras):
    for job in self._jobs:
      call = self._call(fn, job)
      for _, count, blocks in read_blocks(self._pool, job, 0, job.base.size,
                                          _CHUNK):
        yield count, *call(*blocks, weight_of(job), *extras)

  def _call(self, fn, job):
    # No shape hangs on settings, so that tensors share programs.
    return compiled.Compiled(_rounding(fn, job.cast), job.settings)

  def _read_sample(self):
    starts, found = select.spread(int(self._ends[-1])), []
    for job, end in zip(self._jobs, self._ends):
      first = end - job.base.size
      spans = [(max(s, first) - first, min(s + select.STRETCH, end) - first)
               for s in starts if first - select.STRETCH < s < end]
      sources = [_gathered(x, spans) for x in (job.base, *job.models)]
      count, call = sum(b - a for a, b in spans), self._call(self._entries, job)
      for at in range(0, count, _SMALL):
        base, *models = (x[at:at + _SMALL] for x in sources)
        rows = call(base, tuple(models), weight_of(job))
        found.append(np.stack([np.asarray(row)[:count - at] for row in rows]))
    return np.concatenate(found, axis=1)


def _gathered(source, spans):
  """Stretches of entries side by side, and zeros up to a whole block."""
  count, at = sum(b - a for a, b in spans), 0
  out = np.zeros(count + -count % _SMALL, source.dtype)
  for start, stop in spans:
    source.read(int(start), out[at:at + stop - start])
    at += stop - start
  return out


@functools.lru_cache(maxsize=64)  # as `_rounding`
def _marking(entries, picks):
  """`select.Rows.marked` of a block, in one program."""
  def mark(base, models, weight, low, high, **settings):
    bits = [jax.lax.bitcast_convert_type(row, np.int32)
            for row in entries(base, models, weight, **settings)]
    chosen = [bits[row] for row in picks]
    return (bits, [x > high[n] for n, x in enumerate(chosen)],
            [(x >= low[n]) & (x <= high[n]) for n, x in enumerate(chosen)])
  return mark


def call_of(job, measure=None) -> compiled.Compiled:
  """The operator of a job, or one of its measures, on rounded inputs."""
  fn = _rounding(measure or job.op, job.cast)
  static = getattr(job.op, 'static', ())  # what shapes and ranks hang on
  if measure:
    return compiled.Compiled(fn, job.settings, static)
  if getattr(job.op, 'measures', None):  # those were for the measures
    static = ()
  return compiled.Compiled(fn, job.settings, static, *_finish(dtype_of(job)))


@functools.lru_cache(maxsize=256)  # so that equal calls have equal functions
def _rounding(fn, cast):
  if cast is None:
    return fn
  round_to = lambda x: x.astype(cast)
  return lambda base, models, *args, **kw: fn(
      round_to(base), round_to(models), *args, **kw)


@functools.lru_cache
def _finish(dtype):
  """Rounds a result and says whether it and what it was made of are finite.

  Operators that choose entries would drop those that are not, or choose by
  them. A model of weight 0 is not looked at.
  """
  def finish(out, base, models, weight):
    out = out.astype(dtype)
    finite = jnp.isfinite(out) & jnp.isfinite(base)
    for w, model in zip(weight, models):  # in one loop, over what is in cache
      finite &= jnp.isfinite(model) | (w == 0)
    return out, jnp.all(finite)
  return finish, str(dtype)


def refuse(job, arrays):
  """Says whose entries are NaN or infinite."""
  for source, array in zip((job.base, *job.models), arrays):
    if not np.isfinite(array.astype(np.float32)).all():
      raise core.UserError(
          f'{source.name}: has NaN or infinite entries, which a merge would '
          'spread; mend or leave out that checkpoint.')
  raise core.UserError(
      f'{job.name}: the result is beyond the range of {dtype_of(job)}; choose '
      'a wider dtype.')
