"""Transfers knowledge between every ordered pair of a pool of models.

A step hangs on its teacher through target logits alone and on its method
through weights alone, so all runs of one student are one compiled program.
"""
import csv
import dataclasses
import io
import json
from typing import NamedTuple

import jax
from jax import numpy as jnp
from ml_collections import config_dict
import numpy as np

from kt_jax import checkpoint
from kt_jax import core
from kt_jax import data
from kt_jax import merge
from kt_jax import scores
from kt_jax import train
from experiments import pretrain
from experiments import transfer_pool
from experiments import transfer_report
from experiments.transfer_pool import right

# Columns of pairs.csv: accuracies and rho are shares of `count` test examples,
# delta is in points, gain and loss are rho of the student after against before.
PAIRS = ('seed', 'method', 'student', 'teacher', 'count', 'student_accuracy',
         'teacher_accuracy', 'accuracy', 'delta', 'rho_positive',
         'rho_negative', 'gain', 'loss', 'transfer_rate')
MULTI = ('seed', 'student', 'mode', 'teachers', 'accuracy_before', 'accuracy',
         'delta')


class Arm(NamedTuple):
  """One run of a student."""
  method: str
  teachers: tuple[str, ...]  # () if its only teacher is itself


def check(config):
  _check_names(config)
  info = data.abstract(config.data)
  reports = []
  for name, member in transfer_pool.members(config).items():
    if isinstance(member, str):
      trained = train.load_trained(member)
      transfer_pool.check_fits(name, trained.info, info, config)
      continue
    reports += [r._replace(name=f'pretrain {name}')
                for r in pretrain.check(member)]
    logits = jax.ShapeDtypeStruct((config.batch.size, info.classes), np.float32)
    several = jax.ShapeDtypeStruct((_width(config), *logits.shape), np.float32)
    student = config_dict.ConfigDict(
        config.to_dict() | dict(model=member.model.to_dict(), seed=0))
    reports.append(train.check(
        student, info, name=f'transfer to {name}', average=True, extra=dict(
            initial_logits=logits, teacher_logits=logits,
            teachers_logits=several)))
  return reports


def run(config, workdir):
  """Writes pairs.csv, multi.csv, report.md and plots; returns the table."""
  _check_names(config)
  workdir = checkpoint.open_workdir(workdir, json.loads(config.to_json()))
  done = pretrain.finished(workdir)
  if done:
    return done['metrics']
  splits = data.load(config.data)
  pool = transfer_pool.load(config, splits)
  card = dict(
      kind='transfer', status='running', data=dataclasses.asdict(splits.info),
      parents=[dict(name=n, source=m.trained.source, digest=m.trained.digest)
               for n, m in pool.items()],
      code=checkpoint.code_version())
  _same_parents(workdir / 'card.json', card)
  (workdir / 'parts').mkdir(exist_ok=True)

  pairs, multi = [], []
  for name in pool:
    student = Student(config, pool, name, splits)
    for seed in config.seeds:
      part = workdir / 'parts' / f'{name}-{seed}.json'
      if part.exists():
        found = checkpoint.read_json(part)
      else:
        found = student.run(seed, workdir)
        checkpoint.write_json(part, found)
      pairs += found['pairs']
      multi += found['multi']
  _write_csv(workdir / 'pairs.csv', PAIRS, pairs)
  if multi:
    _write_csv(workdir / 'multi.csv', MULTI, multi)
  metrics = {}
  if jax.process_index() == 0:
    metrics = dict(table=transfer_report.write(workdir))
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


class Student:
  """All runs of one member of the pool as the student."""

  def __init__(self, config, pool, name, splits):
    self.config, self.pool, self.name, self.splits = config, pool, name, splits
    self.others = [n for n in pool if n != name]
    self.mesh = train.make_mesh(**config.mesh)
    trained = pool[name].trained
    self.tx = train.make_optimizer(config.optimizer, config.loop.steps)
    step = train.make_step(
        trained.net, config.terms, self.tx,
        train.classification(trained.info),
        accumulate=config.train.accumulate,
        compute_dtype=config.train.compute_dtype)

    def arm_step(state, batch, logits, which, settings):
      """`logits [M, B, K]`: the student before transfer, then the others."""
      return step(state, batch | dict(
          initial_logits=logits[0], teacher_logits=logits[which[0]],
          teachers_logits=logits[which]), settings)
    if config.vmap:
      arm_step = jax.vmap(arm_step, in_axes=(0, None, None, 0, 0))
    self.arm_step = jax.jit(arm_step, donate_argnums=0)

  def run(self, seed, workdir):
    """Rows of pairs.csv and multi.csv of one seed."""
    arms = [Arm(method, teachers)
            for method, how in self.config.methods.items()
            for teachers in (
                [(n,) for n in self.others] if how.teachers else [()])]
    before = self.pool[self.name].trained
    start = (before.params, before.stats)
    at_once = self.config.together or len(arms)
    after = {}
    for i in range(0, len(arms), at_once):
      after |= self.fit(start, arms[i:i + at_once], seed, workdir,
                        f'{self.name} seed {seed}, part {i // at_once}')
    test = {arm: self.logits(model) for arm, model in after.items()}
    pairs = [self.row(arm, logits, seed) for arm, logits in test.items()]
    multi = []
    if self.config.multi.method:
      multi = self.run_multi(start, after, test, seed, workdir)
    return dict(pairs=pairs, multi=multi)

  def run_multi(self, start, after, test, seed, workdir):
    """Several teachers: in turn, at once, as a soup; and one, for as long."""
    method = self.config.multi.method
    best = sorted(self.others, key=lambda n: self.pool[n].validation)
    chosen = tuple(best[-self.config.multi.teachers:])  # ascending
    fit = lambda start, teachers, label, **kw: self.fit(
        start, [Arm(method, teachers)], seed, workdir,
        f'{self.name} seed {seed}, {label}', **kw)[Arm(method, teachers)]

    model = start
    for n in chosen:
      model = fit(model, (n,), f'sequential {n}')
    singles = [after[Arm(method, (n,))] for n in chosen]
    share = [1 / len(chosen)] * len(chosen)
    models = dict(
        sequential=model,
        parallel=fit(start, chosen, 'parallel'),
        soup=merge.over_tree(merge.linear, singles[0], singles, share),
        best_single=fit(start, chosen[-1:], 'best_single',
                        steps=len(chosen) * self.config.loop.steps))
    labels = self.splits.test.labels
    before = right(self.pool[self.name].test, labels)
    found = {mode: [right(self.logits(m), labels)]
             for mode, m in models.items()}
    found['single_mean'] = [
        right(test[Arm(method, (n,))], labels) for n in chosen]
    return [dict(
        seed=seed, student=self.name, mode=mode, teachers=';'.join(chosen),
        accuracy_before=before / len(labels),
        accuracy=float(np.mean(right)) / len(labels),
        delta=100 * (float(np.mean(right)) - before) / len(labels))
            for mode, right in found.items()]

  def fit(self, start, arms, seed, workdir, label, steps=0):
    """Runs `arms` side by side from `start`; Arm -> (params, stats)."""
    config = self.config
    which = jnp.asarray(np.stack([self.indices(arm) for arm in arms]))
    settings = [train.make_settings(
        config.terms, seed=seed, rate=how.rate, decay=how.decay,
        every=how.every, weights=how.weights)
                for how in (config.methods[arm.method] for arm in arms)]
    everywhere = jax.sharding.NamedSharding(
        self.mesh, jax.sharding.PartitionSpec())
    states = [jax.device_put(train.init_state(*start, self.tx, True),
                             everywhere) for _ in arms]
    models = [(self.pool[self.name].predict, *start)] + [
        (m.predict, m.trained.params, m.trained.stats)
        for m in (self.pool[n] for n in self.others)]
    models = jax.device_put([m[1:] for m in models], everywhere), [
        m[0] for m in models]

    def targets(images):
      return jnp.stack([predict(*weights, images)
                        for weights, predict in zip(*models)])

    # Of many runs, a state holds dicts by number, or stacked arrays.
    stack = lambda trees: jax.tree.map(lambda *x: jnp.stack(x), *trees)
    if config.vmap:
      state, settings = stack(states), stack(settings)
      def step(state, batch, settings):
        state, metrics = self.arm_step(
            state, batch, targets(batch['images']), which, settings)
        return state, {'loss': jnp.sum(metrics['loss'])}
    else:
      state = train.State(*(dict(enumerate(x)) for x in zip(*states)))
      def step(state, batch, settings):
        logits, new, losses = targets(batch['images']), [], {}
        for i, arm in enumerate(arms):
          one, metrics = self.arm_step(
              train.State(*(x[i] for x in state)), batch, logits, which[i],
              settings[i])
          new.append(one)
          losses[' '.join([arm.method, *arm.teachers])] = metrics['loss']
        return train.State(*(dict(enumerate(x)) for x in zip(*new))), losses

    batch = config.batch
    stream = data.stream(
        self.splits.train, batch_size=batch.size, seed=seed,
        augment=batch.augment, rows=train.rows(self.mesh, batch.size))
    fit = lambda state, saver: train.fit(
        step, state, stream, settings, steps=steps or config.loop.steps,
        put=train.putter(self.mesh), save_every=config.loop.save_every,
        run=saver, name=label)
    if config.loop.save_every:
      with checkpoint.Run(workdir / 'runs' / label, keep=1) as saver:
        state = fit(train.resume(saver, state, stream), saver)
    else:
      state = fit(state, None)
    stream.close()
    final = lambda i: (jax.tree.map(lambda x: x[i], state.slow) if config.vmap
                       else state.slow[i])
    return {arm: (final(i)['params'], final(i)['stats'])
            for i, arm in enumerate(arms)}

  def indices(self, arm):
    """Places of the arm's teachers among the targets, filled up with the last.

    A teacher listed twice is the same to a choice among teachers; so one
    teacher and several are one program.
    """
    found = [1 + self.others.index(n) for n in arm.teachers] or [0]
    width = _width(self.config)
    return np.asarray((found + [found[-1]] * width)[:width], np.int32)

  def logits(self, model):
    """Test logits of `(params, stats)` of this student."""
    return train.predict_all(
        self.pool[self.name].predict, *model, self.splits.test,
        batch_size=self.config.eval_batch_size, mesh=self.mesh)

  def row(self, arm, after, seed):
    """One row of pairs.csv."""
    before, labels = self.pool[self.name].test, self.splits.test.labels
    n = len(labels)
    exact = lambda fraction: round(float(fraction) * n) / n  # float32 -> counts
    row = dict(
        seed=seed, method=arm.method, student=self.name,
        teacher=';'.join(arm.teachers), count=n,
        student_accuracy=right(before, labels) / n,
        teacher_accuracy=np.nan,
        accuracy=right(after, labels) / n,
        delta=100 * (right(after, labels) - right(before, labels)) / n,
        rho_positive=np.nan, rho_negative=np.nan,
        gain=exact(scores.knowledge_gain(before, after, labels)),
        loss=exact(scores.knowledge_loss(before, after, labels)),
        transfer_rate=np.nan)
    if arm.teachers:
      teacher = self.pool[arm.teachers[0]].test
      row |= dict(
          teacher_accuracy=right(teacher, labels) / n,
          rho_positive=exact(scores.rho_positive(before, teacher, labels)),
          rho_negative=exact(scores.rho_negative(before, teacher, labels)),
          transfer_rate=float(
              scores.transfer_rate(before, after, teacher, labels)))
    return row


def _width(config) -> int:
  """Most teachers of one run."""
  return max(1, config.multi.teachers if config.multi.method else 1)


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
  multi = config.multi
  if multi.method and multi.method not in config.methods:
    raise core.UserError(core.nearest(
        'method (config.multi.method)', multi.method, config.methods))
  if multi.method and not 1 <= multi.teachers < len(config.pool):
    raise core.UserError(
        f'config.multi.teachers must be from 1 to {len(config.pool) - 1} (the '
        f'pool less the student), got {multi.teachers}.')


def _write_csv(path, columns, rows):
  text = io.StringIO()
  writer = csv.DictWriter(text, columns, lineterminator='\n')
  writer.writeheader()
  writer.writerows(rows)
  checkpoint.write_atomic(path, text.getvalue())
