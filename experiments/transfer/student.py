"""All runs of one student of `transfer`, from any teacher by any method."""
from collections.abc import Callable
import shutil
from typing import Any, NamedTuple

import jax
from jax import numpy as jnp
import numpy as np

from experiments.transfer.spec import Spec
from kt_jax import checkpoint
from kt_jax import core
from kt_jax import data
from kt_jax import merge
from kt_jax import scores
from kt_jax import train
from kt_jax.train import graph as graphs
from kt_jax.train.specs import STUDENT


class PoolModel(NamedTuple):
  """A model of the pool, before any transfer."""
  trained: train.Trained
  predict: Callable[..., jax.Array]  # jitted (params, stats, images) -> logits
  test: np.ndarray  # [N, K] logits
  validation: float  # accuracy on the held-out part of the transfer data


class Run(NamedTuple):
  """One run of a student."""
  method: str
  teachers: tuple[str, ...]  # () if its only teacher is itself


def load_pool(spec: Spec, splits: data.Splits, workdir) -> dict[str, PoolModel]:
  """The models of the pool; those that are missing are trained."""
  pool = {}
  for name in spec.pool:
    trained = train.pool.load(spec, name, workdir, train.run)
    train.check_fits(trained.info, splits.info, f'config.pool.{name}')
    predict = train.make_predict(trained.net, trained.info,
                                 compute_dtype=spec.compute_dtype)
    logits = lambda arrays, predict=predict, trained=trained: train.predict_all(
        predict, trained.params, trained.stats, arrays,
        batch_size=spec.evaluate.batch_size)
    held_out = splits.validation
    pool[name] = PoolModel(
        trained, predict, logits(splits.test),
        train.right(logits(held_out), held_out.labels) / len(held_out)
        if len(held_out) else 0.0)
    accuracy = train.right(pool[name].test, splits.test.labels) / len(
        splits.test)
    if jax.process_index() == 0:
      print(f'{name}: test accuracy {accuracy:.1%} before any transfer',
            flush=True)
  return pool


def teachers_per_run(spec: Spec) -> int:
  """Most teachers of one run."""
  return max(1, spec.multi.teachers if spec.multi.method else 1)


def replicated(mesh):
  return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())


def make_transfer_step(spec: Spec, net, info: data.Info, tx, mesh):
  """Jitted `(state, batch, logits [M, B, K], which [T], inputs)`.

  `logits` are those of the student before transfer, then of the others; `which`
  are the teachers' places among them. With `spec.vmap` state, `which` and
  inputs have an axis of runs in front.
  """
  network = graphs.Network(net, STUDENT, info.classes, mean=info.mean,
                           std=info.std)
  graph = train.TermGraph(
      {STUDENT: network}, {}, spec.terms, train.resolve_terms(spec.terms),
      train.ImageContext, compute_dtype=spec.compute_dtype)
  step = train.make_step(train.make_forward(graph), spec.terms, tx,
                         train.prepare_images(info))

  def transfer_step(state, batch, logits, which, inputs):
    return step(state, batch | dict(
        initial_logits=logits[0], teacher_logits=logits[which[0]],
        teachers_logits=logits[which]), inputs)
  if spec.vmap:
    transfer_step = jax.vmap(transfer_step, in_axes=(0, None, None, 0, 0))
  return jax.jit(transfer_step, donate_argnums=0,
                 out_shardings=replicated(mesh))


def first_state(params, stats, tx) -> train.State:
  """The state of a run at step 0."""
  return train.init_state({STUDENT: params}, {STUDENT: stats}, tx, True)


def step_inputs(spec: Spec, name: str, seed: int, steps: int
               ) -> train.StepInputs:
  """Inputs of the steps of a method."""
  method = spec.methods[name]
  decay = method.ema_share ** (method.ema_every / steps) if (
      method.ema_share) else 0.0
  return train.step_inputs(
      spec.terms, seed=seed, weights=method.weights, lr_scale=method.lr_scale,
      ema_decay=decay, ema_every=method.ema_every)


def describe(spec: Spec, name: str, trained: train.Trained) -> train.Report:
  """Size and cost of the runs of a student: its step is traced."""
  net, params, stats, info, *_ = trained
  tx = train.make_optimizer(spec.optimizer, spec.loop.steps)
  mesh = train.make_mesh(spec.mesh.data, spec.mesh.model)
  train.rows(mesh, spec.batch.size)
  data.parse_augment(spec.batch.augment)
  state = jax.eval_shape(lambda p, s: first_state(p, s, tx), params, stats)
  inputs: Any = step_inputs(spec, next(iter(spec.methods)), 0, spec.loop.steps)
  shape, size = jax.ShapeDtypeStruct, spec.batch.size
  which: Any = shape((teachers_per_run(spec),), np.int32)
  if spec.vmap:
    runs = spec.together or 1
    along = lambda x: shape((runs, *x.shape), x.dtype)
    state, which, inputs = jax.tree.map(along, (state, which, inputs))
  batch = dict(images=shape((size, *info.input_shape), np.uint8),
               labels=shape((size,), np.int32))
  logits = shape((len(spec.pool), size, info.classes), np.float32)
  step = make_transfer_step(spec, net, info, tx, mesh)
  return train.report(
      f'transfer to {name}', state,
      step.lower(state, batch, logits, which, inputs), spec.loop.steps)


class Student:
  """All runs of one model of the pool as the student."""

  def __init__(self, spec: Spec, pool: dict[str, PoolModel], name: str,
               splits: data.Splits, workdir):
    self.spec, self.pool, self.name = spec, pool, name
    self.splits, self.workdir = splits, workdir
    self.others = [n for n in pool if n != name]
    self.mesh = train.make_mesh(spec.mesh.data, spec.mesh.model)
    self.tx = train.make_optimizer(spec.optimizer, spec.loop.steps)
    trained = pool[name].trained
    self.start = trained.params, trained.stats
    self.step = make_transfer_step(
        spec, trained.net, trained.info, self.tx, self.mesh)

  def run(self, seed):
    """Rows of pairs.csv and multi.csv of one seed."""
    runs = [Run(name, teachers)
            for name, method in self.spec.methods.items()
            for teachers in (
                [(n,) for n in self.others] if method.teachers else [()])]
    together = self.spec.together or len(runs)
    after = {}
    for i in range(0, len(runs), together):
      some = runs[i:i + together]
      if self.spec.vmap:  # as many as always: one program
        some += some[-1:] * (together - len(some))
      after |= self.fit(self.start, some, seed, f'part {i // together}')
    for run, model in after.items():
      if run.method in self.spec.save:
        self.save(run, model, seed)
    test = {run: self.logits(model) for run, model in after.items()}
    pairs = [self.row(run, logits, seed) for run, logits in test.items()]
    multi = []
    if self.spec.multi.method:
      multi = self.run_multi(after, test, seed)
    return dict(pairs=pairs, multi=multi)

  def run_multi(self, after, test, seed):
    """Several teachers: in turn, at once, as a soup; and one, for as long."""
    method, steps = self.spec.multi.method, self.spec.loop.steps
    best = sorted(self.others, key=lambda n: self.pool[n].validation)
    chosen = tuple(best[-self.spec.multi.teachers:])  # ascending
    def fit(start, teachers, label, **kw):
      run = Run(method, teachers)
      return self.fit(start, [run], seed, label, **kw)[run]

    model = self.start
    for i, n in enumerate(chosen):  # on the batches after those of the last
      model = fit(model, (n,), f'sequential {n}', first=i * steps)
    singles = [after[Run(method, (n,))] for n in chosen]
    share = [1 / len(chosen)] * len(chosen)
    models = dict(
        sequential=model,
        parallel=fit(self.start, chosen, 'parallel'),
        soup=merge.over_tree(merge.linear, singles[0], singles, share),
        best_single=fit(self.start, chosen[-1:], 'best_single',
                        steps=len(chosen) * steps))
    labels = self.splits.test.labels
    before, n = train.right(self.pool[self.name].test, labels), len(labels)
    right: dict[str, float] = {
        mode: train.right(self.logits(m), labels) for mode, m in models.items()}
    right['single_mean'] = float(np.mean(
        [train.right(test[Run(method, (t,))], labels) for t in chosen]))
    return [dict(
        seed=seed, student=self.name, mode=mode, teachers=';'.join(chosen),
        accuracy_before=before / n, accuracy=count / n,
        delta=100 * (count - before) / n) for mode, count in right.items()]

  def fit(self, start, runs, seed, label, *, first=0, steps=0):
    """Steps `runs` side by side.

    Args:
      start: `(params, stats)` to begin from; also the frozen student of losses.
      runs: of this student.
      seed: of batches and all random numbers.
      label: names the fit, for its checkpoints and the progress bar.
      first: number of the first batch.
      steps: updates; 0: `spec.loop.steps`.

    Returns:
      Run -> `(params, stats)`.
    """
    spec = self.spec
    steps = steps or spec.loop.steps
    which = jnp.asarray(np.stack([self.indices(run) for run in runs]))
    inputs: Any = [step_inputs(spec, run.method, seed, steps) for run in runs]
    params, stats = start
    begin = lambda: first_state(params, stats, self.tx)._replace(
        step=jnp.asarray(first, jnp.int32))
    states = [jax.device_put(begin(), replicated(self.mesh)) for _ in runs]
    models = [(self.pool[self.name].predict, start)] + [
        (m.predict, (m.trained.params, m.trained.stats))
        for m in (self.pool[n] for n in self.others)]
    models = [(predict, jax.device_put(model, replicated(self.mesh)))
              for predict, model in models]

    def targets(images):
      return jnp.stack([predict(*model, images) for predict, model in models])

    # Of many runs, a state holds stacked arrays, or dicts by number.
    if spec.vmap:
      stack = lambda trees: jax.tree.map(lambda *x: jnp.stack(x), *trees)
      state, inputs = jax.device_put(
          (stack(states), stack(inputs)), replicated(self.mesh))
      def step(state, batch, inputs):
        state, metrics = self.step(
            state, batch, targets(batch['images']), which, inputs)
        return state, {'loss': jnp.sum(metrics['loss'])}
    else:
      state = train.State._make(dict(enumerate(x)) for x in zip(*states))
      def step(state, batch, inputs):
        logits, new, losses = targets(batch['images']), [], {}
        for i, run in enumerate(runs):
          one, metrics = self.step(
              train.State._make(x[i] for x in state), batch, logits, which[i],
              inputs[i])
          new.append(one)
          losses[' '.join([run.method, *run.teachers])] = metrics['loss']
        return train.State._make(dict(enumerate(x)) for x in zip(*new)), losses

    name = f'{self.name} seed {seed}, {label}'
    stream = data.stream(
        self.splits.train, batch_size=spec.batch.size, seed=seed,
        augment=spec.batch.augment, start=first,
        rows=train.rows(self.mesh, spec.batch.size))
    fit = lambda state, saver: train.fit(
        step, state, stream, inputs, steps=first + steps,
        shard_batch=train.make_shard_batch(self.mesh),
        save_every=spec.loop.save_every,
        run=saver, name=name)
    if spec.loop.save_every:
      key = checkpoint.config_hash(core.spec.to_json(spec))
      with checkpoint.Run(self.workdir / 'runs' / name, keep=2,
                          config=key) as saver:
        state = fit(train.resume(saver, state, stream), saver)
    else:
      state = fit(state, None)
    stream.close()
    final = lambda i: (jax.tree.map(lambda x: x[i], state.ema) if spec.vmap
                       else state.ema[i])
    return {run: (final(i)['params'], final(i)['stats'])
            for i, run in enumerate(runs)}

  def indices(self, run: Run) -> np.ndarray:
    """Places of the teachers among the targets, filled up with the last one.

    A teacher listed twice changes no choice among teachers; so one teacher and
    several are one program.
    """
    places = [1 + self.others.index(n) for n in run.teachers] or [0]
    most = teachers_per_run(self.spec)
    return np.asarray((places + [places[-1]] * most)[:most], np.int32)

  def logits(self, model):
    """Test logits of `(params, stats)` of this student."""
    params, stats = model
    return train.predict_all(
        self.pool[self.name].predict, params, stats, self.splits.test,
        batch_size=self.spec.evaluate.batch_size, mesh=self.mesh)

  def row(self, run, after, seed):
    """One row of pairs.csv."""
    before: Any = self.pool[self.name].test
    labels, n = self.splits.test.labels, len(self.splits.test)
    right = lambda logits: train.right(logits, labels)
    exact = lambda fraction: round(float(fraction) * n) / n  # float32 -> counts
    row = dict(
        seed=seed, method=run.method, student=self.name,
        teacher=';'.join(run.teachers), count=n,
        student_accuracy=right(before) / n, teacher_accuracy=np.nan,
        accuracy=right(after) / n,
        delta=100 * (right(after) - right(before)) / n,
        rho_positive=np.nan, rho_negative=np.nan,
        gain=exact(scores.knowledge_gain(before, after, labels)),
        loss=exact(scores.knowledge_loss(before, after, labels)),
        transfer_rate=np.nan)
    if run.teachers:
      teacher: Any = self.pool[run.teachers[0]].test
      row |= dict(
          teacher_accuracy=right(teacher) / n,
          rho_positive=exact(scores.rho_positive(before, teacher, labels)),
          rho_negative=exact(scores.rho_negative(before, teacher, labels)),
          transfer_rate=float(
              scores.transfer_rate(before, after, teacher, labels)))
    return row

  def save(self, run, model, seed):
    """Keeps a student as a run that finetune, evaluate and pools can read."""
    home = self.workdir / 'students' / '-'.join(
        [self.name, run.method, *run.teachers, str(seed)])
    model = dict(params=model[0], stats=model[1])
    steps = self.spec.loop.steps
    with checkpoint.Run(home, keep=1) as saver:
      saver.save(steps, model, dict(step=jnp.asarray(steps)))
    parents = [self.pool[n].trained for n in (self.name, *run.teachers)]
    checkpoint.write_json(home / 'card.json', parents[0].card() | dict(
        status='finished', method=run.method, step=steps,
        digest=checkpoint.digest(model), code=checkpoint.code_version(),
        parents=[*map(train.pool.card_of, parents)]))

  def clean_up(self, seed):
    """Deletes checkpoints that only an interrupted seed needs."""
    runs = self.workdir / 'runs'
    if jax.process_index() == 0 and runs.exists():
      for path in runs.glob(f'{self.name} seed {seed}, *'):
        shutil.rmtree(path)
