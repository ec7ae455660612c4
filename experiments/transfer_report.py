"""Report of transfers between pairs of models: tables, claims, plots.

`pairs.csv` has a row per (seed, method, student, teacher), teacher '' where the
method uses none; `multi.csv`, optional, a row per (seed, student, mode) of
transfers from several teachers. Accuracies, rho, gain and loss are fractions
of the test examples there, delta is in points; the report is in points.

  python -m experiments.transfer_report DIR   # rewrites that of a finished run

Letters: P pairs, each a mean over seeds; d a delta or a difference of deltas.
"""
import argparse
import csv
import io
import math

from etils import epath
import numpy as np

from kt_jax import checkpoint
from kt_jax import core
from kt_jax.train import plots

TEACHER = ('teacher_accuracy', 'rho_positive', 'rho_negative')
CHANGES = ('gain', 'loss', 'transfer_rate')
BLUE, ORANGE, GREY = '#0072B2', '#D55E00', '#777777'  # Okabe and Ito's
STRONG = 3.  # points from which the paper's authors call a teacher stronger


def write(workdir, *, control='self', baseline='kl', reference='dp',
          unsupervised='dp_unsupervised') -> str:
  """Writes `report.md` and its plots beside `pairs.csv`.

  Args:
    workdir: directory of the run.
    control: method that trains as long without a teacher's knowledge.
    baseline: method that the paper improves.
    reference: the paper's method.
    unsupervised: the same without labels.

  Returns:
    The summary as plain text, at most 100 columns wide.

  Raises:
    UserError: a file is missing, empty, cut short or holds impossible numbers.
  """
  workdir = epath.Path(workdir)
  table, dropped = _table(workdir / 'pairs.csv', 'method', 'student_accuracy',
                          (*TEACHER, *CHANGES, 'count'))
  rows = [r for t in table.values() for r in t.values() if r['teacher']]
  if not rows:
    raise core.UserError(f'{workdir}/pairs.csv names no teacher in any row.')
  gaps = _by_pair({(r['seed'], r['student'], r['teacher']): r['gap']
                   for r in rows})
  seeds = {key[0] for t in table.values() for key in t}
  models = _models(rows)
  stats = {name: _stats(t, gaps) for name, t in table.items()}
  know, rho = _knowledge(rows, gaps)
  claims = _claims(table, gaps, control, baseline, reference, unsupervised)
  multi = _multi(workdir / 'multi.csv')

  methods = (['method', 'n', 'success', 'improved [95%]', 'delta', 's.e.',
              'worst 25%', 'weaker', 'others', '3+', 'gain', 'loss', 'rate'],
             [_stat_row(name, s) for name, s in stats.items()])
  claimed = (['claim', 'difference', 's.e.', 'n', 'verdict'],
             [[label[:58], _num(d, '+.2f'), _num(se, '.2f'), str(n), verdict]
              for label, d, se, n, verdict in claims])
  ran = (f'{len(gaps)} pairs of {len(models)} models (test accuracy '
         f'{min(models.values()):.1f} to {max(models.values()):.1f}%), '
         f'seeds: {len(seeds)}')
  left = f'{dropped} rows without finite accuracies left out.'
  _draw(workdir, table, gaps, rho, models, stats)
  checkpoint.write_atomic(workdir / 'report.md', '\n'.join([
      '# Knowledge transfer between pairs of models', '', '## What was run', '',
      f'{ran}; methods: {", ".join(table)}.', left if dropped else '', '',
      _markdown(['model', 'test accuracy, %'],
                [[m, f'{a:.2f}'] for m, a in models.items()]),
      '## Complementary knowledge', '', *know, '',
      '![rho_positive by pair](complementary.png)', '',
      '## Transfer by method', '', _markdown(*methods), _METHOD_NOTE, '',
      '![success by method](success.png)', '',
      '![delta against the gap](delta.png)', '', _CURVE_NOTE, '',
      "## The paper's claims on these numbers", '', _markdown(*claimed),
      _CLAIM_NOTE.format(n=len(claims)), '',
      *(['## Several teachers', '', _markdown(*multi), _MULTI_NOTE]
        if multi else [])]))
  return '\n'.join(line[:100] for text in (
      ran, *know[:2], left * bool(dropped),
      _plain(methods[0][:10], [row[:10] for row in methods[1]]),
      _plain(*claimed),
      _plain(*multi) if multi else '') if text for line in text.split('\n'))


def _table(path, group, before, more=()):
  """group -> (seed, student, teacher) -> row; and the number of rows left out.

  A row written twice counts once; two results of one transfer are refused.
  """
  numbers = (before, 'accuracy', 'delta', *more)
  try:
    reader = csv.DictReader(io.StringIO(path.read_text()))
    rows = list(reader)
  except (OSError, UnicodeDecodeError, csv.Error) as e:
    raise core.UserError(f'Cannot read {path}: {e}.') from e
  lacks = {'seed', 'student', group, *numbers} - set(reader.fieldnames or ())
  lacks |= {'teacher'} - set(reader.fieldnames or ()) if more else set()
  if lacks and reader.fieldnames:
    raise core.UserError(f'{path} lacks columns: {", ".join(sorted(lacks))}.')
  table, dropped = {}, 0
  for line, row in enumerate(rows, 2):
    row = {**row, 'teacher': row['teacher'] if more else ''}
    try:
      row |= {k: float(row[k]) for k in numbers}
    except (TypeError, ValueError) as e:  # None where a line is cut short
      raise core.UserError(f'{path}, line {line}: {e}.') from e
    key = row['seed'], row['student'], row['teacher']
    needs = [before, 'accuracy', *(TEACHER if row['teacher'] else ())]
    off = row['delta'] - 100 * (row['accuracy'] - row[before])
    if any(not 0 <= row[k] <= 1 for k in needs if math.isfinite(row[k])):
      raise core.UserError(f'{path}, line {line}: {", ".join(needs)} are '
                           'fractions, of [0, 1].')
    if abs(off) > .05:
      raise core.UserError(
          f'{path}, line {line}: delta is not 100 (accuracy - {before}); it '
          f'differs by {off:.2f} points.')
    if not all(math.isfinite(row[k]) for k in (*needs, 'delta')):
      dropped += 1
      continue
    if more:
      row['gap'] = 100 * (row['teacher_accuracy'] - row[before])
    old = table.setdefault(row[group], {}).setdefault(key, row)
    if old['accuracy'] != row['accuracy']:
      raise core.UserError(f'{path}, line {line}: a second, other result of '
                           f'{row[group]} for {", ".join(filter(None, key))}.')
  if not table:
    raise core.UserError(f'{path} holds no row with finite accuracies.')
  return table, dropped


def _by_pair(values):
  """Means over seeds by (student, teacher), NaN left out.

  Rounded to 1e-4, or +1 and -1 example of two seeds would be a success.
  """
  lists = {}
  for (_, *pair), value in values.items():
    if not math.isnan(value):
      lists.setdefault(tuple(pair), []).append(value)
  return {pair: round(float(np.mean(v)), 4) for pair, v in lists.items()}


def _column(table, name, scale=1.):
  return _by_pair({key: scale * row[name] for key, row in table.items()})


def _models(rows):
  """model -> percent, mean over seeds, in ascending order."""
  seen = {}
  for r in rows:
    for who in ('student', 'teacher'):
      seen.setdefault(r[who], {})[r['seed']] = 100 * r[f'{who}_accuracy']
  means = {m: float(np.mean(list(v.values()))) for m, v in seen.items()}
  return dict(sorted(means.items(), key=lambda item: item[1]))


def _knowledge(rows, gaps):
  """Sentences and a matrix on rho_positive; its mean by pair in percent."""
  rho = _by_pair({(r['seed'], r['student'], r['teacher']):
                  100 * r['rho_positive'] for r in rows})
  worst, uneven, seen = 0, 0., {}
  for r in rows:
    counts = [r[k] * r['count'] for k in (
        'teacher_accuracy', 'student_accuracy', 'rho_positive', 'rho_negative')]
    if not np.all(np.isfinite(counts)):
      raise core.UserError('pairs.csv: count must be a number of examples.')
    t, s, positive, negative = whole = [round(c) for c in counts]
    uneven = max(uneven, *(abs(c - w) for c, w in zip(counts, whole)))
    worst = max(worst, abs(t - s - positive + negative))
    # Models that do not change with the seed are one measurement, not many.
    seen[r['student'], r['teacher'], *counts] = r['rho_positive']
  weak = [v for pair, v in rho.items() if gaps[pair] <= -STRONG]
  lines = [
      f'rho_positive: at least {min(rho.values()):.2f}% over {len(rho)} pairs; '
      f'> 0 in {sum(v > 0 for v in seen.values())} of {len(seen)} measurements '
      f'(least {100 * min(seen.values()):.2f}%).',
      f'acc_t - acc_s = rho_pos - rho_neg {"FAILS" if worst else "holds"}: at '
      f'most {worst} examples off, {len(seen)} measurements of {len(rho)} '
      'pairs.']
  if uneven > .01:
    lines.append(f'Counts are not whole: up to {uneven:.2f} examples off.')
  if weak:
    lines.append(f'Where the teacher is {STRONG:g} points weaker or more: at '
                 f'least {min(weak):.2f}% over {len(weak)} pairs.')
  names = list(_models(rows))
  return [*lines, '', _markdown(
      ['student \\ teacher, %', *names],
      [[s, *(_num(rho.get((s, t)), '.2f') for t in names)] for s in names
       if any(s == pair[0] for pair in rho)])], rho


def wilson(successes: int, n: int) -> tuple[float, float]:
  """95% interval of a share, in [0, 1]."""
  z = 1.959964
  mid = (successes + z * z / 2) / (n + z * z)
  half = z / (n + z * z) * math.sqrt(
      successes * (n - successes) / n + z * z / 4)
  return max(0., mid - half), min(1., mid + half)


def success_rate(d, students) -> float:
  """Median over students of the share of teachers with delta > 0, percent."""
  d, students = np.asarray(d), np.asarray(students)
  n = np.bincount(students)
  wins = np.bincount(students, weights=d > 0)
  return 100 * float(np.median(wins[n > 0] / n[n > 0]))


def worst_quartile(d) -> float:
  """Mean of the lowest quarter of the pairs, rounded up."""
  return float(np.mean(np.sort(d)[:math.ceil(len(d) / 4)]))


def _students(pairs):
  return np.unique([s for s, _ in pairs], return_inverse=True)[1]


def _error(influence, students):
  """Standard error of sum(influence): the larger of pairs and of students.

  Pairs of one student share it; with more than three students the
  cluster-robust error is estimable too.
  """
  n, groups = len(influence), np.bincount(students, weights=influence)
  if n < 2:
    return math.nan
  se = math.sqrt(n / (n - 1) * np.sum(np.square(influence)))
  g = len(groups)
  robust = math.sqrt(g / (g - 1) * np.sum(groups ** 2)) if g > 3 else 0.
  return max(se, robust)


def _mean(values):
  """Mean of a dict by pair, its standard error and n."""
  d = np.array(list(values.values()))
  if not d.size:
    return math.nan, math.nan, 0
  return (float(d.mean()),
          _error((d - d.mean()) / d.size, _students(values)), d.size)


def _bootstrap(statistic, n_students, draws=1000):
  """Standard error of `statistic(index, students)`, as `_error` decides."""
  rng, n = np.random.default_rng(0), len(n_students)
  if n < 2:
    return math.nan
  members = [np.flatnonzero(n_students == s) for s in np.unique(n_students)]
  def by_pair():
    index = rng.integers(n, size=n)
    return statistic(index, n_students[index])
  def by_student():  # one drawn twice counts as two students
    drawn = [members[j] for j in rng.integers(len(members), size=len(members))]
    return statistic(np.concatenate(drawn),
                     np.repeat(np.arange(len(drawn)), list(map(len, drawn))))
  ways = [by_pair, by_student] if len(members) > 3 else [by_pair]
  return max(float(np.std([way() for _ in range(draws)])) for way in ways)


def _stats(table, gaps):
  delta = _column(table, 'delta')
  d, n = np.array(list(delta.values())), len(delta)
  wins = int(np.sum(d > 0))
  mean, se, _ = _mean(delta)
  part = lambda test: _mean(
      {p: v for p, v in delta.items() if p in gaps and test(gaps[p])})[0]
  return dict(
      n=n, alone=all(not t for _, t in delta), wins=wins, share=100 * wins / n,
      interval=[100 * v for v in wilson(wins, n)],
      success=success_rate(d, _students(delta)), mean=mean, se=se,
      worst=worst_quartile(d), weaker=part(lambda g: g < 0),
      others=part(lambda g: g >= 0), strong=part(lambda g: g >= STRONG),
      gain=_mean(_column(table, 'gain', 100))[0],
      loss=_mean(_column(table, 'loss', 100))[0],
      rate=_mean(_column(table, 'transfer_rate'))[0])


def _stat_row(name, s):
  low, high = s['interval']
  return [name[:20], str(s['n']), '-' if s['alone'] else f'{s["success"]:.1f}%',
          f'{s["share"]:.0f}% [{low:.0f}, {high:.0f}]', f'{s["mean"]:+.2f}',
          _num(s['se'], '.2f'), *(_num(s[k], '+.2f') for k in (
              'worst', 'weaker', 'others', 'strong')),
          *(_num(s[k], '.2f') for k in ('gain', 'loss', 'rate'))]


def _verdict(d, se, n, words=('holds', 'undecided', 'fails')):
  if n < 3 or math.isnan(se):  # two numbers that happen to agree decide nothing
    return 'undecided' if n else 'not run'
  return words[0] if d > 2 * se else words[2] if d < -2 * se else words[1]


def _paired(a, b):
  """delta of `a` minus that of `b` by pair, over the seeds that both have."""
  both = {key: b.get(key) or b.get((*key[:2], '')) for key in a}
  return _by_pair({key: a[key]['delta'] - other['delta']
                   for key, other in both.items() if other})


def _claims(table, gaps, control, baseline, reference, unsupervised):
  """(claim, difference, standard error, n, verdict) by claim."""
  of = lambda name: table.get(name, {})
  claims = []
  def add(label, estimate, *words):
    claims.append((label, *estimate, _verdict(*estimate, *words)))
  def where(values, test):
    return {p: v for p, v in values.items() if test(gaps.get(p, math.nan))}

  head = f'{reference} above {baseline}'
  d = _paired(of(reference), of(baseline))
  weak, rest = where(d, lambda g: g < 0), where(d, lambda g: g >= 0)
  add(f'{head}, all pairs', _mean(d))
  add(f'{head}, teacher weaker', _mean(weak))
  add(f'{head}, teacher as good or stronger', _mean(rest))
  add(f'{head}, teacher {STRONG:g}+ points stronger',
      _mean(where(d, lambda g: g >= STRONG)))
  add('gap larger where the teacher is weaker', _welch(weak, rest))
  add(f'{reference} above {control} of the student',
      _mean(_paired(of(reference), of(control))))
  add(f'{unsupervised} minus {reference}',
      _mean(_paired(of(unsupervised), of(reference))),
      ('above', 'within noise', 'below'))
  a, b = (_column(of(m), 'delta') for m in (reference, baseline))
  both = [p for p in a if p in b]
  a, b = np.array([a[p] for p in both]), np.array([b[p] for p in both])
  students = _students(both) if both else np.zeros(0, int)
  for label, f in (
      ('success rate', success_rate),
      ('share of pairs improved', lambda d, _: 100 * np.mean(d > 0)),
      ('worst quartile', lambda d, _: worst_quartile(d))):
    gap = lambda i, s: float(f(a[i], s) - f(b[i], s))
    add(f'{head}, {label}',
        (gap(np.arange(len(both)), students), _bootstrap(gap, students),
         len(both)) if both else (math.nan, math.nan, 0))
  for name in table:
    if name in (reference, baseline, control, unsupervised):
      continue
    d = _paired(of(reference), of(name))
    add(f'{reference} above {name}, all pairs', _mean(d))
    add(f'{reference} above {name}, teacher {STRONG:g}+ points stronger',
        _mean(where(d, lambda g: g >= STRONG)))
  return claims


def _welch(a, b):
  """mean(a) - mean(b) of two sets of pairs, standard error, n."""
  if min(len(a), len(b)) < 2:
    return math.nan, math.nan, 0
  (ma, sa, na), (mb, sb, nb) = _mean(a), _mean(b)
  x, y = (np.array(list(v.values())) for v in (a, b))
  welch = math.sqrt(x.var(ddof=1) / na + y.var(ddof=1) / nb)
  joint = _error(np.concatenate([(x - ma) / na, (mb - y) / nb]),
                 _students([*a, *b]))
  return ma - mb, max(welch, joint), na + nb


def _multi(path):
  """Head and rows of the table by mode; None without `multi.csv`."""
  if not path.exists():
    return None
  table, _ = _table(path, 'mode', 'accuracy_before')
  rows = []
  for mode, t in table.items():
    mean, se, n = _mean(_column(t, 'delta'))
    row = [mode, str(n), f'{mean:+.2f} ± {_num(se, ".2f")}']
    for other in ('single_mean', 'best_single'):
      d, se, n = _mean(_paired(t, table.get(other, {})))
      row += [f'{d:+.2f} ± {_num(se, ".2f")}, '
              f'{_verdict(d, se, n, ("above", "within noise", "below"))}'
              if n and mode != other else '-']
    rows.append(row)
  return ['mode', 'n', 'delta', '- single_mean', '- best_single'], rows


def _num(value, spec):
  return '-' if value is None or not math.isfinite(value) else f'{value:{spec}}'


def _markdown(head, rows):
  lines = [head, ['---'] + ['---:'] * (len(head) - 1), *rows]
  return '\n'.join(f'| {" | ".join(line)} |' for line in lines) + '\n'


def _plain(head, rows):
  widths = [max(map(len, column)) for column in zip(head, *rows)]
  cells = lambda line: [c.rjust(w) if i else c.ljust(w)
                        for i, (c, w) in enumerate(zip(line, widths))]
  return '\n'.join(['', *('  '.join(cells(x)) for x in [head, *rows])])


def _draw(workdir, table, gaps, rho, models, stats):
  """The three plots."""
  names = list(models)
  students = [m for m in names if any(m == s for s, _ in rho)]
  teachers = [m for m in names if any(m == t for _, t in rho)]
  grid = np.array([[rho.get((s, t), np.nan) for t in teachers]
                   for s in students])
  size = lambda n: min(7.5, 3.2 + .75 * n)
  fig, axis = plots.figure(
      figsize=(size(len(teachers)), size(len(students)) * .8),
      layout='constrained')
  image = axis.imshow(grid, cmap='cividis', aspect='auto', vmin=0)
  for (i, j), v in np.ndenumerate(grid):
    light = image.norm(v) > .55
    if not np.isnan(v):
      axis.text(j, i, f'{v:.1f}', ha='center', va='center',
                fontsize=10 if len(names) <= 10 else 7,
                color='black' if light else 'white')
  label = lambda m: f'{m}  {models[m]:.1f}%'
  axis.set_xticks(range(len(teachers)), map(label, teachers), rotation=35,
                  ha='right', rotation_mode='anchor')
  axis.set_yticks(range(len(students)), map(label, students))
  axis.set(xlabel='teacher', ylabel='student',
           title='rho_positive: teacher right, student wrong (%)')
  fig.colorbar(image, label='% of test examples')
  plots.save(fig, workdir / 'complementary.png')

  panels = [m for m in table if not stats[m]['alone']]
  columns = min(3, len(panels))
  lines = -(-len(panels) // columns)
  fig, axes = plots.figure(
      lines, columns, sharex=True, sharey=True, squeeze=False,
      figsize=(max(4.5, 2.5 * columns), .6 + 2.4 * lines), layout='constrained')
  for axis, method in zip(axes.flat, panels):
    delta = _column(table[method], 'delta')
    x, y = np.array([(gaps[p], v) for p, v in delta.items() if p[1]]).T
    axis.axhline(0, color=GREY, lw=1)
    axis.axvline(0, color=GREY, lw=1, ls=':')
    dots = axis.scatter(x, y, s=18, color=BLUE, alpha=.6, lw=0, label='pair')
    bins = np.array_split(np.argsort(x), max(1, min(5, len(x) // 3)))
    line, = axis.plot(*zip(*((x[b].mean(), y[b].mean()) for b in bins)), 'o-',
                      ms=5, color=ORANGE, label='mean of a bin of pairs')
    axis.set_title(f'{method} ({stats[method]["mean"]:+.2f})', fontsize=10)
  # One collapse would flatten every other panel on linear axes.
  for x, marks in ('x', (-40, -10, 0, 10, 40)), ('y', (-50, -20, -5, 0, 5, 20)):
    limits = getattr(axes[0, 0], f'get_{x}lim')()
    if max(map(abs, limits)) > 20:
      ticks = [t for t in marks if limits[0] <= t <= limits[1]]
      getattr(axes[0, 0], f'set_{x}scale')('symlog', linthresh=5)
      getattr(axes[0, 0], f'set_{x}ticks')(ticks, list(map(str, ticks)))
  for i, axis in enumerate(axes.flat):
    axis.set_visible(i < len(panels))
    axis.tick_params(labelbottom=i + columns >= len(panels))
  fig.legend(handles=[dots, line], loc='outside upper right', ncols=2,
             fontsize=9, frameon=False)
  fig.supxlabel('teacher accuracy - student accuracy (points)', fontsize=10)
  fig.supylabel('delta (points)', fontsize=10)
  plots.save(fig, workdir / 'delta.png')

  fig, axis = plots.figure(figsize=(7.5, 1.2 + .42 * len(stats)),
                           layout='constrained')
  for i, (method, s) in enumerate(stats.items()):
    errors = np.abs(np.array([s['interval']]).T - s['share'])
    axis.barh(i, s['share'], height=.62, color=GREY if s['alone'] else BLUE,
              alpha=.55, xerr=errors, capsize=4, ecolor='black')
    if not s['alone']:
      axis.plot(s['success'], i, 'D', color=ORANGE, ms=7, mec='white',
                clip_on=False, zorder=5,
                label='median over students' if method == panels[0] else None)
  axis.set_yticks(range(len(stats)), [
      m + (' (no teacher)' if s['alone'] else '') for m, s in stats.items()])
  axis.invert_yaxis()
  axis.set(xlim=(0, 100),
           xlabel='pairs with delta > 0 (%), 95% Wilson interval')
  axis.legend(loc='lower left', bbox_to_anchor=(0, 1), frameon=False)
  plots.save(fig, workdir / 'success.png')


_METHOD_NOTE = f"""\
A pair is (student, teacher), a mean over seeds; without a teacher, a student.
success: by student the share of teachers with delta > 0, the median over
students (the paper's). improved: plain share of pairs with its Wilson interval,
which takes pairs as independent. delta: mean, in points. worst 25%: mean of the
lowest quarter of pairs. weaker, others, 3+: mean delta where teacher minus
student accuracy is < 0, >= 0, >= {STRONG:g} points. gain, loss: points gained
and lost. rate: transfer rate. s.e.: the larger of that over pairs and, with
more than 3 students, that clustered by student."""
_CURVE_NOTE = """\
Points: pairs. Line: plain means of bins of equally many pairs. An axis that
reaches beyond 20 points is logarithmic beyond 5. The authors'
public curve averages only the values from the 75th percentile of each bin up,
so it lies higher by construction."""
_CLAIM_NOTE = """\
Differences in points, paired by (student, teacher) over the seeds that both
have. A claim holds if the difference exceeds two standard errors, fails if it
does so the other way, else (or with n < 3) it is undecided. The errors are as
above; those of success rate, share and worst quartile are bootstrapped (1000
draws of pairs, and of students if more than 3); that of the larger gap is
Welch's or clustered. Pairs also share teachers, which no error here sees. With
{n} tests at two errors, about one in twenty would decide by chance."""
_MULTI_NOTE = """\
Delta in points, mean over n students of the mean over seeds; the last two
columns are paired by student."""


def main() -> None:
  parser = argparse.ArgumentParser(description='Rewrites report.md of a run.')
  parser.add_argument('workdir')
  for name, default in write.__kwdefaults__.items():
    parser.add_argument(f'--{name}', default=default)
  try:
    print(write(**vars(parser.parse_args())))
  except core.UserError as e:
    raise SystemExit(str(e)) from None


if __name__ == '__main__':
  main()
