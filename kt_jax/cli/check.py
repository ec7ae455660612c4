"""--check: problems and costs of a merge, from headers alone."""
from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

from kt_jax import merge
from kt_jax.cli import problems as problems_lib
from kt_jax.merge import stream


class MergeReport(NamedTuple):
  """Problems and costs of a merge."""
  problems: tuple[problems_lib.Problem, ...]
  treatments: Mapping[str, int]  # merged, copied, renamed: how many tensors
  read_bytes: int  # with the passes that measure
  write_bytes: int
  memory_bytes: int  # at most, of arrays; beside what JAX itself takes
  operators: Mapping[str, int]  # name -> tensors

  @property
  def fails(self) -> bool:
    return any(p.level == 'error' for p in self.problems)

  def text(self) -> str:
    """One line for each problem, then the sums."""
    sizes = (f'reads {_size(self.read_bytes)}, writes '
             f'{_size(self.write_bytes)}, needs about '
             f'{_size(self.memory_bytes)} of memory')
    counts = ', '.join(f'{n} {what}' for what, n in self.treatments.items())
    used = ', '.join(f'{name} ({n})' for name, n in self.operators.items())
    return '\n'.join([*map(str, self.problems), f'tensors: {counts}',
                      f'operators: {used or "none"}', sizes])


def check_plan(plan, *, threads: int = 2) -> MergeReport:
  """Sums up a plan.

  Args:
    plan: `plan.Plan`.
    threads: workers of the run.
  """
  merged = [job for job in plan.jobs if job.op]
  costs = sorted(map(_memory, plan.jobs), reverse=True)
  return MergeReport(
      plan.problems,
      dict(merged=len(merged), copied=len(plan.jobs) - len(merged),
           renamed=plan.renamed),
      sum(_reads(job) for job in plan.jobs),
      sum(_writes(job) for job in plan.jobs),
      sum(costs[:threads]),
      dict(Counter(job.op.__name__ for job in merged)))


def _reads(job) -> int:
  inputs = sum(t.nbytes for t in (job.base, *job.models) if hasattr(t, 'nbytes')
               and not getattr(t, 'is_zero', False))
  passes = 1
  measures = merge.contract_of(job.op).chunk_measures(job.settings)
  for name, measure in (measures or {}).items():
    if name not in job.measured:  # a choice takes a sample first
      passes += 2 if isinstance(measure, merge.Choice) else 1
  return passes * inputs


def _writes(job) -> int:
  dtype = job.base.dtype if job.dtype is None else job.dtype
  return job.base.size * dtype.itemsize


def _memory(job) -> int:
  """Arrays of one worker: what is read, in float32, and the result."""
  count = 1 + len(job.models)
  if not job.op:
    return min(job.base.size, stream.BLOCK) * job.base.dtype.itemsize
  if merge.contract_of(job.op).chunk_measures(job.settings) is None:
    return (count + 1) * job.base.size * 4
  return (2 * count + 1) * min(job.base.size, stream.BLOCK) * 4


def _size(count: float) -> str:
  for unit in ('B', 'kB', 'MB', 'GB'):
    if count < 1000:
      return f'{count:.3g} {unit}'
    count /= 1000
  return f'{count:.3g} TB'
