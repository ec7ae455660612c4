"""All runs of one student of `transfer`, from any teacher by any method."""
import json
import shutil
from typing import NamedTuple

import jax
from jax import numpy as jnp
import numpy as np

from experiments.pool import right
from kt_jax import checkpoint
from kt_jax import data
from kt_jax import merge
from kt_jax import scores
from kt_jax import train


class Arm(NamedTuple):
  """One run of a student."""
  method: str
  teachers: tuple[str, ...]  # () if its only teacher is itself


def width(config) -> int:
  """Most teachers of one run."""
  return max(1, config.multi.teachers if config.multi.method else 1)


def everywhere(mesh):
  return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())


def make_arm_step(config, net, info, tx, mesh):
  """Jitted `(state, batch, logits [M, B, K], which [T], settings)`.

  `logits` are those of the student before transfer, then of the others; `which`
  are the teachers' places among them. With `config.vmap` state, `which` and
  settings have an axis of runs in front.
  """
  step = train.make_step(
      train.supervised(net, config.terms, config.compute_dtype), config.terms,
      tx, train.classification(info))

  def arm_step(state, batch, logits, which, settings):
    return step(state, batch | dict(
        initial_logits=logits[0], teacher_logits=logits[which[0]],
        teachers_logits=logits[which]), settings)
  if config.vmap:
    arm_step = jax.vmap(arm_step, in_axes=(0, None, None, 0, 0))
  return jax.jit(arm_step, donate_argnums=0, out_shardings=everywhere(mesh))


def describe(config, name, net, info, params, stats) -> train.Report:
  """What the runs of a student take: its step is traced, nothing computed."""
  tx = train.make_optimizer(config.optimizer, config.loop.steps)
  mesh = train.make_mesh(**config.mesh)
  train.rows(mesh, config.batch.size)
  data.parse_augment(config.batch.augment)
  state = jax.eval_shape(
      lambda p, s: train.init_state(p, s, tx, True), params, stats)
  settings = [train.make_settings(config.terms, weights=how.weights)
              for how in config.methods.values()][0]
  shape, size = jax.ShapeDtypeStruct, config.batch.size
  which = shape((width(config),), np.int32)
  if config.vmap:
    runs = config.together or 1
    along = lambda x: shape((runs, *x.shape), x.dtype)
    state, which, settings = jax.tree.map(along, (state, which, settings))
  batch = dict(images=shape((size, *info.input_shape), np.uint8),
               labels=shape((size,), np.int32))
  logits = shape((len(config.pool), size, info.classes), np.float32)
  step = make_arm_step(config, net, info, tx, mesh)
  return train.describe(
      f'transfer to {name}', state,
      step.lower(state, batch, logits, which, settings), config.loop.steps)


class Student:
  """All runs of one member of the pool as the student."""

  def __init__(self, config, pool, name, splits, workdir):
    self.config, self.pool, self.name = config, pool, name
    self.splits, self.workdir = splits, workdir
    self.others = [n for n in pool if n != name]
    self.mesh = train.make_mesh(**config.mesh)
    self.tx = train.make_optimizer(config.optimizer, config.loop.steps)
    trained = pool[name].trained
    self.start = trained.params, trained.stats
    self.arm_step = make_arm_step(
        config, trained.net, trained.info, self.tx, self.mesh)

  def run(self, seed):
    """Rows of pairs.csv and multi.csv of one seed."""
    arms = [Arm(method, teachers)
            for method, how in self.config.methods.items()
            for teachers in (
                [(n,) for n in self.others] if how.teachers else [()])]
    at_once = self.config.together or len(arms)
    after = {}
    for i in range(0, len(arms), at_once):
      some = arms[i:i + at_once]
      if self.config.vmap:  # as many as always: one program
        some += some[-1:] * (at_once - len(some))
      after |= self.fit(self.start, some, seed, f'part {i // at_once}')
    for arm, model in after.items():
      if arm.method in self.config.save:
        self.save(arm, model, seed)
    test = {arm: self.logits(model) for arm, model in after.items()}
    pairs = [self.row(arm, logits, seed) for arm, logits in test.items()]
    multi = []
    if self.config.multi.method:
      multi = self.run_multi(after, test, seed)
    return dict(pairs=pairs, multi=multi)

  def run_multi(self, after, test, seed):
    """Several teachers: in turn, at once, as a soup; and one, for as long."""
    method, steps = self.config.multi.method, self.config.loop.steps
    best = sorted(self.others, key=lambda n: self.pool[n].validation)
    chosen = tuple(best[-self.config.multi.teachers:])  # ascending
    def fit(start, teachers, label, **kw):
      arm = Arm(method, teachers)
      return self.fit(start, [arm], seed, label, **kw)[arm]

    model = self.start
    for i, n in enumerate(chosen):  # on the batches after those of the last
      model = fit(model, (n,), f'sequential {n}', first=i * steps)
    singles = [after[Arm(method, (n,))] for n in chosen]
    share = [1 / len(chosen)] * len(chosen)
    models = dict(
        sequential=model,
        parallel=fit(self.start, chosen, 'parallel'),
        soup=merge.over_tree(merge.linear, singles[0], singles, share),
        best_single=fit(self.start, chosen[-1:], 'best_single',
                        steps=len(chosen) * steps))
    labels = self.splits.test.labels
    before, n = right(self.pool[self.name].test, labels), len(labels)
    found = {mode: right(self.logits(m), labels) for mode, m in models.items()}
    found['single_mean'] = float(np.mean(
        [right(test[Arm(method, (t,))], labels) for t in chosen]))
    return [dict(
        seed=seed, student=self.name, mode=mode, teachers=';'.join(chosen),
        accuracy_before=before / n, accuracy=count / n,
        delta=100 * (count - before) / n) for mode, count in found.items()]

  def fit(self, start, arms, seed, label, *, first=0, steps=0):
    """Runs `arms` side by side.

    Args:
      start: `(params, stats)` to begin from; also the frozen student of losses.
      arms: the runs.
      seed: of batches and of every random number.
      label: names the fit, for its checkpoints and the progress bar.
      first: number of the first batch.
      steps: updates; 0: `config.loop.steps`.

    Returns:
      Arm -> `(params, stats)`.
    """
    config = self.config
    steps = steps or config.loop.steps
    which = jnp.asarray(np.stack([self.indices(arm) for arm in arms]))
    settings = [self.settings(arm.method, seed, steps) for arm in arms]
    begin = lambda: train.init_state(*start, self.tx, True)._replace(
        step=jnp.asarray(first, jnp.int32))
    states = [jax.device_put(begin(), everywhere(self.mesh)) for _ in arms]
    models = [(self.pool[self.name].predict, start)] + [
        (m.predict, (m.trained.params, m.trained.stats))
        for m in (self.pool[n] for n in self.others)]
    models = [(predict, jax.device_put(model, everywhere(self.mesh)))
              for predict, model in models]

    def targets(images):
      return jnp.stack([predict(*model, images) for predict, model in models])

    # Of many runs, a state holds stacked arrays, or dicts by number.
    if config.vmap:
      stack = lambda trees: jax.tree.map(lambda *x: jnp.stack(x), *trees)
      state, settings = jax.device_put(
          (stack(states), stack(settings)), everywhere(self.mesh))
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

    name = f'{self.name} seed {seed}, {label}'
    stream = data.stream(
        self.splits.train, batch_size=config.batch.size, seed=seed,
        augment=config.batch.augment, start=first,
        rows=train.rows(self.mesh, config.batch.size))
    fit = lambda state, saver: train.fit(
        step, state, stream, settings, steps=first + steps,
        put=train.putter(self.mesh), save_every=config.loop.save_every,
        run=saver, name=name)
    if config.loop.save_every:
      key = checkpoint.config_hash(json.loads(config.to_json()))
      with checkpoint.Run(self.workdir / 'runs' / name, keep=2,
                          config=key) as saver:
        state = fit(train.resume(saver, state, stream), saver)
    else:
      state = fit(state, None)
    stream.close()
    final = lambda i: (jax.tree.map(lambda x: x[i], state.slow) if config.vmap
                       else state.slow[i])
    return {arm: (final(i)['params'], final(i)['stats'])
            for i, arm in enumerate(arms)}

  def settings(self, method, seed, steps) -> train.Settings:
    how = self.config.methods[method]
    return train.make_settings(
        self.config.terms, seed=seed, weights=how.weights, rate=how.rate,
        decay=how.slow ** (how.every / steps) if how.slow else 0.0,
        every=how.every)

  def indices(self, arm):
    """Places of the arm's teachers among the targets, filled up with the last.

    A teacher listed twice is the same to a choice among teachers; so one
    teacher and several are one program.
    """
    found = [1 + self.others.index(n) for n in arm.teachers] or [0]
    most = width(self.config)
    return np.asarray((found + [found[-1]] * most)[:most], np.int32)

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
        student_accuracy=right(before, labels) / n, teacher_accuracy=np.nan,
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

  def save(self, arm, model, seed):
    """Keeps a student as a run that finetune, evaluate and pools can read."""
    home = self.workdir / 'students' / '-'.join(
        [self.name, arm.method, *arm.teachers, str(seed)])
    model = dict(params=model[0], stats=model[1])
    steps = self.config.loop.steps
    with checkpoint.Run(home, keep=1) as saver:
      saver.save(steps, model, dict(step=jnp.asarray(steps)))
    parents = [self.pool[n].trained for n in (self.name, *arm.teachers)]
    checkpoint.write_json(home / 'card.json', parents[0].card() | dict(
        status='finished', method=arm.method, step=steps,
        digest=checkpoint.digest(model), code=checkpoint.code_version(),
        parents=[dict(source=p.source, digest=p.digest) for p in parents]))

  def forget(self, seed):
    """Drops what only an interrupted seed needs."""
    runs = self.workdir / 'runs'
    if jax.process_index() == 0 and runs.exists():
      for path in runs.glob(f'{self.name} seed {seed}, *'):
        shutil.rmtree(path)
