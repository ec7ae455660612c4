"""Statistics of known numbers, reports of known pairs."""
import csv
import json
import math
import sys

import numpy as np
import pytest
from scipy import stats

from experiments.transfer import plots
from experiments.transfer import report
from kt_jax import core
from kt_jax.core import statistics

N = 1000
ACCURACY = dict(a=.80, b=.85, c=.90, d=.95)  # of the models before transfer

ROLES = dict(reference='dp', unsupervised='dp_unsupervised', baseline='kl',
             second_baseline='xe_kl_mcl', control='self')


def _row(method, student, teacher, delta, seed=0, **kw):
  """A row of pairs.csv; `delta` in points."""
  before, after = ACCURACY[student], ACCURACY[student] + delta / 100
  row = dict(
      seed=seed, method=method, student=student, teacher=teacher, count=N,
      student_accuracy=before, teacher_accuracy=math.nan, accuracy=after,
      delta=delta, rho_positive=math.nan, rho_negative=math.nan,
      gain=max(delta, 0) / 100, loss=max(-delta, 0) / 100,
      transfer_rate=math.nan)
  if teacher:
    gap = ACCURACY[teacher] - before
    row |= dict(teacher_accuracy=ACCURACY[teacher], transfer_rate=.5,
                rho_positive=.02 + max(gap, 0), rho_negative=.02 - min(gap, 0))
  return row | kw


def _all_pairs(method, delta, seed=0, **kw):
  """`delta(i, j)` in points for student i and teacher j."""
  return [_row(method, s, t, delta(i, j), seed, **kw)
          for i, s in enumerate(ACCURACY) for j, t in enumerate(ACCURACY)
          if s != t]


def _write(folder, rows, name='pairs.csv'):
  with (folder / name).open('w', newline='') as f:
    writer = csv.DictWriter(f, rows[0])
    writer.writeheader()
    writer.writerows(rows)
  return folder


@pytest.fixture
def undrawn(monkeypatch):
  """Plots are slow; one test draws them."""
  monkeypatch.setattr(plots, 'draw', lambda *_: None)


def _cells(folder, first):
  """Cells of the row of report.md that begins with `first`."""
  lines = [[c.strip() for c in line.strip('|').split('|')]
           for line in (folder / 'report.md').read_text().split('\n')
           if line.startswith('|')]
  rows = [line for line in lines if line[0] == first]
  assert len(rows) == 1, rows
  return rows[0]


def _verdict(folder, claim):
  return _cells(folder, claim)[-1]


def _noise(i, j):
  return .1 * (-1) ** (i + j)


def test_wilson():
  # 8 of 10: a textbook value; 0 of n: z^2 / (n + z^2).
  np.testing.assert_allclose(
      statistics.wilson(8, 10), (.4902, .9433), atol=1e-4)
  assert statistics.wilson(0, 10) == (0, pytest.approx(.2775, abs=1e-4))
  assert statistics.wilson(10, 10)[1] == 1


@pytest.mark.parametrize('value, se, n, verdict', [
    (2.1, 1, 3, 'holds'), (-2.1, 1, 3, 'fails'), (2, 1, 3, 'undecided'),
    (-2, 1, 3, 'undecided'), (.1, 0, 3, 'holds'), (0, 0, 3, 'undecided'),
    (9, math.nan, 3, 'undecided'), (math.nan, 1, 3, 'undecided'),
    (9, 1, 2, 'n<3'), (9, math.nan, 1, 'n<3'),
    (math.nan, math.nan, 0, 'not run')])
def test_verdict_by_two_standard_errors(value, se, n, verdict):
  assert statistics.verdict(value, se, n) == verdict
  words = dict(holds='above', undecided='within noise', fails='below')
  assert statistics.verdict(value, se, n, tuple(words.values())) == words.get(
      verdict, verdict)


def test_mean_and_its_errors():
  d = np.random.default_rng(0).normal(size=12)
  value, se, n = statistics.mean(d)
  assert (value, n) == (pytest.approx(d.mean()), 12)
  assert se == pytest.approx(stats.sem(d))
  # Groups that agree are so many measurements: se of 4, with G - 1.
  groups = np.repeat(list('abcd'), 3)
  twice = np.repeat(d[:4], 3)
  assert statistics.mean(twice, groups).se == pytest.approx(stats.sem(d[:4]))
  # Three groups are too few to estimate that.
  assert statistics.mean(twice[:9], groups[:9]) == statistics.mean(twice[:9])
  assert statistics.mean([.1] * 3).se == 0  # though .1 + .1 + .1 > .3
  assert math.isnan(statistics.mean([1.]).se)
  assert statistics.mean([]) == statistics.NONE


def test_welch():
  a, b = np.random.default_rng(0).normal(size=(2, 9)) * [[1], [3]]
  a = a[:5]
  alone = statistics.welch((a, range(5)), (b, range(5, 14)))
  t = stats.ttest_ind(a, b, equal_var=False).statistic
  assert alone.value == pytest.approx(a.mean() - b.mean())
  assert alone.value / alone.se == pytest.approx(t, rel=.05)  # G / (G - 1)
  assert alone.se >= alone.value / t and alone.n == 14
  assert statistics.welch((a[:1], [0]), (b, range(9))) == statistics.NONE


def test_bootstrap_of_a_mean():
  d = np.repeat(np.random.default_rng(0).normal(size=40), 2)
  mean = lambda index, _: d[index].mean()
  alone = statistics.bootstrap(mean, range(80))
  assert alone.value == d.mean()
  assert alone.se == pytest.approx(statistics.mean(d).se, rel=.1)
  groups = np.repeat(np.arange(40), 2)  # half as many
  assert statistics.bootstrap(mean, groups).se == pytest.approx(
      statistics.mean(d, groups).se, rel=.1)
  assert statistics.bootstrap(mean, groups).se > 1.2 * alone.se
  assert statistics.bootstrap(mean, []) == statistics.NONE


def test_success_rate_is_a_median_over_students():
  # Shares 1/2, 0 and 1; the plain share would be 4 of 8.
  d = [1, -1, -1, 0, 1, 1, 1, -1]
  assert statistics.success_rate(d, list('aabbcccb')) == 50
  assert statistics.success_rate([1, 0], list('aa')) == 50  # 0 is no success


def test_worst_quartile():
  assert statistics.worst_quartile([4, -3, 2, -1, 0, 5, 6, 7]) == -2
  assert statistics.worst_quartile([4, -3, 2, -1, 0]) == -2  # rounded up
  assert statistics.worst_quartile([3]) == 3


def test_numbers_of_a_method(tmp_path, undrawn):
  # Of the teachers of a..d, 3, 2, 1, 0 give a delta > 0.
  rows = _all_pairs('dp', lambda i, j: 1. if j > i else -2.)
  _write(tmp_path, rows)
  report.write(tmp_path, **ROLES)
  cells = _cells(tmp_path, 'dp')
  assert cells[1:5] == ['12', '50.0%', '50% [25, 75]', '-0.50']
  # Weaker teachers all lose 2 points, the others gain 1.
  assert cells[6:12] == ['-2.00', '-2.00', '+1.00', '+1.00', '0.50', '1.00']
  # By student: sums of residuals 4.5, 1.5, -1.5, -4.5, over 12; G / (G - 1).
  robust = math.sqrt(4 / 3 * 2 * (4.5 ** 2 + 1.5 ** 2)) / 12
  assert float(cells[5]) == pytest.approx(robust, abs=.005)
  assert robust > 1.5 / math.sqrt(11)


def test_seeds_are_averaged_first(tmp_path, undrawn):
  # 1, 2 and -3 examples cancel; in floats their sum is above zero.
  rows = [_row('dp', 'a', t, examples / 10, seed)
          for t in 'bcd' for seed, examples in enumerate((1, 2, -3))]
  _write(tmp_path, rows)
  report.write(tmp_path, **ROLES)
  assert _cells(tmp_path, 'dp')[1:4] == ['3', '0.0%', '0% [0, 56]']


@pytest.mark.parametrize('sign, verdict', [(1, 'holds'), (-1, 'fails')])
def test_verdicts_follow_the_sign(tmp_path, undrawn, sign, verdict):
  gap = lambda i, j: sign * (2. if j < i else .5)  # larger where weaker
  rows = (_all_pairs('kl', lambda i, j: 0.)
          + _all_pairs('dp', lambda i, j: gap(i, j) + _noise(i, j))
          + [_row('self', s, '', -.5 * sign) for s in ACCURACY]
          + _all_pairs('other', lambda i, j: _noise(i, i))
          + _all_pairs('dp_unsupervised',
                       lambda i, j: gap(i, j) + _noise(i, j) * (-1) ** j))
  _write(tmp_path, rows)
  text = report.write(tmp_path, **ROLES)
  assert max(map(len, text.split('\n'))) <= 100
  for claim in ('dp above kl, all pairs', 'dp above kl, teacher weaker',
                'dp above kl, teacher as good or stronger',
                'dp above kl, teacher 3+ points stronger',
                'gap larger where the teacher is weaker',
                'dp above self of the student', 'dp above other, all pairs'):
    assert _verdict(tmp_path, claim) == verdict, claim
  assert _verdict(tmp_path, 'dp_unsupervised minus dp') == 'within noise'
  difference = float(_cells(tmp_path, 'dp above kl, all pairs')[1])
  assert difference == pytest.approx(1.25 * sign, abs=.05)


def test_the_summary_is_brief(tmp_path, undrawn):
  means = dict(kl=0., xe_kl=5., xe_kl_mcl=1., dp=2., dp_unsupervised=2.)
  rows = [r for method, mean in means.items()
          for r in _all_pairs(method, lambda i, j, m=mean: m + _noise(i, j))]
  rows += [_row(m, s, '', 0.) for m in ('self', 'xe') for s in ACCURACY]
  _write(tmp_path, rows)
  _write(tmp_path, [
      dict(seed=0, student=s, mode=mode, teachers='b;c', delta=0.,
           accuracy_before=ACCURACY[s], accuracy=ACCURACY[s])
      for s in ACCURACY for mode in ('single_mean', 'best_single', 'sequential',
                                     'parallel', 'soup')], 'multi.csv')
  text = report.write(tmp_path, **ROLES)
  assert len(text.split('\n')) <= 35
  for method in ('kl', 'xe_kl_mcl'):
    assert f'dp above {method}, teacher 3+' in text
  # The rest is in report.md alone; its outcomes are counted here.
  for claim in ('dp above kl, share of pairs improved',
                'dp above xe_kl, teacher 3+ points stronger',
                'dp above xe, teacher 3+ points stronger'):
    assert claim not in text and _verdict(tmp_path, claim)
  assert '3 more in report.md: 2 holds, 1 fails' in text


def test_success_and_worst_quartile_claims(tmp_path, undrawn):
  rows = (_all_pairs('kl', lambda i, j: -1. + _noise(i, j))
          + _all_pairs('dp', lambda i, j: 1. + _noise(i, j)))
  _write(tmp_path, rows)
  first = report.write(tmp_path, **ROLES)
  for claim, value in (('success rate', '+100.00'), ('worst quartile', '+2.00'),
                       ('share of pairs improved', '+100.00')):
    cells = _cells(tmp_path, f'dp above kl, {claim}')
    assert cells[1] == value and cells[-1] == 'holds'
  assert report.write(tmp_path, **ROLES) == first  # the bootstrap is seeded


def test_pairs_are_paired_over_common_seeds(tmp_path, undrawn):
  # The second seed, which only dp has, must not enter the difference.
  rows = (_all_pairs('kl', _noise) + _all_pairs('dp', _noise)
          + _all_pairs('dp', lambda i, j: 5., seed=1))
  _write(tmp_path, rows)
  report.write(tmp_path, **ROLES)
  cells = _cells(tmp_path, 'dp above kl, all pairs')
  assert cells[1:] == ['+0.00', '0.00', '12', 'undecided']
  assert _verdict(tmp_path, 'dp above self of the student') == 'not run'


def test_identity_violation_is_reported(tmp_path, undrawn):
  rows = _all_pairs('dp', _noise)
  _write(tmp_path, rows)
  assert 'rho_neg holds: at most 0 examples' in report.write(tmp_path, **ROLES)
  rows[4]['rho_positive'] += 7 / N
  rows += _all_pairs('kl', _noise)  # one of two rows of a pair is enough
  _write(tmp_path, rows)
  text = report.write(tmp_path, **ROLES)
  assert 'rho_neg FAILS: at most 7 examples off in 24 rows' in text
  rows[4]['count'] = math.nan
  _write(tmp_path, rows)
  assert 'rho_neg FAILS: at most nan' in report.write(tmp_path, **ROLES)


def test_a_pair_without_complementary_knowledge(tmp_path, undrawn):
  rows = _all_pairs('dp', _noise)
  rows[0].update(rho_positive=0., rho_negative=0., teacher_accuracy=.8)
  _write(tmp_path, rows)
  assert '> 0 in 11 of 12 pairs' in report.write(tmp_path, **ROLES)


def test_several_teachers(tmp_path, undrawn):
  _write(tmp_path, _all_pairs('dp', _noise))
  deltas = dict(single_mean=1., best_single=1.5, parallel=2.)
  _write(tmp_path, [
      dict(seed=seed, student=s, mode=mode, teachers='b;c',
           accuracy_before=ACCURACY[s], accuracy=ACCURACY[s] + d / 100, delta=d)
      for seed in (0, 1) for i, s in enumerate(ACCURACY)
      for mode, mean in deltas.items()
      for d in [mean + (.1 * i if mode == 'parallel' else 0)]], 'multi.csv')
  report.write(tmp_path, **ROLES)
  assert _cells(tmp_path, 'parallel')[1:] == [
      '4', '+2.15 ± 0.06', '+1.15 ± 0.06, above', '+0.65 ± 0.06, above']
  assert _cells(tmp_path, 'single_mean')[3:] == ['-', '-0.50 ± 0.00, below']


def test_plots_and_command(tmp_path):
  rows = [r for m in ('kl', 'dp') for seed in (0, 1)
          for r in _all_pairs(m, _noise, seed)]
  _write(tmp_path, [*rows, *(_row('self', s, '', .5) for s in ACCURACY)])
  text = report.write(tmp_path, **ROLES)
  written = (tmp_path / 'report.md').read_text()
  for name in ('complementary.png', 'delta.png', 'success.png'):
    assert (tmp_path / name).read_bytes().startswith(b'\x89PNG')
    assert f']({name})' in written
  (tmp_path / 'config.json').write_text(json.dumps(dict(report=ROLES)))
  # In this process: a new one would import everything again.
  argv, sys.argv = sys.argv, ['transfer_report', str(tmp_path)]
  try:
    report.main()
  finally:
    sys.argv = argv
  assert (tmp_path / 'report.md').read_text() == written and text


@pytest.mark.parametrize('rows', [
    [_row('dp', 'a', 'b', 1.)],
    [_row('dp', 'a', 'b', 1.), _row('dp', 'b', 'a', -1.)],
    [_row('dp', 'a', t, 0., gain=math.nan) for t in 'bcd'],
    [_row('dp', 'a', 'b', 1., rho_positive=0., rho_negative=0.)],
    [_row('self', 'a', '', 0.), _row('new:method', 'a', 'b', 0.)]])
def test_small_runs(tmp_path, rows):
  report.write(_write(tmp_path, rows), **ROLES)
  assert 'nan' not in (tmp_path / 'report.md').read_text()


def _without(name):
  return [{k: v for k, v in _row('dp', 'a', 'b', 1.).items() if k != name}]


@pytest.mark.parametrize('rows, message', [
    (_without('rho_negative'), 'lacks columns rho_negative'),
    (_without('teacher'), 'lacks columns teacher'),
    ([_row('dp', 'a', 'b', math.nan)], 'line 2: delta is not 100'),
    ([_row('self', 'a', '', 1.)], 'names no teacher'),
    ([_row('dp', 'a', 'b', 1., gain='x')], 'line 2: could not convert'),
    ([_row('dp', 'a', 'b', 1., accuracy=81.)], 'delta is not 100'),
    ([_row('dp', 'a', 'b', 1., accuracy=.82)], 'delta is not 100')])
def test_bad_files_are_refused_in_one_line(tmp_path, undrawn, rows, message):
  _write(tmp_path, rows)
  with pytest.raises(core.UserError, match=message) as e:
    report.write(tmp_path, **ROLES)
  assert '\n' not in str(e.value)


@pytest.mark.parametrize('content', [None, '', 'seed,method\n', '\x00\n1'])
def test_files_without_rows(tmp_path, undrawn, content):
  if content is not None:
    (tmp_path / 'pairs.csv').write_text(content)
  with pytest.raises(core.UserError, match='pairs.csv') as e:
    report.write(tmp_path, **ROLES)
  assert '\n' not in str(e.value)
