"""Students that are tables: risk against the number of samples, in closed form.

What `config.learners` names are functions `(counts, teacher) -> student` of
`kt_jax.procedures` or the user's own, `module:function`.
"""
import csv
import io
import json
import math

import jax
import numpy as np
import tqdm

from experiments import pretrain
from kt_jax import checkpoint
from kt_jax import core
from kt_jax import procedures
from kt_jax.core import statistics
from kt_jax.launch import report
from kt_jax.train import plots

TOLERANCE = 0.1  # of a slope
NEAR = 0.02  # share of a plateau that a risk may be away from it
ENOUGH = 3  # sizes, for a slope


def check(config):
  """Nothing is trained: the names and numbers must make sense."""
  _learners(config)
  for key in ('inputs', 'labels', 'instances'):
    if config[key] < 1:
      raise core.UserError(f'{key} must be at least 1, got {config[key]}.')
  if not config.concentration > 0:
    raise core.UserError('concentration must be above 0, got '
                         f'{config.concentration}.')
  if not config.seeds or not config.sizes or min(config.sizes) < 1:
    raise core.UserError('seeds and sizes must not be empty, sizes from 1 on; '
                         f'got {config.seeds} and {config.sizes}.')
  return []


def run(config, workdir):
  """Writes results.csv, report.md, risk.png and card.json."""
  check(config)
  workdir = checkpoint.open_workdir(workdir, json.loads(config.to_json()))
  done = pretrain.finished(workdir)
  if not done:
    found = _measure(config)
    metrics, text = _judge(config, *found)
    checkpoint.write_atomic(workdir / 'results.csv', _csv(config, found[0]))
    checkpoint.write_atomic(workdir / 'report.md', text)
    if jax.process_index() == 0:
      plots.save(_plot(config, *found), workdir / 'risk.png')
    done = dict(kind='experiment', status='finished', metrics=metrics,
                method=config.experiment, code=checkpoint.code_version(),
                config=checkpoint.config_hash(json.loads(config.to_json())))
    checkpoint.write_json(workdir / 'card.json', done)
  return done['metrics'] | {'table': (workdir / 'report.md').read_text()}


def _learners(config):
  return {name: core.resolve(procedures, name, 'learner', takes='counts')
          for name in config.learners}


def _measure(config):
  """`(risk [learners, sizes, seeds], limit [learners, seeds])`."""
  learners = _learners(config)
  inputs = np.full(config.inputs, 1 / config.inputs)
  risk = np.zeros((len(learners), len(config.sizes), len(config.seeds)))
  limit = np.zeros((len(learners), len(config.seeds)))
  bar = tqdm.tqdm(total=limit.shape[1] * len(config.sizes), delay=2,
                  desc='samples', disable=None)
  with bar:
    for k, seed in enumerate(config.seeds):
      teacher = np.random.default_rng(
          [config.instance, seed % config.instances]).dirichlet(
              np.full(config.labels, config.concentration), config.inputs)
      of = lambda fn, counts: procedures.total_variation_risk(
          fn(counts, teacher), teacher, inputs)
      for i, fn in enumerate(learners.values()):
        # What the counts become in proportion to their number.
        limit[i, k] = round(of(fn, inputs[:, None] * teacher), 12)
      for j, n in enumerate(config.sizes):
        counts = procedures.sample(teacher, inputs, int(n),
                                   np.random.default_rng([seed, j]))
        for i, fn in enumerate(learners.values()):
          risk[i, j, k] = of(fn, counts)
        bar.update()
  return risk, limit


def _scale(config, learner) -> float:
  """The number of samples at which the theorem's rate starts to say a thing."""
  rate = config.learners[learner]
  return config.inputs**rate.inputs * config.labels**rate.labels


def _slope(config, learner, risk) -> statistics.Estimate:
  """Of log mean risk against log n, from `_scale` on and where there is risk.

  Its error is that of the jackknife over seeds.
  """
  sizes = np.array(config.sizes, float)
  def fit(seeds):
    mean = risk[:, seeds].mean(1)
    use = (sizes >= _scale(config, learner)) & (mean > 0)
    if use.sum() < ENOUGH:
      return math.nan
    return np.polyfit(np.log(sizes[use]), np.log(mean[use]), 1)[0]
  n = risk.shape[1]
  parts = np.array([fit(np.arange(n) != i) for i in range(n)]) if n > 1 else []
  se = math.sqrt((n - 1) * np.var(parts)) if n > 1 else math.nan
  return statistics.Estimate(fit(np.arange(n)), se, n)


def _judge(config, risk, limit):
  """`(metrics, report.md)`."""
  names = list(config.learners)
  head = ['n', *names]
  rows = [[f'{n:g}', *(f'{risk[i, j].mean():.4g}' for i in range(len(names)))]
          for j, n in enumerate(config.sizes)]
  verdicts, metrics = [['learner', 'rate', 'slope', 'se', 'exact from n',
                        'risk at the end', 'limit', 'verdict']], {}
  for i, name in enumerate(names):
    power, last = config.learners[name].power, risk[i, -1].mean()
    slope = _slope(config, name, risk[i])
    # From where on no seed errs; what rounding leaves does not count.
    wrong = np.flatnonzero(risk[i].max(1) > 1e-12)
    exact = (config.sizes[0] if not wrong.size else math.nan
             if wrong[-1] + 1 == len(config.sizes)
             else config.sizes[wrong[-1] + 1])
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
      f'# Risk of students of a table, {config.inputs} inputs, '
      f'{config.labels} labels', '',
      f'Total variation to the teacher, mean of {len(config.seeds)} seeds.', '',
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


def _csv(config, risk) -> str:
  out = io.StringIO()
  lines = csv.writer(out, lineterminator='\n')
  lines.writerow(['learner', 'n', 'seed', 'risk'])
  lines.writerows([name, n, seed, repr(float(risk[i, j, k]))]
                  for i, name in enumerate(config.learners)
                  for j, n in enumerate(config.sizes)
                  for k, seed in enumerate(config.seeds))
  return out.getvalue()


def _plot(config, risk, limit):
  fig, axis = plots.figure(figsize=(6.5, 4.5), layout='constrained')
  sizes = np.array(config.sizes, float)
  for i, name in enumerate(config.learners):
    mean = risk[i].mean(1)
    seen = mean > 1e-12
    line, = axis.plot(sizes[seen], mean[seen], 'o-', ms=4, label=name)
    axis.fill_between(sizes[seen], risk[i].min(1)[seen].clip(mean[seen] / 10),
                      risk[i].max(1)[seen], color=line.get_color(), alpha=0.15,
                      lw=0)
    power = config.learners[name].power
    rate = (_scale(config, name) / sizes)**power if power else np.full(
        len(sizes), limit[i].mean())
    axis.plot(sizes, np.where(rate <= 1, rate, np.nan), ':', lw=1,
              color=line.get_color())
  axis.set(xscale='log', yscale='log', xlabel='samples n',
           ylabel='risk (total variation)', ylim=(1e-6, 1.2),
           title='dotted: the rate of the theorem, without its constant')
  axis.legend(frameon=False)
  return fig
