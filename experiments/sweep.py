"""Arms times seeds of one config, and the table that compares them."""
from collections.abc import Callable, Mapping, Sequence
import copy
import csv
import io
import math
import re
import statistics
from typing import Any, NamedTuple

from kt_jax import core
from experiments import config as configs

# A metric with one of these words in its name is better when lower.
LOWER = {'nll', 'loss', 'ece', 'error', 'perplexity', 'forgetting', 'brier'}


class Run(NamedTuple):
  """One run; a launch without arms and seeds is a single one."""
  arm: str
  seed: int
  config: Any
  workdir: str

  @property
  def label(self) -> str:
    return f'{self.arm}-{self.seed}'


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


def plan(base, arms: Sequence[str], seeds: str, baseline: str, workdir: str
        ) -> list[Run]:
  """Every run, seed by seed, so that early seeds already compare the arms.

  Args:
    base: config.
    arms: `NAME` or `NAME:key=value,key=value`; none: one arm, 'run'.
    seeds: '0,1,2'; '' the config's own.
    baseline: name of an arm, or ''.
    workdir: each run gets a folder in it.
  """
  changed = {}
  for text in arms or ['run']:
    name, _, changes = text.partition(':')
    if not re.fullmatch(r'[A-Za-z0-9][\w.+-]*', name):
      raise core.UserError(f'--arm {text}: {name!r} is no name for a folder; '
                           'write NAME or NAME:key=value,key=value.')
    if name in changed:
      raise core.UserError(f'--arm {name} is there twice.')
    changed[name] = copy.deepcopy(base)
    for change in split(changes):
      key, equals, value = change.partition('=')
      key = key.strip().removeprefix('config.')
      if not equals or key == 'seed':
        raise core.UserError(f'--arm {name}: {change!r} ' + (
            'belongs into --seeds.' if equals else 'is not key=value; a value '
            'with commas needs brackets or quotes.'))
      configs.override(changed[name], key, value)
  if baseline and baseline not in changed:
    raise core.UserError(core.nearest('arm (--baseline)', baseline, changed))
  if not re.fullmatch(r'(\d+(,\d+)*)?', seeds):
    raise core.UserError(f'--seeds {seeds}: expected numbers like 0,1,2.')
  if seeds and 'seed' not in base:
    raise core.UserError('--seeds: this config has no seed'
                         + ', but config.seeds.' * ('seeds' in base))
  numbers = ([int(s) for s in seeds.split(',')] if seeds
             else [base.get('seed', 0)])
  if len(set(numbers)) < len(numbers):
    raise core.UserError(f'--seeds {seeds} names a seed twice.')
  runs = []
  for seed in numbers:
    for name, config in changed.items():
      config = copy.deepcopy(config)
      if seeds:
        configs.override(config, 'seed', str(seed))
      runs.append(Run(name, seed, config,
                      f'{workdir.rstrip("/")}/{name}-{seed}'))
  return runs


def split(text: str) -> list[str]:
  """Cuts at the commas outside of brackets and quotes."""
  parts, depth, quote = [''], 0, ''
  for c in text:
    if quote:
      quote = '' if c == quote else quote
    elif c in '\'"':
      quote = c
    else:
      depth += (c in '([{') - (c in ')]}')
    if c == ',' and not quote and depth <= 0:
      parts.append('')
    else:
      parts[-1] += c
  return [p for p in parts if p.strip()]


def execute(runs: Sequence[Run], run: Callable[[Run], Mapping[str, Any]],
            failed: Callable[[Run, Exception], None] | None,
            say: Callable[[str], None]) -> dict[tuple[str, int], dict]:
  """Runs one after another in this process: `{(arm, seed): metrics}`.

  `failed` is told of a run that raised, and the next one starts; where it is
  None the exception passes, with the run's name in a note.
  """
  found = {}
  for i, item in enumerate(runs):
    say(f'[{i + 1}/{len(runs)}] {item.label}: {item.workdir}')
    try:
      found[item.arm, item.seed] = dict(run(item) or {})
    except Exception as e:
      if failed is None:
        e.add_note(f'{item.label} ({item.workdir}); the same command resumes, '
                   '--keep_going passes over failed runs')
        raise
      failed(item, e)
  return found


def compare(found: Mapping[tuple[str, int], Mapping[str, Any]], baseline: str
           ) -> list[Row]:
  """Means over seeds, and differences paired by seed, of every metric."""
  values = {}  # metric -> arm -> seed -> value
  for (arm, seed), metrics in found.items():
    for name, value in metrics.items():
      if not isinstance(value, (str, bool, Mapping)):
        values.setdefault(name, {}).setdefault(arm, {})[seed] = float(value)
  rows = []
  for metric, arms in values.items():
    for arm, have in arms.items():
      row = Row(arm, metric, statistics.fmean(have.values()),
                _sd(list(have.values())), len(have))
      base = arms.get(baseline, {})
      paired = [v - base[seed] for seed, v in have.items() if seed in base]
      if paired and arm != baseline:
        sd = _sd(paired)
        row = row._replace(
            difference=statistics.fmean(paired),
            se=None if sd is None else sd / math.sqrt(len(paired)))
        row = row._replace(verdict=_verdict(row, len(paired)))
      rows.append(row)
  return rows


def markdown(rows: Sequence[Row], baseline: str) -> str:
  """The table; widths agree, so that it reads well in a terminal too."""
  cells = [Row._fields] + [[_text(v) for v in row] for row in rows]
  widths = [max(map(len, column)) for column in zip(*cells)]
  lines = ['| ' + ' | '.join(c.ljust(w) for c, w in zip(line, widths)) + ' |'
           for line in cells]
  lines.insert(1, '|' + '|'.join('-' * (w + 2) for w in widths) + '|')
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


def _sd(values) -> float | None:
  return statistics.stdev(values) if len(values) > 1 else None


def _verdict(row: Row, pairs: int) -> str:
  if pairs < 3:
    return 'n<3'
  lower = LOWER & set(re.split(r'[^a-z]', row.metric.lower()))
  gain = -row.difference if lower else row.difference
  if not abs(gain) > 2 * row.se:  # also where a metric is NaN
    return 'undecided'
  return 'holds' if gain > 0 else 'fails'


def _text(value) -> str:
  if isinstance(value, float):
    return f'{value:.4g}' if abs(value) < 1e4 else f'{value:.6g}'
  return '' if value is None else str(value)
