"""Tables that the launcher prints: metrics, sizes, arms over seeds."""
from collections.abc import Mapping, Sequence
import csv
import io
import math
import re
import time
from typing import Any, NamedTuple

import jax
from jax import numpy as jnp

from kt_jax.core import statistics

# A metric with one of these words in its name is better when lower.
LOWER = {'nll', 'loss', 'ece', 'error', 'perplexity', 'forgetting', 'brier',
         'barrier'}


class Row(NamedTuple):
  """One metric of one arm, against the baseline."""
  arm: str
  metric: str
  mean: float
  sd: float | None  # over seeds, None for one
  n: int
  difference: float | None = None  # to the baseline, over the seeds of both
  se: float | None = None
  verdict: str = ''


def metrics(values: Mapping[str, Any] | None) -> str:
  """The metrics of a run in one line, below its table if it has one."""
  values = dict(values or {})
  table = values.pop('table', None)
  cells = [f'{k} {v:.6g}' if isinstance(v, float) else f'{k} {v}'
           for k, v in sorted(values.items())]
  return '\n'.join(([table.rstrip()] if table else [])
                   + (['  '.join(cells)] if cells else []))


# Field of a report -> column of the table.
COLUMNS = dict(state_bytes='state memory', step_flops='FLOPs per step',
               step_bytes='peak memory per step')


def sizes(reports: Sequence[tuple[str, Any]]) -> str:
  """Sizes and costs of runs, `(arm, train.Report)`s."""
  if not reports:
    return 'The config is valid; there is nothing to train.'
  # A product on one CPU device takes all cores, simulated devices or not.
  rate = _flops_per_second() * (
      jax.process_count() if jax.default_backend() == 'cpu'
      else jax.device_count())
  rows, total = [], 0.0
  for arm, item in reports:
    fields = item._asdict()
    lowered = fields.pop('lowered', None)
    if lowered is not None:
      fields['step_bytes'] = _peak(lowered)
    seconds = fields['step_flops'] * fields['steps'] / rate
    total += seconds
    rows.append(({'arm': arm} if arm else {}) | {
        COLUMNS.get(k, k): _size(k, v) for k, v in fields.items()
    } | {'min. time': _duration(seconds)})
  return table([list(rows[0]), *(list(row.values()) for row in rows)]) + (
      f'\n\nmin. time, {_duration(total)} in total: the arithmetic of the '
      f'steps at the {_si(rate)}FLOP/s that a matrix product reaches here '
      'now. Data, evaluation and smaller operations come on top.')


def _peak(lowered) -> int | None:
  """Peak memory of a step in bytes, its state and batch included."""
  memory = lowered.compile().memory_analysis()
  return memory and (
      memory.argument_size_in_bytes + memory.output_size_in_bytes
      + memory.temp_size_in_bytes - memory.alias_size_in_bytes)


def _flops_per_second(seconds: float = 0.2) -> float:
  """Of a float32 matrix product on one device."""
  n = 1024 if jax.default_backend() == 'cpu' else 8192
  x = jnp.ones((n, n))
  product = jax.jit(lambda x: x @ x * 0.5)
  product(x).block_until_ready()
  begin, count = time.perf_counter(), 0
  while time.perf_counter() - begin < seconds:
    product(x).block_until_ready()
    count += 1
  return 2 * n**3 * count / (time.perf_counter() - begin)


def _size(field: str, value) -> str:
  if value is None:
    return '?'
  if field.endswith('_bytes'):
    return (f'{value / 2**20:,.1f} MiB' if value > 2**20
            else f'{value / 2**10:,.1f} KiB')
  if field.endswith('flops'):
    return _si(value) if value > 0 else '?'
  return f'{value:,}' if isinstance(value, int) else str(value)


def _si(value: float) -> str:
  for unit in ('', 'k', 'M', 'G', 'T'):
    if value < 1000:
      return f'{value:.3g} {unit}'
    value /= 1000
  return f'{value:.3g} P'


def _duration(s: float) -> str:
  if s < 60:
    return f'{s:.2g} s' if s < 10 else f'{s:.0f} s'
  return (f'{s / 60:.0f} min' if s < 3600 else f'{s / 3600:.1f} h'
          if s < 48 * 3600 else f'{s / 86400:.1f} days')


def table(cells: Sequence[Sequence[str]], *, bars: bool = False,
          numbers: bool = False) -> str:
  """Aligned lines, the first the head; with `bars` they are Markdown too.

  `numbers` aligns all but the first column to the right and shows NaN as -.
  """
  if numbers:
    cells = [[re.sub(r'\+?\bnan\b', '-', c) for c in line] for line in cells]
  widths = [max(map(len, column)) for column in zip(*cells)]
  lines = [[c.rjust(w) if numbers and i else c.ljust(w)
            for i, (c, w) in enumerate(zip(line, widths))] for line in cells]
  if not bars:
    return '\n'.join('  '.join(line).rstrip() for line in lines)
  rule = ['-' * (w + 1) + (':' if numbers and i else '-')
          for i, w in enumerate(widths)]
  lines = [f'| {" | ".join(line)} |' for line in lines]
  return '\n'.join([lines[0], f'|{"|".join(rule)}|', *lines[1:]])


def compare(results: Mapping[tuple[str, int], Mapping[str, Any]], baseline: str
           ) -> list[Row]:
  """Means over seeds, and differences paired by seed, of every metric."""
  values: dict[str, dict[str, dict[int, float]]] = {}  # by metric, arm, seed
  for (arm, seed), metrics in results.items():
    for name, value in metrics.items():
      if not isinstance(value, (str, bool, Mapping)):
        values.setdefault(name, {}).setdefault(arm, {})[seed] = float(value)
  rows = []
  for metric, arms in sorted(values.items()):
    for arm, by_seed in arms.items():
      mean, se, n = statistics.mean(list(by_seed.values()))
      row = Row(arm, metric, mean, se * math.sqrt(n) if n > 1 else None, n)
      base = arms.get(baseline) or {}
      paired = statistics.mean(
          [v - base[seed] for seed, v in by_seed.items() if seed in base])
      if paired.n and arm != baseline:
        sign = -1 if LOWER & set(re.split(r'[^a-z]', metric.lower())) else 1
        row = row._replace(
            difference=paired.value, se=paired.se if paired.n > 1 else None,
            verdict=statistics.verdict(sign * paired.value, *paired[1:]))
      rows.append(row)
  return rows


def markdown(rows: Sequence[Row], baseline: str) -> str:
  """The table; widths agree, so that it reads well in a terminal too."""
  lines = [table([Row._fields] + [[_text(v) for v in row] for row in rows],
                 bars=True)]
  if baseline:
    lines += ['', f'difference: to {baseline}, paired by seed; se: its '
              'standard error. holds: better by more than two se; fails: '
              'worse by more; lower is better for nll, loss, ece, error and '
              'the like.']
  return '\n'.join(lines) + '\n'


def table_csv(rows: Sequence[Row]) -> str:
  out = io.StringIO()
  csv.writer(out, lineterminator='\n').writerows([Row._fields, *rows])
  return out.getvalue()


def _text(value) -> str:
  if isinstance(value, float):
    return f'{value:.4g}' if abs(value) < 1e4 else f'{value:.6g}'
  return '' if value is None else str(value)
