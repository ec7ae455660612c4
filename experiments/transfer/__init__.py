"""Transfers knowledge between every ordered pair of a pool of models.

A step hangs on its teacher through target logits alone and on its method
through weights alone, so all runs of one student are one compiled program.
"""
import csv
import dataclasses
import io
import json

import jax
import numpy as np

from experiments import pool as pools
from experiments import pretrain
from experiments.transfer import report
from experiments.transfer import student
from kt_jax import checkpoint
from kt_jax import core
from kt_jax import data
from kt_jax import models
from kt_jax import train

# Columns of pairs.csv: accuracies and rho are shares of `count` test examples,
# delta is in points, gain and loss are rho of the student after against before.
PAIRS = ('seed', 'method', 'student', 'teacher', 'count', 'student_accuracy',
         'teacher_accuracy', 'accuracy', 'delta', 'rho_positive',
         'rho_negative', 'gain', 'loss', 'transfer_rate')
MULTI = ('seed', 'student', 'mode', 'teachers', 'accuracy_before', 'accuracy',
         'delta')


def check(config):
  _check_names(config)
  info = data.abstract(config.data)
  reports = []
  for name, member in pools.members(config).items():
    if isinstance(member, str):
      trained = train.load_trained(member)
      net, have = trained.net, trained.info
      arrays = trained.params, trained.stats
    else:
      reports += [r._replace(name=f'pretrain {name}')
                  for r in pretrain.check(member)]
      have = data.abstract(member.data)
      build = models.builder(
          member.model.name, classes=have.classes,
          input_shape=have.input_shape, **member.model.kw)
      net = models.abstract(build)
      arrays = jax.eval_shape(lambda: models.arrays(net, build()))
    train.check_fits(have, info, f'config.pool.{name}')
    reports.append(student.describe(config, name, net, have, *arrays))
  return reports


def run(config, workdir):
  """Writes pairs.csv, multi.csv, report.md and plots; returns the table."""
  _check_names(config)
  workdir = checkpoint.open_workdir(workdir, json.loads(config.to_json()))
  done = pretrain.finished(workdir)
  if done:
    return done['metrics']
  splits = data.load(config.data)
  pool = pools.load(config, splits, workdir)
  card = dict(
      kind='transfer', status='running', data=dataclasses.asdict(splits.info),
      parents=[dict(name=n, source=m.trained.source, digest=m.trained.digest)
               for n, m in pool.items()],
      code=checkpoint.code_version())
  _same_parents(workdir / 'card.json', card)
  (workdir / 'parts').mkdir(exist_ok=True)

  pairs, multi = [], []
  for name in pool:
    runs = student.Student(config, pool, name, splits, workdir)
    for seed in config.seeds:
      part = workdir / 'parts' / f'{name}-{seed}.json'
      if part.exists():
        found = checkpoint.read_json(part)
      else:
        found = runs.run(seed)
        checkpoint.write_json(part, found)
      runs.forget(seed)
      pairs += found['pairs']
      multi += found['multi']
  _write_csv(workdir / 'pairs.csv', PAIRS, pairs)
  if multi:
    _write_csv(workdir / 'multi.csv', MULTI, multi)
  metrics = {f'delta_{method}': float(np.mean(
      [row['delta'] for row in pairs if row['method'] == method]))
             for method in config.methods}
  if jax.process_index() == 0:
    metrics['table'] = report.write(workdir, **config.report)
  checkpoint.write_json(workdir / 'card.json',
                        card | dict(status='finished', metrics=metrics))
  return metrics


def _same_parents(path, card):
  """Refuses to go on with other models or data than the run began with."""
  if not path.exists():
    checkpoint.write_json(path, card)
    return
  before = checkpoint.read_json(path)
  known = lambda c: (c['data']['fingerprint'],
                     {p['name']: p['digest'] for p in c['parents']})
  if known(before) != known(card):
    raise core.UserError(
        f'{path.parent} was begun with other models or data (see card.json). '
        'Restore them or name a new --workdir.')


def _check_names(config):
  """Refuses what could only fail late."""
  if len(config.pool) < 2:
    raise core.UserError('config.pool needs at least two members, has '
                         f'{sorted(config.pool)}.')
  for name, how in config.methods.items():
    for term in how.weights:
      if term not in config.terms:
        raise core.UserError(core.nearest(
            f'term (config.methods.{name}.weights)', term, config.terms))
  if not config.methods:
    raise core.UserError('config.methods is empty: name at least one method.')
  given = [n for n, how in config.pool.items() if how.get('checkpoint')]
  if config.save and given:
    raise core.UserError(
        f'config.save: a student that starts from a checkpoint ({given[0]}) '
        'cannot be saved; empty it.')
  for name in config.save:
    if name not in config.methods:
      raise core.UserError(core.nearest(
          'method (config.save)', name, config.methods))
  if config.multi.method:
    _check_multi(config)


def _check_multi(config):
  """Refuses what several teachers could only fail at late."""
  multi = config.multi
  if multi.method not in config.methods:
    raise core.UserError(core.nearest(
        'method (config.multi.method)', multi.method, config.methods))
  how = config.methods[multi.method]
  chooses = any('teachers_logits' in config.terms[t].rename.values()
                for t, weight in how.weights.items() if weight)
  if not how.teachers or not chooses:
    raise core.UserError(
        f'config.multi.method {multi.method!r} has no term that reads several '
        'teachers (rename: teachers_logits).')
  if not config.data.validation:
    raise core.UserError('config.multi picks teachers by validation accuracy: '
                         'set data.validation above 0.')
  if config.optimizer.schedule.name:
    raise core.UserError('config.multi compares runs of several lengths: empty '
                         'optimizer.schedule.name or multi.method.')
  if not 1 <= multi.teachers < len(config.pool):
    raise core.UserError(
        f'config.multi.teachers must be from 1 to {len(config.pool) - 1} (the '
        f'pool less the student), got {multi.teachers}.')


def _write_csv(path, columns, rows):
  text = io.StringIO()
  writer = csv.DictWriter(text, columns, lineterminator='\n')
  writer.writeheader()
  writer.writerows(rows)
  checkpoint.write_atomic(path, text.getvalue())
