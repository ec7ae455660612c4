"""Arms of `merge` that learn a few numbers, or all of them, by gradient."""
import functools
import re

import numpy as np
import optax

from experiments.merge import operators
from experiments.merge import result
from experiments.merge.options import OneOf
from experiments.merge.options import options
from experiments.merge.options import read
from kt_jax import core
from kt_jax import data
from kt_jax import merge
from kt_jax import procedures

SETTINGS = dict(
    examples=OneOf(('validation', 'train')), steps=100, batch=128,
    learning_rate=0.1, weight_decay=0.0, clip=0.0)


@options(**SETTINGS | dict(
    objective=OneOf(('cross_entropy', 'entropy', 'negation')),
    examples=OneOf(('validation', 'train', 'test')), per='leaf', parts=1,
    value=0.0, bounds=(), of_op={}))
def learn(config, arm, scene) -> result.Made:
  """Weights per leaf or model, learned on what the arm's tasks hold out.

  Or on what they train on. With objective 'entropy' labels are not read, and
  examples may be those of 'test': transductive. 'negation' unlearns
  `arm.forget`, one of its tasks, and does not stop by itself.
  """
  base, found = scene.base.params, operators.experts(config, arm, scene)
  params = [model[0] for model in found]

  def make(chosen):
    s = read(config, arm, learn, chosen)
    if s.examples == 'test' and s.objective != 'entropy':
      raise core.UserError(f'objective {s.objective} reads labels: '
                           "its examples are not those of 'test'.")
    if s.objective == 'negation' and arm.forget not in arm.tasks:
      raise core.UserError(core.nearest('task to forget', arm.forget,
                                        arm.tasks))
    machine = _learner(
        scene.fns.logits, arm.op or 'linear', s.objective, tuple(s.bounds),
        _key_of(s), tuple(dict(s.of_op).items()))
    parts = procedures.random_parts(base, s.parts, seed=scene.seed) if (
        s.parts > 1) else None
    state = machine.init(procedures.init_coefficients(
        base, len(params), per=s.per, parts=s.parts, value=s.value))
    buffers = operators.buffers(config, arm, scene, base, found)
    for batch in _batches(arm, scene, s, buffers):
      state, _ = machine.step(state, base, params, batch, parts)
    merged = machine.params(state.theta, base, params, parts)
    made.update(trained=float(sum(x.size for x in state.theta.values())))
    return merged, operators.buffers(config, arm, scene, merged, found)

  made = {}
  chosen = result.tuned(arm, scene, make)
  return result.of_model(scene, make(chosen), chosen | made)


@options(train='', **SETTINGS)
def fit(config, arm, scene) -> result.Made:
  """The base, trained on what the arm's tasks hold out: as many labels.

  `settings.train`: regex on the paths of what is trained; '^head/' probes.
  """
  def make(chosen):
    s = read(config, arm, fit, chosen)
    theta = {path: x for path, x in scene.base.params.items()
             if re.search(s.train, path)}
    if not theta:
      raise core.UserError(f'train={s.train!r} matches no parameter.')
    machine = _fitter(scene.fns.logits, _key_of(s))
    state = machine.init(theta)
    for batch in _batches(arm, scene, s, scene.base.stats):
      state, _ = machine.step(state, scene.base.params, batch)
    made.update(trained=float(sum(x.size for x in theta.values())))
    return {**scene.base.params, **state.theta}, scene.base.stats

  made = {}
  chosen = result.tuned(arm, scene, make)
  return result.of_model(scene, make(chosen), chosen | made)


@options(rank=0.1, of_op={}, **SETTINGS)
def singular(config, arm, scene) -> result.Made:
  """Singular values of what `arm.op` merges, learned: stage 2 of AXIS."""
  found = operators.experts(config, arm, scene)
  leaves = operators.measured(config, arm, scene, found)

  def make(chosen):
    s = read(config, arm, singular, chosen)
    merged, buffers = operators.run(
        config, with_settings(arm, s.of_op), scene, found, leaves, {})
    values, basis = procedures.singular_values(scene.base.params, merged,
                                               rank=s.rank)
    machine = _singular(scene.fns.logits, _key_of(s))
    state = machine.init(values)
    for batch in _batches(arm, scene, s, buffers):
      state, _ = machine.step(state, basis, batch)
    made.update(trained=float(sum(x.size for x in values.values())))
    return procedures.singular_params(state.theta, basis), buffers

  made = {}
  chosen = result.tuned(arm, scene, make)
  return result.of_model(scene, make(chosen), chosen | made)


def with_settings(arm, settings):
  """The arm with settings that are of its operator."""
  arm = arm.copy_and_resolve_references().unlock()
  with arm.ignore_type():
    arm.settings = dict(settings)
  return arm


def _batches(arm, scene, s, buffers):
  """One for each step: as many examples of every task, with replacement.

  A task that has no more than a batch gives all it has, each time.
  """
  arrays = {t: getattr(scene.splits[t], s.examples) for t in arm.tasks}
  for task, x in arrays.items():
    if not len(x):
      raise core.UserError(f'config.tasks.{task} holds nothing out to learn '
                           'from: set its data.validation.')
  objective = getattr(s, 'objective', '')
  groups = dict(all=list(arrays)) if objective != 'negation' else dict(
      target=[arm.forget], control=[t for t in arrays if t != arm.forget])
  for step in range(s.steps):
    made = {name: _batch([_draw(arrays[t], s.batch, (scene.seed, step, n))
                          for n, t in enumerate(tasks)], buffers)
            for name, tasks in groups.items()}
    yield made.get('all', made)


def _draw(arrays, size, seed) -> data.Arrays:
  if len(arrays) <= size:
    return arrays
  return arrays.take(np.random.default_rng(seed).integers(len(arrays),
                                                          size=size))


def _batch(parts, buffers):
  return dict(inputs=(np.concatenate([x.images for x in parts]), buffers),
              labels=np.concatenate([x.labels for x in parts]))


def _key_of(s):
  """What the optimiser hangs on; those of one key are compiled once."""
  return s.learning_rate, s.steps, s.weight_decay, s.clip


def _optimizer(learning_rate, steps, weight_decay, clip):
  """AdamW on a cosine, gradients clipped to a norm."""
  schedule = optax.cosine_decay_schedule(learning_rate, max(steps, 1))
  return optax.chain(
      optax.clip_by_global_norm(clip) if clip else optax.identity(),
      optax.adamw(schedule, weight_decay=weight_decay))


def _objective(logits, name):
  forward = lambda params, inputs: logits(params, *inputs)
  return getattr(procedures, f'{name}_objective')(forward)


@functools.lru_cache
def _learner(logits, op, objective, bounds, key, of_op):
  return procedures.learned_coefficients(
      _objective(logits, objective), _optimizer(*key),
      core.resolve(merge, op, 'operator (op)', takes='models'),
      bounds=bounds or None, **dict(of_op))


@functools.lru_cache
def _fitter(logits, key):
  loss = _objective(logits, 'cross_entropy')
  return procedures.descend(
      lambda theta, base, batch: loss({**base, **theta}, batch),
      _optimizer(*key))


@functools.lru_cache
def _singular(logits, key):
  loss = _objective(logits, 'cross_entropy')
  return procedures.descend(
      lambda values, basis, batch: loss(
          procedures.singular_params(values, basis), batch), _optimizer(*key))
