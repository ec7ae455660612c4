"""Runs leaf operators over checkpoints that are larger than memory.

A tensor passes through in blocks of a fixed size, so that one compiled kernel
serves every shape and a worker's memory is a few megabytes. What an operator
must know of the whole tensor (its `measures`) comes from a pass of its own. An
operator without `measures` gets the tensor in one piece.
"""
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent import futures
import functools
import inspect
import threading
from typing import Any

import jax
import numpy as np

from kt_jax import core
from kt_jax.merge import draw
from kt_jax.merge import job as job_lib
from kt_jax.merge import lift
from kt_jax.merge import rules as rules_lib
from kt_jax.merge.job import BLOCK
from kt_jax.merge.job import dtype_of
from kt_jax.merge.job import Job
from kt_jax.merge.measures import measures_of

_PIECE = 16 * BLOCK  # entries of one task of an entrywise operator


def over_stream(op: lift.LeafOp, base: Mapping[str, Any],
                models: Sequence[Mapping[str, Any]], weight, write, *,
                rules: rules_lib.Rules = (('', {}),),
                key: jax.Array | None = None, threads: int = 2,
                whole_model: bool = False, **settings) -> None:
  """Merges checkpoints tensor by tensor, as `over_tree` merges pytrees.

  Args:
    op: a leaf operator.
    base: name -> source, as `checkpoint.open_tensors` gives.
    models: T such mappings of the same names and shapes.
    weight: `[T]` weights.
    write: `(name, start, values)`, called by several threads, takes the 1-D
      `values` as entries `start`... of a tensor (`TensorWriter.write`).
    rules: as in `over_tree`.
    key: likewise.
    threads: workers.
    whole_model: what `op` measures of a tensor is measured once over all of
      them, in passes of their own: the trim of the TIES paper.
    **settings: keyword parameters of `op`.

  Raises:
    ValueError: as `over_tree`; weights that are NaN or infinite, by name.
  """
  for number, model in enumerate(models):
    _check_alike(base, model, number)
  depths = rules_lib.depths(base)
  jobs = []
  for name, source in base.items():
    chosen = rules_lib.settings_of(rules, name, depths[name],
                                   dict(weight=weight) | settings)
    if chosen is None:
      jobs.append(Job(name, source))
      continue
    given = lift.check_weight(chosen.pop('weight'), len(models))
    jobs.append(Job(name, source, tuple(m[name] for m in models), op,
                    tuple(given.tolist()), chosen, whole_model=whole_model))
  run(jobs, write, key=key, threads=threads)


def run(jobs: Sequence[Job], write: Callable[[str, int, np.ndarray], None], *,
        key: jax.Array | None = None, threads: int = 2,
        progress: Callable[[int], None] = lambda count: None) -> None:
  """Does the jobs, the largest first, on several threads.

  Args:
    jobs: tensors of the result.
    write: as in `over_stream`.
    key: for operators that draw; folded with each job's name.
    threads: workers.
    progress: told how many bytes of the result were written.

  Raises:
    UserError: an input of an operator has NaN or infinite entries.
  """
  for job in jobs:
    if job.op:
      lift.takes_key(job.op, key)
  jobs = _measure_together(jobs)
  local = threading.local()

  def work(task):
    if not hasattr(local, 'pool'):
      local.pool = job_lib.Buffers()
    for start, values in task(local.pool):
      write(task.keywords['job'].name, start, values)
      progress(values.nbytes)

  # One thread of XLA's each: the workers are the parallelism.
  with futures.ThreadPoolExecutor(threads) as pool:
    first, *rest = [task for job in sorted(jobs, key=lambda j: -j.base.size)
                    for task in _tasks(job, key)] or [None]
    # A small one beside the largest, so that both kernels compile at once.
    pending = [pool.submit(work, task)
               for task in [first, *rest[-1:], *rest[:-1]] if task]
    try:
      for done in futures.as_completed(pending):
        done.result()
    finally:
      pool.shutdown(cancel_futures=True)


def _measure_together(jobs):
  """The jobs; those of `whole_model` know what was measured over all of them.

  Raises:
    UserError: an operator without such measures, settings that differ.
  """
  asked = [job for job in jobs if job.whole_model and job.op and job.base.size
           and job_lib.is_floating(job.base)]
  if not asked:
    return jobs
  first, pool, known = asked[0], job_lib.Buffers(), {}
  measures = measures_of(first.op, first.settings)
  if not measures or not all(hasattr(m, 'choose') for m in measures.values()):
    raise core.UserError(
        f'whole_model: {first.op.__name__} with {first.settings} measures '
        'nothing that a whole model has.')
  for job in asked:
    if (job.op, job.settings, len(job.models)) != (
        first.op, first.settings, len(first.models)):
      raise core.UserError(
          f'whole_model: {job.name!r} has other settings or models than '
          f'{first.name!r}; a trim of the whole model has one density.')
  for name, measure in measures.items():
    known[name] = measure.choose(job_lib.Rows(pool, asked, measure),
                                 **first.settings)
  return [job._replace(known=known) if job in asked else job for job in jobs]


def _tasks(job, key) -> Iterator[Callable]:
  if not job.base.size:
    return
  if not job.op or not job_lib.is_floating(job.base):
    yield functools.partial(_copy, job=job)
  elif measures_of(job.op, job.settings) is None:
    yield functools.partial(_whole, job=job, key=key)
  elif set(job.op.measures) - set(job.known):
    yield functools.partial(_pieces, job=job, key=key, start=0,
                            stop=job.base.size)
  else:  # nothing ties one end of the tensor to the other
    for start in range(0, job.base.size, _PIECE):
      yield functools.partial(
          _pieces, job=job, key=key, start=start,
          stop=min(start + _PIECE, job.base.size))


def _check_alike(base, model, number):
  """Refuses a checkpoint whose tensors are not those of the base."""
  for name in base.keys() ^ model.keys():
    has, lacks = ('base', f'models[{number}]') if name in base else (
        f'models[{number}]', 'base')
    raise core.UserError(f'{has} has {name!r}, {lacks} has not.')
  for name, source in base.items():
    if model[name].shape != source.shape:
      raise core.UserError(f'models[{number}]: {name!r} has shape '
                           f'{model[name].shape}, in base it has '
                           f'{source.shape}.')


def _copy(pool, *, job):
  dtype = dtype_of(job)
  for start in range(0, job.base.size, BLOCK):
    block = pool.take('base', min(BLOCK, job.base.size - start), job.base.dtype)
    job.base.read(start, block)
    yield start, block.astype(dtype, copy=False)


def _whole(pool, *, job, key):
  del pool
  arrays = [source.array() for source in (job.base, *job.models)]
  more = dict(key=core.fold_path(key, job.name)) if _draws(job.op) else {}
  out, finite = job_lib.call_of(job)(
      arrays[0], tuple(arrays[1:]), job_lib.weight_of(job), **job.known, **more)
  if not finite:
    job_lib.refuse(job, arrays)
  yield 0, np.asarray(out).reshape(-1)


def _pieces(pool, *, job, key, start, stop):
  """Entries `start` to `stop` of an operator that takes blocks."""
  known = dict(job.known)
  for name, measure in job.op.measures.items():
    if name not in known:
      known[name] = _measured(pool, job, measure, known)
  call = job_lib.call_of(job)
  folded = core.fold_path(key, job.name) if _draws(job.op) else None
  for at, count, blocks in job_lib.read_blocks(pool, job, start, stop):
    more = {}
    if folded is not None:  # as the whole leaf draws there
      more = dict(key=draw.at_block(folded, np.int32(at // BLOCK)))
    out, finite = call(*blocks, job_lib.weight_of(job), **known, **more)
    if not finite:
      job_lib.refuse(job, (blocks[0], *blocks[1]))
    yield at, np.asarray(out)[:count]


def _measured(pool, job, measure, known):
  """What `measure` gives of the whole tensor."""
  if hasattr(measure, 'choose'):  # from a value or a few of every entry
    return measure.choose(job_lib.Rows(pool, [job], measure), **job.settings)
  call = job_lib.call_of(job, measure)
  # A measure may read those before it.
  takes = inspect.signature(measure).parameters
  given = {n: v for n, v in known.items() if n in takes}
  total = 0.0
  for _, _, blocks in job_lib.read_blocks(pool, job, 0, job.base.size):
    total += np.asarray(call(*blocks, job_lib.weight_of(job), **given),
                        np.float64)
  return np.asarray(total, np.float32)


def draws(jobs: Sequence[Job]) -> bool:
  """Whether any of the jobs needs a key."""
  return any(job.op and _draws(job.op) for job in jobs)


def _draws(op) -> bool:
  return 'key' in inspect.signature(op).parameters
