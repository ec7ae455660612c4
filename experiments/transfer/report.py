"""Report of transfers between pairs of models: tables, claims, plots.

`pairs.csv` has a row per (seed, method, student, teacher), teacher '' where the
method uses none; `multi.csv`, optional, a row per (seed, student, mode) of
transfers from several teachers. Accuracies, rho, gain and loss are fractions
of the test examples there, delta is in points; the report is in points.

  python -m experiments.transfer.report DIR   # rewrites that of a finished run

Here, `runs` maps (seed, student, teacher) to a row; a pair is (student,
teacher), its value a mean over seeds; a gap is teacher minus student accuracy.
"""
import argparse
import collections
import csv
import math
from typing import Any

from etils import epath
import numpy as np

from experiments.transfer import plots
from kt_jax import checkpoint
from kt_jax import core
from kt_jax.core import statistics
from kt_jax.launch import report

PARTS = {  # of the pairs, by gap; the authors say 'stronger' from 3 points on
    'all pairs': (-math.inf, math.inf), 'teacher weaker': (-math.inf, 0),
    'teacher as good or stronger': (0, math.inf),
    'teacher 3+ points stronger': (3, math.inf)}
NOISE = ('above', 'within noise', 'below')  # verdicts where nothing is claimed


def write(workdir, *, reference: str, unsupervised: str, baseline: str,
          second_baseline: str, control: str) -> str:
  """Writes `report.md` and its plots beside `pairs.csv`.

  Args:
    workdir: directory of the run.
    reference: the paper's method.
    unsupervised: the same without labels.
    baseline: method that the paper improves.
    second_baseline: another, which the summary compares as closely.
    control: method that trains as long without the knowledge of another model.

  Returns:
    The summary as plain text, at most 100 columns wide.

  Raises:
    UserError: a file is missing, cut short or contradicts itself.
  """
  workdir = epath.Path(workdir)
  methods = _read(
      workdir / 'pairs.csv', ('method', 'student', 'teacher'),
      'student_accuracy', 'teacher_accuracy', 'rho_positive', 'rho_negative',
      'count', 'gain', 'loss', 'transfer_rate')
  rows = [r | dict(gap=r['teacher_accuracy'] - r['student_accuracy'])
          for runs in methods.values() for r in runs.values() if r['teacher']]
  if not rows:
    raise core.UserError(f'{workdir}/pairs.csv names no teacher in any row.')
  # Accuracies before a transfer do not depend on the method.
  before = {(r['seed'], r['student'], r['teacher']): r for r in rows}
  rho, gaps = (_by_pair(before, k, 100) for k in ('rho_positive', 'gap'))
  models = _models(rows)
  deltas = {name: _by_pair(runs, 'delta') for name, runs in methods.items()}
  plots.draw(workdir, deltas, gaps, rho, models)

  scope = (f'{len(gaps)} pairs of {len(models)} models (test accuracy '
         f'{min(models.values()):.1f} to {max(models.values()):.1f}%), '
         f'seeds of the transfer: {len({seed for seed, *_ in before})}')
  knowledge = _knowledge(rows, rho)
  matrix = [['student \\ teacher, %', 'accuracy', *models]] + [
      [s, f'{a:.2f}', *(f'{rho.get((s, t), math.nan):.2f}' for t in models)]
      for s, a in models.items()]
  by_method = [['method', 'n', 'success', 'improved [95%]', 'delta', 's.e.',
                'worst 25%', 'weaker', 'others', '3+', 'gain', 'loss', 'rate']
              ] + [_method(name, runs, gaps) for name, runs in methods.items()]
  head, *claims = _claims(
      methods, gaps, reference, baseline, control, unsupervised)
  table = lambda cells, **kw: report.table(cells, numbers=True, **kw)
  several = workdir / 'multi.csv'
  multi = _multi(several) if several.exists() else []
  checkpoint.write_atomic(workdir / 'report.md', '\n\n'.join([
      '# Knowledge transfer between pairs of models',
      f'{scope}; methods: {", ".join(methods)}.',
      '## Complementary knowledge', knowledge, table(matrix, bars=True),
      '![rho_positive by pair](complementary.png)',
      '## Transfer by method', table(by_method, bars=True), _METHOD_NOTE,
      '![success by method](success.png)',
      '![delta against the gap](delta.png)', plots.NOTE,
      "## The paper's claims on these numbers",
      table([head, *claims], bars=True), _CLAIM_NOTE.format(n=len(claims)),
      *(['## Several teachers', table(multi, bars=True), _MULTI_NOTE]
        if multi else [])]) + '\n')

  # Chosen by label, not by outcome; the outcomes of the rest are counted.
  brief = [c for c in claims if 'share of' not in c[0] and (
      '3+' not in c[0] or f'above {baseline},' in c[0]
      or f'above {second_baseline},' in c[0])]
  rest = collections.Counter(c[-1] for c in claims if c not in brief)
  text = [scope, knowledge, '', table([row[:10] for row in by_method]), '',
          table([head, *brief]), f'{rest.total()} more in report.md: '
          + ', '.join(f'{n} {verdict}' for verdict, n in rest.items()),
          *(['', table(multi)] if multi else [])]
  return '\n'.join(line[:100] for line in '\n'.join(text).split('\n'))


def _read(path, names, before, *more):
  """names[0] -> runs; `before` is the column of the accuracy at the start."""
  numbers = {before, 'accuracy', 'delta', *more}
  table, line = collections.defaultdict(dict), 1
  try:
    reader = csv.DictReader(path.read_text().splitlines())
    lacks = {'seed', *names, *numbers} - set(reader.fieldnames or ())
    if lacks:
      raise ValueError(f'lacks columns {", ".join(sorted(lacks))}')
    for cells in reader:
      line += 1
      row: dict[str, Any] = {'teacher': ''} | cells | {
          k: float(cells[k]) for k in numbers}  # None where it is cut short
      if not abs(row['delta'] - 100 * (row['accuracy'] - row[before])) < .05:
        raise ValueError(f'delta is not 100 (accuracy - {before})')
      table[row[names[0]]][row['seed'], row['student'], row['teacher']] = row
  except (OSError, TypeError, ValueError, csv.Error) as e:
    raise core.UserError(f'Cannot read {path}, line {line}: {e}.') from e
  return table


def _by_pair(runs, name, scale=1):
  """pair -> mean over seeds of that column, NaN left out.

  Rounded to 1e-4, or +1 and -1 example of two seeds would be a success.
  """
  values = collections.defaultdict(list)
  for (_, *pair), row in runs.items():
    if not math.isnan(row[name]):
      values[tuple(pair)].append(scale * row[name])
  return {pair: round(float(np.mean(v)), 4) for pair, v in values.items()}


def _minus(table, a, b):
  """pair -> delta of `a` minus that of `b`, over the seeds that both have."""
  other = table.get(b, {})
  both = {key: (row, other.get(key) or other.get((*key[:2], '')))
          for key, row in table.get(a, {}).items()}
  return _by_pair({key: dict(delta=x['delta'] - y['delta'])
                   for key, (x, y) in both.items() if y}, 'delta')


def _part(values, gaps, name):
  low, high = PARTS[name]
  return {pair: value for pair, value in values.items()
          if low <= gaps.get(pair, math.nan) < high}


def _arrays(values):
  """Values by pair, and the student that each pair shares with others."""
  return np.array(list(values.values())), [student for student, _ in values]


def _mean(values):
  return statistics.mean(*_arrays(values))


def _models(rows):
  """model -> percent, in ascending order."""
  accuracies = collections.defaultdict(list)
  for r in rows:
    for role in ('student', 'teacher'):
      accuracies[r[role]].append(100 * r[f'{role}_accuracy'])
  means = {m: float(np.mean(v)) for m, v in accuracies.items()}
  return dict(sorted(means.items(), key=lambda item: item[1]))


def _knowledge(rows, rho):
  """Two sentences on rho; the second is an identity of the counts."""
  off = np.max([abs(r['count'] * (r['gap'] - r['rho_positive']
                                  + r['rho_negative'])) for r in rows])
  return (
      f'rho_positive > 0 in {sum(v > 0 for v in rho.values())} of {len(rho)} '
      f'pairs, at least {min(rho.values()):.2f}%.\n'
      f'acc_t - acc_s = rho_pos - rho_neg {"holds" if off < .5 else "FAILS"}: '
      f'at most {off:.0f} examples off in {len(rows)} rows.')


def _method(name, runs, gaps):
  """Row of the table by method."""
  delta = _by_pair(runs, 'delta')
  d, students = _arrays(delta)
  mean, se, n = _mean(delta)
  wins = int(np.sum(d > 0))
  low, high = statistics.wilson(wins, n)
  success = f'{statistics.success_rate(d, students):.1f}%'
  return [
      name[:20], str(n), success if any(t for _, t in delta) else '-',
      f'{wins / n:.0%} [{100 * low:.0f}, {100 * high:.0f}]', f'{mean:+.2f}',
      f'{se:.2f}', f'{statistics.worst_quartile(d):+.2f}',
      *(f'{_mean(_part(delta, gaps, part)).value:+.2f}'
        for part in list(PARTS)[1:]),
      *(f'{_mean(_by_pair(runs, column, scale)).value:.2f}' for column, scale
        in (('gain', 100), ('loss', 100), ('transfer_rate', 1)))]


def _claims(methods, gaps, reference, baseline, control, unsupervised):
  """Table of the claims."""
  above, apart = f'{reference} above', f'{unsupervised} minus {reference}'
  d = _minus(methods, reference, baseline)
  estimates = {f'{above} {baseline}, {part}': _mean(_part(d, gaps, part))
           for part in PARTS}
  estimates['gap larger where the teacher is weaker'] = statistics.welch(*(
      _arrays(_part(d, gaps, part))
      for part in ('teacher weaker', 'teacher as good or stronger')))
  estimates[f'{above} {control} of the student'] = _mean(
      _minus(methods, reference, control))
  estimates[apart] = _mean(_minus(methods, unsupervised, reference))
  a, b = (_by_pair(methods.get(m, {}), 'delta') for m in (reference, baseline))
  both, students = _arrays({p: (a[p], b[p]) for p in a if p in b})
  for label, f in (
      ('success rate', statistics.success_rate),
      ('share of pairs improved', lambda d, _: 100 * np.mean(d > 0)),
      ('worst quartile', lambda d, _: statistics.worst_quartile(d))):
    estimates[f'{above} {baseline}, {label}'] = statistics.bootstrap(
        lambda i, s, f=f: f(both[i, 0], s) - f(both[i, 1], s), students)
  for name in methods:
    if name not in (reference, baseline, control, unsupervised):
      d = _minus(methods, reference, name)
      for part in ('all pairs', 'teacher 3+ points stronger'):
        estimates[f'{above} {name}, {part}'] = _mean(_part(d, gaps, part))
  return [['claim', 'difference', 's.e.', 'n', 'verdict']] + [
      [label[:58], f'{e.value:+.2f}', f'{e.se:.2f}', str(e.n),
       statistics.verdict(*e, *[NOISE] * (label == apart))]
      for label, e in estimates.items()]


def _multi(path):
  """Table of transfers from several teachers."""
  modes = _read(path, ('mode', 'student'), 'accuracy_before')
  others = ('single_mean', 'best_single')
  rows = [['mode', 'n', 'delta', *(f'- {other}' for other in others)]]
  show = lambda e: f'{e.value:+.2f} ± {e.se:.2f}'
  for mode, runs in modes.items():
    delta = _mean(_by_pair(runs, 'delta'))
    rows.append([mode[:20], str(delta.n), show(delta)])
    for other in others:
      e = _mean(_minus(modes, mode, other))
      rows[-1].append(f'{show(e)}, {statistics.verdict(*e, NOISE)}'
                      if e.n and mode != other else '-')
  return rows


_METHOD_NOTE = """\
Over pairs, each a mean over seeds. success: median over students of the share
of teachers with delta > 0, as in the paper. improved: share of pairs, its
Wilson interval as if they were independent. worst 25%: mean delta of the lowest
quarter; weaker, others, 3+: where the teacher is < 0, >= 0, >= 3 points better.
gain, loss: points. rate: transfer rate. s.e.: over pairs or, with more than 3
students, clustered by student where that is larger."""
_CLAIM_NOTE = """\
Paired over the seeds that both have. A claim holds if the difference exceeds
two standard errors, fails if it does so the other way, else it is undecided.
Errors of success rate, share and worst quartile are bootstrapped. Pairs also
share teachers, and seeds the pool, which no error here sees. With {n} tests at
two errors of few students, about one in ten would decide by chance."""
_MULTI_NOTE = 'Means over n students; the last two columns are paired by them.'


def main() -> None:
  parser = argparse.ArgumentParser(description='Rewrites report.md of a run.')
  parser.add_argument('workdir')
  try:
    workdir = parser.parse_args().workdir
    config = checkpoint.read_json(f'{workdir}/config.json')
    print(write(workdir, **config['report']))
  except core.UserError as e:
    raise SystemExit(str(e)) from None


if __name__ == '__main__':
  main()
