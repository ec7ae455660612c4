"""One tensor of a streamed merge: its sources, its blocks, its kernel."""
from collections.abc import Mapping
import functools
from typing import Any, NamedTuple

from jax import numpy as jnp
import numpy as np

from kt_jax import core
from kt_jax.merge import compiled
from kt_jax.merge import draw
from kt_jax.merge import lift
from kt_jax.merge import select

BLOCK = draw.BLOCK  # entries at a time; random numbers are drawn so too
_SMALL = 2 ** 14  # the block of tensors up to this size
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


def read_blocks(pool, job, start, stop):
  """`(start, count, arrays)`, what is beyond the tensor being zero."""
  size = _SMALL if job.base.size <= _SMALL else BLOCK
  for at in range(start, stop, size):
    count = min(size, stop - at)
    blocks = []
    for slot, source in enumerate((job.base, *job.models)):
      block = pool.take(slot, size, source.dtype)
      source.read(at, block[:count])
      block[count:] = 0
      blocks.append(block)
    yield at, count, (blocks[0], tuple(blocks[1:]))


def rows_of(pool, jobs, measure) -> select.Rows:
  """What `measure` chooses from, over the tensors of all jobs."""
  def read():
    for job in jobs:
      call = call_of(job, measure.entries)
      for _, count, blocks in read_blocks(pool, job, 0, job.base.size):
        yield np.asarray(call(*blocks, weight_of(job)))[:, :count]
  return select.Rows(len(next(read())), sum(j.base.size for j in jobs), read)


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
