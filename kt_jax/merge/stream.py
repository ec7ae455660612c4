"""Runs leaf operators over checkpoints that are larger than memory.

A tensor is read in blocks of a fixed size, so that one compiled kernel serves
every shape and a worker needs a few megabytes. Measures of the whole tensor are
taken in passes of their own. An operator that is not entrywise gets the tensor
in one piece. Operators declare that as in `kt_jax.merge.contract`.
"""
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent import futures
import functools
import inspect
import threading
from typing import Any

import jax
from jax import numpy as jnp
import numpy as np

from kt_jax import core
from kt_jax.merge import _draw
from kt_jax.merge import _job as job_lib
from kt_jax.merge import contract
from kt_jax.merge import rules as rules_lib
from kt_jax.merge._job import BLOCK as BLOCK
from kt_jax.merge._job import dtype_of as dtype_of
from kt_jax.merge._job import Job as Job
from kt_jax.merge.tree import check_weight

_PIECE = 16 * BLOCK  # entries of one task of an entrywise operator


def over_stream(op: contract.LeafOp, base: Mapping[str, Any],
                models: Sequence[Mapping[str, Any]], weight, write, *,
                rules: rules_lib.Rules = (('', {}),),
                key: jax.Array | None = None, threads: int = 2,
                whole_model: bool = False, **settings) -> None:
  """Merges checkpoints tensor by tensor, as `over_tree` merges pytrees.

  Args:
    op: a leaf operator.
    base: name -> source, as from `checkpoint.open_tensors`.
    models: T such mappings of the same names and shapes.
    weight: `[T]` weights.
    write: `(name, start, values)`, called by several threads, takes the 1-D
      `values` as entries `start`... of a tensor (`TensorWriter.write`).
    rules: as in `over_tree`.
    key: likewise.
    threads: number of workers.
    whole_model: take the measures of `op` once over all tensors, in passes of
      their own: the trim of the TIES paper.
    **settings: keyword parameters of `op`.

  Raises:
    ValueError: as `over_tree`; entries that are NaN or infinite, by name.
  """
  for number, model in enumerate(models):
    _check_alike(base, model, number)
  depths = rules_lib.depths(base)
  jobs = []
  for name, source in base.items():
    own = rules_lib.settings_of(rules, name, depths[name],
                                dict(weight=weight) | settings)
    if own is None:
      jobs.append(Job(name, source))
      continue
    checked = check_weight(own.pop('weight'), len(models))
    jobs.append(Job(name, source, tuple(m[name] for m in models), op,
                    tuple(checked.tolist()), own, whole_model=whole_model))
  _check_arguments(jobs, key)
  run(jobs, write, key=key, threads=threads)


def run(jobs: Sequence[Job], write: Callable[[str, int, np.ndarray], None], *,
        key: jax.Array | None = None, threads: int = 2,
        progress: Callable[[int], None] = lambda count: None) -> None:
  """Runs the jobs, the largest first, on several threads.

  Args:
    jobs: tensors of the result.
    write: as in `over_stream`.
    key: for operators that draw; folded with each job's name.
    threads: number of workers.
    progress: called with the number of bytes of the result just written.

  Raises:
    UserError: an input of an operator has NaN or infinite entries.
  """
  for job in jobs:
    if job.op:
      contract.check_key(job.op, key)
  jobs = _measure_together(jobs)
  local = threading.local()

  def work(task):
    if not hasattr(local, 'buffers'):
      local.buffers = job_lib.Buffers()
    for start, values in task(local.buffers):
      write(task.keywords['job'].name, start, values)
      progress(values.nbytes)

  # One thread of XLA per worker: the workers are the parallelism.
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
  """The jobs; those of `whole_model` with measures taken over all of them.

  Raises:
    UserError: an operator without measures that choose, settings that differ.
  """
  together = [job for job in jobs if job.whole_model and job.op
              and job.base.size and job_lib.is_floating(job.base)]
  if not together:
    return jobs
  first = together[0]
  measures = _measures(first) or {}
  choices = {name: measure for name, measure in measures.items()
             if isinstance(measure, contract.Choice)}
  if not choices or len(choices) < len(measures):
    raise core.UserError(
        f'whole_model: {first.op.__name__} with {first.settings} measures '
        'nothing that can be measured over a whole model.')
  for job in together:
    if (job.op, job.settings, len(job.models)) != (
        first.op, first.settings, len(first.models)):
      raise core.UserError(
          f'whole_model: {job.name!r} has other settings or models than '
          f'{first.name!r}; a trim of the whole model has one density.')
  buffers = job_lib.Buffers()
  measured = {name: measure.choose(job_lib.Rows(buffers, together, measure),
                                   **first.settings)
              for name, measure in choices.items()}
  return [job._replace(measured=measured) if job in together else job
          for job in jobs]


def _measures(job):
  """The measures to take before blocks; None if the tensor must be whole."""
  return contract.contract_of(job.op).chunk_measures(job.settings)


def _tasks(job, key) -> Iterator[Callable]:
  if not job.base.size:
    return
  if not job.op or not job_lib.is_floating(job.base):
    yield functools.partial(_copy, job=job)
  elif (measures := _measures(job)) is None:
    yield functools.partial(_whole, job=job, key=key)
  elif set(measures) - set(job.measured):
    yield functools.partial(_pieces, job=job, key=key, start=0,
                            stop=job.base.size)
  else:  # no part of the tensor depends on another
    for start in range(0, job.base.size, _PIECE):
      yield functools.partial(
          _pieces, job=job, key=key, start=start,
          stop=min(start + _PIECE, job.base.size))


def _check_alike(base, model, number):
  """Refuses a checkpoint whose tensors are not those of the base."""
  for name in base.keys() ^ model.keys():
    has, lacks = ('base', f'models[{number}]') if name in base else (
        f'models[{number}]', 'base')
    raise core.UserError(f'{has} has {name!r}, {lacks} does not.')
  for name, source in base.items():
    if model[name].shape != source.shape:
      raise core.UserError(f'models[{number}]: {name!r} has shape '
                           f'{model[name].shape}, in base it has '
                           f'{source.shape}.')


def _check_arguments(jobs, key):
  """Raises what operators raise at weights and settings, from shapes alone."""
  checked = set()
  for job in jobs:
    if not job.op or not job.base.size:
      continue
    contract.check_key(job.op, key)
    case = repr((job.base.shape, job.base.dtype, job.weight, job.settings))
    if case not in checked:
      shapes = [jax.ShapeDtypeStruct(x.shape, x.dtype)
                for x in (job.base, *job.models)]
      more = dict(key=key) if contract.draws(job.op) else {}
      job_lib.call_of(job, chunks=False).check(
          shapes[0], shapes[1:], jnp.asarray(job_lib.weight_of(job)), **more)
    checked.add(case)


def _copy(buffers, *, job):
  dtype = dtype_of(job)
  for start in range(0, job.base.size, BLOCK):
    block = buffers.take('base', min(BLOCK, job.base.size - start),
                         job.base.dtype)
    job.base.read(start, block)
    yield start, block.astype(dtype, copy=False)


def _whole(buffers, *, job, key):
  del buffers
  arrays = [source.array() for source in (job.base, *job.models)]
  more = dict(key=core.fold_path(key, job.name)) if contract.draws(
      job.op) else {}
  out, finite = job_lib.call_of(job, chunks=False)(
      arrays[0], tuple(arrays[1:]), job_lib.weight_of(job), **job.measured,
      **more)
  if not finite:
    job_lib.raise_not_finite(job, arrays)
  yield 0, np.asarray(out).reshape(-1)


def _pieces(buffers, *, job, key, start, stop):
  """Entries `start` to `stop` of an operator that takes blocks."""
  measured = dict(job.measured)
  for name, measure in (_measures(job) or {}).items():
    if name not in measured:
      measured[name] = _measure(buffers, job, measure, measured)
  call = job_lib.call_of(job, chunks=True)
  folded = core.fold_path(key, job.name) if contract.draws(job.op) else None
  for at, count, blocks in job_lib.read_blocks(buffers, job, start, stop):
    more = {}
    if folded is not None:  # draws what the whole leaf draws there
      more = dict(key=_draw.at_block(folded, np.int32(at // BLOCK)))
    out, finite = call(*blocks, job_lib.weight_of(job), **measured, **more)
    if not finite:
      job_lib.raise_not_finite(job, (blocks[0], *blocks[1]))
    yield at, np.asarray(out)[:count]


def _measure(buffers, job, measure, earlier):
  """The value of a measure of the whole tensor."""
  if isinstance(measure, contract.Choice):
    return measure.choose(job_lib.Rows(buffers, [job], measure),
                          **job.settings)
  call = job_lib.measure_call(job, measure)
  parameters = inspect.signature(measure.of_leaf).parameters
  more = {name: value for name, value in earlier.items() if name in parameters}
  total = 0.0
  for _, _, blocks in job_lib.read_blocks(buffers, job, 0, job.base.size):
    total += np.asarray(call(*blocks, job_lib.weight_of(job), **more),
                        np.float64)
  return np.asarray(total, np.float32)


def draws(jobs: Sequence[Job]) -> bool:
  """Whether any of the jobs needs a key."""
  return any(job.op and contract.draws(job.op) for job in jobs)
