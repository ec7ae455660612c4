"""Students that are tables: risk against the number of samples, in closed form.

Learners are functions `(counts, teacher) -> student` of `kt_jax.procedures` or
the user's own, `module:function`.
"""
from collections.abc import Mapping
import csv
import dataclasses
import io
import math
from typing import Any

import jax
import numpy as np
import tqdm

from kt_jax import checkpoint
from kt_jax import core
from kt_jax import procedures
from kt_jax import train
from kt_jax.core import statistics
from kt_jax.launch import report
from kt_jax.train import plots

TOLERANCE = 0.1  # of a slope
NEAR = 0.02  # share of a plateau that a risk may be away from it
ENOUGH = 3  # sizes, for a slope


@dataclasses.dataclass(frozen=True)
class Rate:
  """A theorem's bound on a risk: (|S|^inputs |A|^labels / n)^power."""
  power: float
  inputs: int = 0
  labels: int = 0


@dataclasses.dataclass(frozen=True)
class Spec:
  experiment: str = 'tabular'
  paper: str = ''
  variant: str = ''
  inputs: int = 100  # of the teacher's table, equally likely
  labels: int = 25
  concentration: float = 1.0  # of the Dirichlet distribution of its rows
  instance: int = 0  # seed of the table
  instances: int = 1  # tables that the seeds take turns at
  sizes: tuple[int, ...] = tuple(
      m * 10**e for e in range(2, 6) for m in (1, 2, 5)) + (10**6,)
  seeds: tuple[int, ...] = tuple(range(10))  # of the samples
  learners: Mapping[str, Rate] = dataclasses.field(default_factory=dict)


def check(spec):
  """Nothing is trained: the names and numbers must make sense."""
  _learners(spec)
  for key in ('inputs', 'labels', 'instances'):
    if getattr(spec, key) < 1:
      raise core.UserError(f'{key} must be at least 1, got '
                           f'{getattr(spec, key)}.')
  if not spec.concentration > 0:
    raise core.UserError('concentration must be above 0, got '
                         f'{spec.concentration}.')
  if not spec.seeds or not spec.sizes or min(spec.sizes) < 1:
    raise core.UserError('seeds and sizes must not be empty, sizes from 1 on; '
                         f'got {spec.seeds} and {spec.sizes}.')
  return []


def run(spec, workdir):
  """Writes results.csv, report.md, risk.png and card.json."""
  check(spec)
  workdir = checkpoint.open_workdir(workdir, core.spec.to_json(spec))
  done: dict[str, Any] | None = train.finished(workdir)
  if not done:
    risk, limit = _measure(spec)
    metrics, text = _judge(spec, risk, limit)
    checkpoint.write_atomic(workdir / 'results.csv', _csv(spec, risk))
    checkpoint.write_atomic(workdir / 'report.md', text)
    if jax.process_index() == 0:
      plots.save(_plot(spec, risk, limit), workdir / 'risk.png')
    done = dict(kind='experiment', status='finished', metrics=metrics,
                method=spec.experiment, code=checkpoint.code_version(),
                config=checkpoint.config_hash(core.spec.to_json(spec)))
    checkpoint.write_json(workdir / 'card.json', done)
  return done['metrics'] | {'table': (workdir / 'report.md').read_text()}


def _learners(spec):
  return {name: core.resolve(procedures, name, 'learner', takes='counts')
          for name in spec.learners}


def _measure(spec):
  """`(risk [learners, sizes, seeds], limit [learners, seeds])`."""
  learners = _learners(spec)
  inputs = np.full(spec.inputs, 1 / spec.inputs)
  risk = np.zeros((len(learners), len(spec.sizes), len(spec.seeds)))
  limit = np.zeros((len(learners), len(spec.seeds)))
  bar = tqdm.tqdm(total=limit.shape[1] * len(spec.sizes), delay=2,
                  desc='samples', disable=None)
  with bar:
    for k, seed in enumerate(spec.seeds):
      teacher = np.random.default_rng(
          [spec.instance, seed % spec.instances]).dirichlet(
              np.full(spec.labels, spec.concentration), spec.inputs)
      of = lambda fn, counts: procedures.total_variation_risk(
          fn(counts, teacher), teacher, inputs)
      for i, fn in enumerate(learners.values()):
        # What the counts become in proportion to their number.
        limit[i, k] = round(of(fn, inputs[:, None] * teacher), 12)
      for j, n in enumerate(spec.sizes):
        counts = procedures.sample(teacher, inputs, int(n),
                                   np.random.default_rng([seed, j]))
        for i, fn in enumerate(learners.values()):
          risk[i, j, k] = of(fn, counts)
        bar.update()
  return risk, limit


def _scale(spec, learner) -> float:
  """The number of samples at which the theorem's rate starts to say a thing."""
  rate = spec.learners[learner]
  return spec.inputs**rate.inputs * spec.labels**rate.labels


def _slope(spec, learner, risk) -> statistics.Estimate:
  """Of log mean risk against log n, from `_scale` on and where there is risk.

  Its error is that of the jackknife over seeds.
  """
  sizes = np.array(spec.sizes, float)
  def fit(seeds):
    mean = risk[:, seeds].mean(1)
    use = (sizes >= _scale(spec, learner)) & (mean > 0)
    if use.sum() < ENOUGH:
      return math.nan
    return np.polyfit(np.log(sizes[use]), np.log(mean[use]), 1)[0]
  n = risk.shape[1]
  parts = np.array([fit(np.arange(n) != i) for i in range(n)]) if n > 1 else []
  se = math.sqrt((n - 1) * np.var(parts)) if n > 1 else math.nan
  return statistics.Estimate(fit(np.arange(n)), se, n)


def _judge(spec, risk, limit):
  """`(metrics, report.md)`."""
  names = list(spec.learners)
  head = ['n', *names]
  rows = [[f'{n:g}', *(f'{risk[i, j].mean():.4g}' for i in range(len(names)))]
          for j, n in enumerate(spec.sizes)]
  verdicts, metrics = [['learner', 'rate', 'slope', 'se', 'exact from n',
                        'risk at the end', 'limit', 'verdict']], {}
  for i, name in enumerate(names):
    power, last = spec.learners[name].power, risk[i, -1].mean()
    slope = _slope(spec, name, risk[i])
    # From where on no seed errs; what rounding leaves does not count.
    wrong = np.flatnonzero(risk[i].max(1) > 1e-12)
    exact = (spec.sizes[0] if not wrong.size else math.nan
             if wrong[-1] + 1 == len(spec.sizes)
             else spec.sizes[wrong[-1] + 1])
    if power:
      ok = (slope.value <= TOLERANCE - power
            or math.isnan(slope.value) and not math.isnan(exact))
      unknown = math.isnan(slope.value) and math.isnan(exact)
    else:
      plateau = limit[i].mean()
      ok = abs(last - plateau) <= NEAR * plateau and plateau > 0
      unknown = False
    verdict = 'too few sizes' if unknown else 'holds' if ok else 'fails'
    verdicts.append([name, f'{0 - power:g}', f'{slope.value:+.3f}',
                     f'{slope.se:.3f}', f'{exact:g}', f'{last:.4g}',
                     f'{limit[i].mean():.4g}', verdict])
    metrics |= {f'{name}_risk': float(last), f'{name}_verdict': verdict}
    if not math.isnan(slope.value):
      metrics[f'{name}_slope'] = float(slope.value)
  text = '\n'.join([
      f'# Risk of students of a table, {spec.inputs} inputs, '
      f'{spec.labels} labels', '',
      f'Total variation to the teacher, mean of {len(spec.seeds)} seeds.', '',
      report.table([head, *rows], bars=True, numbers=True), '',
      report.table(verdicts, bars=True, numbers=True), '',
      'slope: of log risk against log n, from the n of the rate on and where '
      'there is risk; se: its jackknife error over seeds. limit: risk at '
      'infinitely many samples. rate: exponent of the theorem for the worst '
      'instance. A verdict holds where the slope is at most the rate + '
      f'{TOLERANCE:g} (on one instance risk may fall faster), and at rate 0 '
      f'where the risk at the end is within {NEAR:.0%} of a limit above 0.',
      ''])
  return metrics, text


def _csv(spec, risk) -> str:
  out = io.StringIO()
  lines = csv.writer(out, lineterminator='\n')
  lines.writerow(['learner', 'n', 'seed', 'risk'])
  lines.writerows([name, n, seed, repr(float(risk[i, j, k]))]
                  for i, name in enumerate(spec.learners)
                  for j, n in enumerate(spec.sizes)
                  for k, seed in enumerate(spec.seeds))
  return out.getvalue()


def _plot(spec, risk, limit):
  fig, axis = plots.figure(figsize=(6.5, 4.5), layout='constrained')
  sizes = np.array(spec.sizes, float)
  for i, name in enumerate(spec.learners):
    mean = risk[i].mean(1)
    above = mean > 1e-12
    line, = axis.plot(sizes[above], mean[above], 'o-', ms=4, label=name)
    low = risk[i].min(1)[above].clip(mean[above] / 10)
    axis.fill_between(sizes[above], low, risk[i].max(1)[above], lw=0,
                      color=line.get_color(), alpha=0.15)
    power = spec.learners[name].power
    rate = (_scale(spec, name) / sizes)**power if power else np.full(
        len(sizes), limit[i].mean())
    axis.plot(sizes, np.where(rate <= 1, rate, np.nan), ':', lw=1,
              color=line.get_color())
  axis.set(xscale='log', yscale='log', xlabel='samples n',
           ylabel='risk (total variation)', ylim=(1e-6, 1.2),
           title='dotted: the rate of the theorem, without its constant')
  axis.legend(frameon=False)
  return fig
