"""Transfers knowledge between every ordered pair of a pool of models.

A step depends on its teacher through target logits alone and on its method
through weights alone, so all runs of one student are one compiled program.
"""
import csv
import dataclasses
import io
from typing import Any

import jax
import numpy as np

from experiments.transfer import report
from experiments.transfer import student as students
from experiments.transfer.spec import Batch as Batch
from experiments.transfer.spec import Evaluation as Evaluation
from experiments.transfer.spec import Loop as Loop
from experiments.transfer.spec import Method as Method
from experiments.transfer.spec import Multi as Multi
from experiments.transfer.spec import Roles as Roles
from experiments.transfer.spec import Spec as Spec
from kt_jax import checkpoint
from kt_jax import core
from kt_jax import data
from kt_jax import train

# Columns of pairs.csv: accuracies and rho are shares of `count` test examples,
# delta is in points, gain and loss are rho of the student after against before.
PAIRS = ('seed', 'method', 'student', 'teacher', 'count', 'student_accuracy',
         'teacher_accuracy', 'accuracy', 'delta', 'rho_positive',
         'rho_negative', 'gain', 'loss', 'transfer_rate')
MULTI = ('seed', 'student', 'mode', 'teachers', 'accuracy_before', 'accuracy',
         'delta')


def check(spec: Spec) -> list[train.Report]:
  """Reports of the pool and of each student; its step is traced."""
  _check_names(spec)
  info = data.abstract(spec.data)
  pretraining = {r.name: r for r in train.check_pool(spec, spec.pool)}
  reports = []
  for name in spec.pool:
    trained = train.pool.load(spec, name)
    train.check_fits(trained.info, info, f'config.pool.{name}')
    own = pretraining.get(f'pretrain {name}')
    reports += [own] * bool(own) + [students.describe(spec, name, trained)]
  return reports


def run(spec: Spec, workdir):
  """Writes pairs.csv, multi.csv, report.md and plots; returns the table."""
  _check_names(spec)
  workdir = checkpoint.open_workdir(workdir, core.spec.to_json(spec))
  finished = train.finished(workdir)
  if finished:
    return finished['metrics']
  splits = data.load(spec.data)
  pool = students.load_pool(spec, splits, workdir)
  card = dict(
      kind='transfer', status='running', data=dataclasses.asdict(splits.info),
      parents=[dict(name=n, **train.pool.card_of(m.trained))
               for n, m in pool.items()],
      code=checkpoint.code_version())
  _same_parents(workdir / 'card.json', card)
  (workdir / 'parts').mkdir(exist_ok=True)

  pairs, multi = [], []
  for name in pool:
    student = students.Student(spec, pool, name, splits, workdir)
    for seed in spec.seeds:
      path = workdir / 'parts' / f'{name}-{seed}.json'
      if path.exists():
        rows = checkpoint.read_json(path)
      else:
        rows = student.run(seed)
        checkpoint.write_json(path, rows)
      student.clean_up(seed)
      if jax.process_index() == 0:
        print(f'{name} seed {seed}:', _deltas(spec, rows['pairs']), flush=True)
      pairs += rows['pairs']
      multi += rows['multi']
  _write_csv(workdir / 'pairs.csv', PAIRS, pairs)
  if multi:
    _write_csv(workdir / 'multi.csv', MULTI, multi)
  metrics: dict[str, Any] = {f'delta_{method}': float(np.mean(
      [row['delta'] for row in pairs if row['method'] == method]))
             for method in spec.methods}
  if jax.process_index() == 0:
    metrics['table'] = report.write(workdir, **dataclasses.asdict(spec.report))
  checkpoint.write_json(workdir / 'card.json',
                        card | dict(status='finished', metrics=metrics))
  return metrics


def _deltas(spec, pairs) -> str:
  """Mean change in accuracy of one student, per method."""
  return ', '.join(f'{method} {mean:+.2f}' for method in spec.methods
                   for mean in [np.mean([row['delta'] for row in pairs
                                         if row['method'] == method])])


def _same_parents(path, card):
  """Refuses to resume with other models or data than the run began with."""
  if not path.exists():
    checkpoint.write_json(path, card)
    return
  before = checkpoint.read_json(path)
  content = lambda c: (c['data']['fingerprint'],
                       {p['name']: p['digest'] for p in c['parents']})
  if content(before) != content(card):
    raise core.UserError(
        f'{path.parent} was begun with other models or data (see card.json). '
        'Restore them or name a new --workdir.')


def _check_names(spec: Spec) -> None:
  """Refuses names that do not exist, and fields that contradict each other."""
  if len(spec.pool) < 2:
    raise core.UserError('config.pool needs at least two models, has '
                         f'{sorted(spec.pool)}.')
  for name, entry in spec.pool.items():
    if entry.by_seed:
      raise core.UserError(f'config.pool.{name}.by_seed: the models of a '
                           'transfer are the same for all seeds.')
  for name, method in spec.methods.items():
    for term in method.weights:
      if term not in spec.terms:
        raise core.UserError(core.nearest(
            f'term (config.methods.{name}.weights)', term, spec.terms))
  for name, term in spec.terms.items():
    if term != train.LossTerm(term.loss, kw=term.kw, rename=term.rename,
                              warmup=term.warmup):
      raise core.UserError(f'config.terms.{name}: a transfer reads only loss, '
                           'kw, rename and warmup of a term.')
  if not spec.methods:
    raise core.UserError('config.methods is empty: name at least one method.')
  checkpoints = [n for n, entry in spec.pool.items() if entry.checkpoint]
  if spec.save and checkpoints:
    raise core.UserError(
        'config.save: a student that starts from a checkpoint '
        f'({checkpoints[0]}) cannot be saved; empty it.')
  for name in spec.save:
    if name not in spec.methods:
      raise core.UserError(core.nearest(
          'method (config.save)', name, spec.methods))
  if spec.multi.method:
    _check_multi(spec)


def _check_multi(spec: Spec) -> None:
  """Refuses transfer from several teachers that could only fail late."""
  multi = spec.multi
  if multi.method not in spec.methods:
    raise core.UserError(core.nearest(
        'method (config.multi.method)', multi.method, spec.methods))
  method = spec.methods[multi.method]
  several = any('teachers_logits' in spec.terms[t].rename.values()
                for t, weight in method.weights.items() if weight)
  if not method.teachers or not several:
    raise core.UserError(
        f'config.multi.method {multi.method!r} has no term that reads several '
        'teachers (rename: teachers_logits).')
  if not spec.data.validation:
    raise core.UserError('config.multi picks teachers by validation accuracy: '
                         'set data.validation above 0.')
  if spec.optimizer.schedule.name:
    raise core.UserError('config.multi compares runs of several lengths: empty '
                         'optimizer.schedule.name or multi.method.')
  if not 1 <= multi.teachers < len(spec.pool):
    raise core.UserError(
        f'config.multi.teachers must be from 1 to {len(spec.pool) - 1} (the '
        f'pool less the student), got {multi.teachers}.')


def _write_csv(path, columns, rows):
  text = io.StringIO()
  writer = csv.DictWriter(text, columns, lineterminator='\n')
  writer.writeheader()
  writer.writerows(rows)
  checkpoint.write_atomic(path, text.getvalue())
