"""Runs variations of one spec over seeds, and judges which claims hold."""
from collections.abc import Mapping
import dataclasses
import importlib
import math
from typing import Any

from experiments.generations import Spec as Generations
from kt_jax import checkpoint
from kt_jax import core
from kt_jax import train
from kt_jax.launch import report
from kt_jax.launch import results
from kt_jax.launch import sweep


def _map():
  return dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Arm:
  """A variation of the run."""
  terms: tuple[str, ...] = ()  # that it keeps; () all
  changes: Mapping[str, Any] = _map()


@dataclasses.dataclass(frozen=True)
class Claim:
  """`better` above `than`, paired by seed."""
  better: str  # an arm
  than: str  # an arm
  metric: str = 'accuracy'
  than_metric: str = ''  # of `than`; '' the same
  lower: bool = False  # whether less is better
  # `(better, than)`, two more arms: the claim is then that the first difference
  # is larger than this one.
  above: tuple[str, ...] = ()
  margin: float = 0.0  # by how much; below 0: that it is worse by less


@dataclasses.dataclass(frozen=True)
class Spec:
  experiment: str = 'compare'
  paper: str = ''
  variant: str = ''
  run: train.Training | Generations = train.Training()
  arms: Mapping[str, Arm] = _map()
  seeds: tuple[int, ...] = (0, 1, 2)
  baseline: str = ''  # arm that every other is compared to
  claims: Mapping[str, Claim] = _map()


def check(spec):
  """Reports of what is pretrained, once, and of a run of each arm."""
  _check_names(spec)
  module = importlib.import_module(f'experiments.{spec.run.experiment}')
  reports, names = [], set()
  for name in spec.arms:
    for r in module.check(arm_spec(spec, name, spec.seeds[0])):
      if r.name.startswith('pretrain '):
        if r.name in names:
          continue
        names.add(r.name)
        reports.append(r)
      else:
        reports.append(r._replace(name=f'{name}: {r.name}',
                                  steps=r.steps * len(spec.seeds)))
  return reports


def run(spec, workdir):
  """Writes runs/, results.csv and report.md; returns the table."""
  _check_names(spec)
  workdir = checkpoint.open_workdir(workdir, core.spec.to_json(spec))
  done = train.finished(workdir)
  if done:
    return dict(table=done['table'])
  module = importlib.import_module(f'experiments.{spec.run.experiment}')
  runs = [sweep.Run(name, seed, arm_spec(spec, name, seed),
                    str(workdir / 'runs' / f'{name}-{seed}'))
          for seed in spec.seeds for name in spec.arms]
  metrics = sweep.execute(
      runs, lambda item: module.run(item.spec, item.workdir), print)
  return dict(table=finish(spec, metrics, workdir))


def arm_spec(spec, name: str, seed: int) -> train.Training:
  """The spec of one run."""
  arm, run = spec.arms[name], spec.run
  for term in arm.terms:
    if term not in run.terms:
      raise core.UserError(core.nearest(
          f'term (config.arms.{name})', term, run.terms))
  if arm.terms:
    run = dataclasses.replace(run, terms={n: run.terms[n] for n in arm.terms})
  run = core.spec.change(run, arm.changes, f'config.arms.{name}.changes')
  # Teachers and modules that no remaining term references are dropped.
  used = {run.augmentor, run.bilevel.module}
  for term in run.terms.values():
    used |= {n.removesuffix('@clean') for n in (
        term.module, term.student, term.teacher, *term.updates)}
  teachers = {n: t for n, t in run.teachers.items()
              if n in used or t.kind not in ('online', 'prompted')}
  used |= {t.module for t in teachers.values()}
  modules = {n: m for n, m in run.modules.items() if n in used}
  return dataclasses.replace(
      run, teachers=teachers, modules=modules,
      optimizers={n: o for n, o in run.optimizers.items()
                  if n == 'student' or n in teachers or n in modules},
      seed=seed, variant=spec.variant, paper=spec.paper)


def finish(spec, metrics, workdir) -> str:
  """Writes the results and the card of a finished experiment; the table."""
  table = write(spec, metrics, workdir)
  checkpoint.write_json(workdir / 'card.json', dict(
      kind='experiment', status='finished', table=table,
      method=spec.experiment, code=checkpoint.code_version(),
      config=checkpoint.config_hash(core.spec.to_json(spec))))
  return table


def write(spec, metrics, workdir) -> str:
  """Writes results.json, results.csv and report.md; returns the claims' table.

  Args:
    spec: has `seeds`, `baseline` and `claims`.
    metrics: (arm, seed) -> metric -> value.
    workdir: of the run.
  """
  summary = results.summarize(metrics, spec.claims)
  rows, table = report.compare(metrics, spec.baseline), claims_table(summary)
  checkpoint.write_json(workdir / 'results.json', summary)
  checkpoint.write_atomic(
      workdir / 'report.md', table + '\n\n## Every number\n\n'
      + report.markdown(rows, spec.baseline))
  checkpoint.write_atomic(workdir / 'results.csv', report.table_csv(rows))
  return table


def claims_table(summary) -> str:
  """Markdown: each claim, its arms' means, the paired difference, a verdict."""
  def spread(arm, metric):
    numbers = summary['arms'].get(arm, {}).get(metric, {})
    return (f'{numbers.get("mean", math.nan):.4f} +- '
            f'{numbers.get("sd", math.nan):.4f}')
  lines = [['claim', 'metric', 'arm', 'mean +- sd', 'against', 'mean +- sd',
            'difference +- se', 'verdict']]
  for claim in summary['claims']:
    metric, than, against = claim['metric'], claim['than'], claim['than']
    than_metric = claim.get('than_metric', metric)
    if than_metric != metric:
      against += f' {than_metric}'
    if 'above' in claim:
      against = f'{than}, above {claim["above"][0]} - {claim["above"][1]}'
    lines.append([
        claim['name'], metric, claim['better'], spread(claim['better'], metric),
        against, spread(than, than_metric),
        f'{claim.get("difference", math.nan):+.4f} +- '
        f'{claim.get("se", math.nan):.4f}'
        + (f' (margin {claim["margin"]:+g})' if 'margin' in claim else ''),
        claim['verdict']])
  note = (f'Over seeds {", ".join(map(str, summary["seeds"]))}, paired. holds: '
          'the difference is beyond the margin by more than two standard '
          'errors; fails: the other way.')
  return report.table(lines, bars=True) + '\n\n' + note


def check_claims(spec):
  """Refuses arms in claims, or as the baseline, that do not exist."""
  if not spec.arms or not spec.seeds:
    raise core.UserError('config.arms and config.seeds must not be empty.')
  arms = [spec.baseline] if spec.baseline else []
  for claim in spec.claims.values():
    arms += [claim.better, claim.than, *claim.above]
  for name in arms:
    if name not in spec.arms:
      raise core.UserError(core.nearest('arm', name, spec.arms))


def _check_names(spec):
  check_claims(spec)
  runs = [arm_spec(spec, name, 0) for name in spec.arms]
  for group in ('terms', 'modules'):
    for name in getattr(spec.run, group):
      if not any(name in getattr(run, group) for run in runs):
        raise core.UserError(f'config.run.{group}.{name}: no arm uses it.')
