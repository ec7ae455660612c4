"""Report of transfers between pairs of models: tables, claims, plots.

`pairs.csv` has a row per (seed, method, student, teacher), teacher '' where the
method uses none; `multi.csv`, optional, a row per (seed, student, mode) of
transfers from several teachers. Accuracies, rho, gain and loss are fractions
of the test examples there, delta is in points; the report is in points.

  python -m experiments.transfer_report DIR   # rewrites that of a finished run

Here, `runs` maps (seed, student, teacher) to a row; a pair is (student,
teacher), its value a mean over seeds; a gap is teacher minus student accuracy.
"""
import argparse
import collections
import csv
import math

from etils import epath
import numpy as np

from kt_jax import checkpoint
from kt_jax import core
from experiments import report
from experiments import statistics
from experiments import transfer_plots

PARTS = {  # of the pairs, by gap; the authors say 'stronger' from 3 points on
    'all pairs': (-math.inf, math.inf), 'teacher weaker': (-math.inf, 0),
    'teacher as good or stronger': (0, math.inf),
    'teacher 3+ points stronger': (3, math.inf)}
NOISE = ('above', 'within noise', 'below')  # verdicts where nothing is claimed


def write(workdir, *, control='self', baseline='kl', rival='xe_kl_mcl',
          reference='dp', unsupervised='dp_unsupervised') -> str:
  """Writes `report.md` and its plots beside `pairs.csv`.

  Args:
    workdir: directory of the run.
    control: name of the method that trains as long without another's knowledge.
    baseline: of that which the paper improves.
    rival: of another, which the summary compares as closely.
    reference, unsupervised: of the paper's method, with labels and without.

  Returns:
    The summary as plain text, at most 100 columns wide.

  Raises:
    UserError: a file is missing, empty, cut short or contradicts itself.
  """
  workdir = epath.Path(workdir)
  methods = _read(
      workdir / 'pairs.csv', ('method', 'student', 'teacher'),
      'student_accuracy', ('gain', 'loss', 'transfer_rate'),
      ('teacher_accuracy', 'rho_positive', 'rho_negative', 'count'))
  # What models know before transfer is the same in the rows of all methods.
  before = {key: r | dict(gap=r['teacher_accuracy'] - r['student_accuracy'])
            for runs in methods.values() for key, r in runs.items() if key[2]}
  if not before:
    raise core.UserError(f'{workdir}/pairs.csv names no teacher in any row.')
  rho, gaps = (_by_pair(before, k, 100) for k in ('rho_positive', 'gap'))
  models = _models(before.values())
  deltas = {name: _by_pair(runs, 'delta') for name, runs in methods.items()}
  transfer_plots.draw(workdir, deltas, gaps, rho, models)

  ran = (f'{len(gaps)} pairs of {len(models)} models (test accuracy '
         f'{min(models.values()):.1f} to {max(models.values()):.1f}%), '
         f'seeds: {len({seed for seed, *_ in before})}')
  know = _knowledge(before.values(), rho, gaps)
  matrix = [['student \\ teacher, %', 'accuracy', *models]] + [
      [s, f'{a:.2f}', *(_number(rho.get((s, t), math.nan), '.2f')
                        for t in models)] for s, a in models.items()]
  by_method = [['method', 'n', 'success', 'improved [95%]', 'delta', 's.e.',
                'worst 25%', 'weaker', 'others', '3+', 'gain', 'loss', 'rate']
              ] + [_method(name, runs, gaps) for name, runs in methods.items()]
  head = ['claim', 'difference', 's.e.', 'n', 'verdict']
  claims = _claims(methods, gaps, reference, baseline, control, unsupervised)
  multi = [_multi(_read(path, ('mode', 'student'), 'accuracy_before'))
           for path in [workdir / 'multi.csv'] if path.exists()]
  table = lambda cells: report.table(cells, bars=True, right=True)
  checkpoint.write_atomic(workdir / 'report.md', '\n\n'.join([
      '# Knowledge transfer between pairs of models',
      f'{ran}; methods: {", ".join(methods)}.',
      '## Complementary knowledge', know, table(matrix),
      '![rho_positive by pair](complementary.png)',
      '## Transfer by method', table(by_method), _METHOD_NOTE,
      '![success by method](success.png)',
      '![delta against the gap](delta.png)', _CURVE_NOTE,
      "## The paper's claims on these numbers", table([head, *claims]),
      _CLAIM_NOTE.format(n=len(claims)),
      *('\n\n'.join(['## Several teachers', table(cells), _MULTI_NOTE])
        for cells in multi)]) + '\n')

  # Chosen by label, whatever came out; what came out of the rest is counted.
  brief = [c for c in claims if 'share of' not in c[0] and (
      '3+' not in c[0] or f'above {baseline},' in c[0]
      or f'above {rival},' in c[0])]
  rest = collections.Counter(c[-1] for c in claims if c not in brief)
  table = lambda cells: '\n' + report.table(cells, right=True)
  text = '\n'.join([
      ran, know, table([row[:10] for row in by_method]), table([head, *brief]),
      f'{rest.total()} more in report.md: '
      + ', '.join(f'{n} {verdict}' for verdict, n in rest.items()),
      *map(table, multi)])
  return '\n'.join(line[:100] for line in text.split('\n'))


def _read(path, names, before, more=(), of_teacher=()):
  """names[0] -> runs; `before` is the column of the accuracy at the start."""
  numbers = {before, 'accuracy', 'delta', *more, *of_teacher}
  table, line = collections.defaultdict(dict), 1
  try:
    reader = csv.DictReader(path.read_text().splitlines())
    lacks = {'seed', *names, *numbers} - set(reader.fieldnames or ())
    if lacks:
      raise ValueError(f'lacks columns {", ".join(sorted(lacks))}')
    for line, row in enumerate(reader, 2):  # None where it is cut short
      row = {'teacher': ''} | row | {k: float(row[k]) for k in numbers}
      if not abs(row['delta'] - 100 * (row['accuracy'] - row[before])) < .05:
        raise ValueError(f'delta is not 100 (accuracy - {before})')
      if row['teacher'] and not all(math.isfinite(row[k]) for k in of_teacher):
        raise ValueError(f'{", ".join(of_teacher)} must be finite')
      table[row[names[0]]][row['seed'], row['student'], row['teacher']] = row
  except (OSError, TypeError, ValueError, csv.Error) as e:
    raise core.UserError(f'Cannot read {path}, line {line}: {e}.') from e
  return table


def _by_pair(runs, name, scale=1):
  """pair -> mean over seeds of that column, NaN left out.

  Rounded to 1e-4, or +1 and -1 example of two seeds would be a success.
  """
  found = collections.defaultdict(list)
  for (_, *pair), row in runs.items():
    if not math.isnan(row[name]):
      found[tuple(pair)].append(scale * row[name])
  return {pair: round(float(np.mean(v)), 4) for pair, v in found.items()}


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
  """Values by pair, and what pairs share: the student."""
  return np.array(list(values.values())), [student for student, _ in values]


def _mean(values):
  return statistics.mean(*_arrays(values))


def _models(rows):
  """model -> percent, in ascending order."""
  seen = collections.defaultdict(list)
  for r in rows:
    for who in ('student', 'teacher'):
      seen[r[who]].append(100 * r[f'{who}_accuracy'])
  means = {m: float(np.mean(v)) for m, v in seen.items()}
  return dict(sorted(means.items(), key=lambda item: item[1]))


def _knowledge(rows, rho, gaps):
  """Two sentences on rho; the second is an identity of the counts."""
  off = max(abs(round(r['count'] * (
      r['gap'] - r['rho_positive'] + r['rho_negative']))) for r in rows)
  weaker = min(_part(rho, gaps, 'teacher weaker').values(), default=math.nan)
  return (
      f'rho_positive > 0 in {sum(v > 0 for v in rho.values())} of {len(rho)} '
      f'pairs; at least {min(rho.values()):.2f}%, of weaker teachers '
      f'{_number(weaker, ".2f")}%.\n'
      f'acc_t - acc_s = rho_pos - rho_neg {"FAILS" if off else "holds"}: at '
      f'most {off} examples off, {len(rows)} measurements.')


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
      _number(se, '.2f'), f'{statistics.worst_quartile(d):+.2f}',
      *(_number(_mean(_part(delta, gaps, part)).value, '+.2f')
        for part in list(PARTS)[1:]),
      *(_number(_mean(_by_pair(runs, *of)).value, '.2f') for of in (
          ('gain', 100), ('loss', 100), ('transfer_rate',)))]


def _claims(methods, gaps, reference, baseline, control, unsupervised):
  """Rows of the table of claims."""
  head, compared = f'{reference} above', f'{unsupervised} minus {reference}'
  d = _minus(methods, reference, baseline)
  found = {f'{head} {baseline}, {part}': _mean(_part(d, gaps, part))
           for part in PARTS}
  found['gap larger where the teacher is weaker'] = statistics.welch(
      *(_arrays(_part(d, gaps, part)) for part in list(PARTS)[1:3]))
  found[f'{head} {control} of the student'] = _mean(
      _minus(methods, reference, control))
  found[compared] = _mean(_minus(methods, unsupervised, reference))
  a, b = (_by_pair(methods.get(m, {}), 'delta') for m in (reference, baseline))
  both, students = _arrays({p: (a[p], b[p]) for p in a if p in b})
  for label, f in (
      ('success rate', statistics.success_rate),
      ('share of pairs improved', lambda d, _: 100 * np.mean(d > 0)),
      ('worst quartile', lambda d, _: statistics.worst_quartile(d))):
    found[f'{head} {baseline}, {label}'] = statistics.bootstrap(
        lambda i, s, f=f: f(both[i, 0], s) - f(both[i, 1], s), students)
  for name in methods:
    if name not in (reference, baseline, control, unsupervised):
      d = _minus(methods, reference, name)
      for part in ('all pairs', 'teacher 3+ points stronger'):
        found[f'{head} {name}, {part}'] = _mean(_part(d, gaps, part))
  return [[label[:58], _number(e.value, '+.2f'), _number(e.se, '.2f'), str(e.n),
           statistics.verdict(*e, *[NOISE] * (label == compared))]
          for label, e in found.items()]


def _multi(modes):
  """Table of several teachers."""
  show = lambda e: f'{e.value:+.2f} ± {_number(e.se, ".2f")}'
  rows = [['mode', 'n', 'delta', '- single_mean', '- best_single']]
  for mode, runs in modes.items():
    delta = _mean(_by_pair(runs, 'delta'))
    rows.append([mode[:20], str(delta.n), show(delta)])
    for other in rows[0][3:]:
      e = _mean(_minus(modes, mode, other.removeprefix('- ')))
      rows[-1].append(f'{show(e)}, {statistics.verdict(*e, NOISE)}'
                      if e.n and not other.endswith(mode) else '-')
  return rows


def _number(value, spec):
  return '-' if math.isnan(value) else f'{value:{spec}}'


_METHOD_NOTE = """\
success: median over students of the share of teachers with delta > 0 (the
paper's). improved: plain share of pairs; its Wilson interval takes pairs as
independent. delta: mean, in points. worst 25%: mean of the lowest quarter.
weaker, others, 3+: mean delta where teacher minus student accuracy is < 0,
>= 0, >= 3 points. gain, loss: points gained and lost. rate: transfer rate.
s.e.: over pairs or, with more than 3 students, clustered by student if larger.
"""
_CURVE_NOTE = """\
Points: pairs. Line: plain means of bins of equally many pairs; the authors'
public curve averages only the upper quarter of each bin, so it lies higher.
An axis beyond 20 points is logarithmic beyond 5."""
_CLAIM_NOTE = """\
Paired over the seeds that both have. A claim holds if the difference exceeds
two standard errors, fails if it does so the other way, else it is undecided.
Errors of success rate, share and worst quartile are bootstrapped. Pairs also
share teachers, which no error here sees. With {n} tests at two errors, about
one in twenty would decide by chance."""
_MULTI_NOTE = 'Means over n students; the last two columns are paired by them.'


def main() -> None:
  parser = argparse.ArgumentParser(description='Rewrites report.md of a run.')
  parser.add_argument('workdir')
  try:
    print(write(parser.parse_args().workdir))
  except core.UserError as e:
    raise SystemExit(str(e)) from None


if __name__ == '__main__':
  main()
