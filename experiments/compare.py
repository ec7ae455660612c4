"""Runs variations of one config over seeds, and says which claims hold."""
import copy
import importlib
import json
import math

from experiments import pool
from kt_jax import checkpoint
from kt_jax import core
from kt_jax.core import statistics
from kt_jax.launch import report
from kt_jax.launch import sweep


def arm_config(config, name: str, seed: int):
  """The config of one run."""
  arm, run = config.arms[name], copy.deepcopy(config.run).unlock()
  for term in arm.terms:
    if term not in run.terms:
      raise core.UserError(core.nearest(
          f'term (config.arms.{name})', term, run.terms))
  if arm.terms:
    run.terms = {n: run.terms[n] for n in arm.terms}
  run = pool.changed(run, arm.changes, f'config.arms.{name}.changes')
  if 'modules' in run:  # nobody stays whom no term names
    used = {w.removesuffix('@clean') for t in run.terms.values()
            for w in (t.module, t.learner, t.teacher, *t.trains)}
    if 'bilevel' in run:
      used |= {run.augmentor, run.bilevel.module}
    run.teachers = {n: t for n, t in run.teachers.items()
                    if n in used or t.kind not in ('online', 'prompted')}
    run.modules = {n: m for n, m in run.modules.items() if n in used}
    if 'optimizers' in run:
      run.optimizers = {n: o for n, o in run.optimizers.items()
                        if n in used or n in run.teachers}
  with run.unlocked():
    run.seed, run.variant, run.paper = seed, config.variant, config.paper
  return run


def check(config):
  _check_names(config)
  module = importlib.import_module(f'experiments.{config.run.experiment}')
  reports, seen = [], set()
  for name in config.arms:
    for r in module.check(arm_config(config, name, config.seeds[0])):
      if r.name.startswith('pretrain '):
        if r.name in seen:
          continue
        seen.add(r.name)
      reports.append(r if r.name in seen else r._replace(
          name=f'{name}: {r.name}', steps=r.steps * len(config.seeds)))
  return reports


def run(config, workdir):
  """Writes runs/, results.csv and report.md; returns the table."""
  _check_names(config)
  workdir = checkpoint.open_workdir(workdir, json.loads(config.to_json()))
  module = importlib.import_module(f'experiments.{config.run.experiment}')
  runs = [sweep.Run(name, seed, arm_config(config, name, seed),
                    str(workdir / 'runs' / f'{name}-{seed}'))
          for seed in config.seeds for name in config.arms]
  found = sweep.execute(
      runs, lambda item: module.run(item.config, item.workdir), print)
  return dict(table=write(config, found, workdir))


def claims(config, found) -> str:
  """Markdown: each claim, its arms' means, the paired difference, a verdict."""
  lines = [['claim', 'metric', 'arm', 'mean +- sd', 'against', 'mean +- sd',
            'difference +- se', 'verdict']]
  for name, claim in config.claims.items():
    for arm, metric in ((claim.better, claim.metric),
                        (claim.than, claim.than_metric)):
      have = found[arm, config.seeds[0]]
      if metric not in have:
        raise core.UserError(core.nearest(
            f'metric (config.claims.{name})', metric, have))
    values = lambda arm, metric=claim.metric: [
        found[arm, seed][metric] for seed in config.seeds]
    against, other_metric = claim.than, claim.than_metric
    differences = _paired(values(claim.better),
                          values(claim.than, other_metric))
    if other_metric != claim.metric:
      against += f' {other_metric}'
    if claim.above:
      other = _paired(*map(values, claim.above))
      differences = _paired(differences, other)
      against = f'{claim.than}, above {claim.above[0]} - {claim.above[1]}'
    estimate = statistics.mean(differences)
    sign = -1 if claim.lower else 1
    lines.append([
        name, claim.metric, claim.better, _spread(values(claim.better)),
        against, _spread(values(claim.than, other_metric)),
        f'{estimate.value:+.4f} +- {estimate.se:.4f}'
        + (f' (margin {claim.margin:+g})' if claim.margin else ''),
        statistics.verdict(sign * estimate.value - claim.margin,
                           *estimate[1:])])
  note = (f'Over seeds {", ".join(map(str, config.seeds))}, paired. holds: the '
          'difference is beyond the margin by more than two standard errors; '
          'fails: the other way.')
  return report.table(lines, bars=True) + '\n\n' + note


def _paired(a, b):
  return [x - y for x, y in zip(a, b, strict=True)]


def _spread(values) -> str:
  mean, se, n = statistics.mean(values)
  return f'{mean:.4f} +- {se * math.sqrt(n):.4f}'


def write(config, found, workdir) -> str:
  """Writes results.csv and report.md; returns the table of claims."""
  rows, table = report.compare(found, config.baseline), claims(config, found)
  checkpoint.write_atomic(
      workdir / 'report.md', table + '\n\n## Every number\n\n'
      + report.markdown(rows, config.baseline))
  checkpoint.write_atomic(workdir / 'results.csv', report.table_csv(rows))
  return table


def check_claims(config):
  """Refuses arms that the claims, or the baseline, name in vain."""
  if not config.arms or not config.seeds:
    raise core.UserError('config.arms and config.seeds must not be empty.')
  arms = [config.baseline] if config.baseline else []
  for claim in config.claims.values():
    arms += [claim.better, claim.than, *claim.above]
  for name in arms:
    if name not in config.arms:
      raise core.UserError(core.nearest('arm', name, config.arms))


def _check_names(config):
  check_claims(config)
  runs = [arm_config(config, name, 0) for name in config.arms]
  for group in ('terms', 'modules'):
    for name in config.run.get(group, {}):
      if not any(name in run[group] for run in runs):
        raise core.UserError(f'config.run.{group}.{name}: no arm uses it.')
