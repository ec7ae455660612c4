"""Arms that learn by gradient: a few coefficients, or parameters."""
from collections.abc import Iterator, Mapping
import dataclasses
import functools
import re
from typing import Any, Literal

import numpy as np
import optax

from experiments.merge import operators
from experiments.merge.context import MergeContext
from experiments.merge.result import MergeResult
from experiments.merge.result import of_model
from experiments.merge.result import settings_of
from experiments.merge.result import tune
from experiments.merge.spec import Arm
from experiments.merge.spec import Spec
from kt_jax import core
from kt_jax import data
from kt_jax import merge
from kt_jax import procedures

OpSettings = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Descent:
  """AdamW on a cosine schedule, gradients clipped to a norm."""
  examples: Literal['validation', 'train', 'test'] = 'validation'
  steps: int = 100
  batch: int = 128  # examples of each task
  learning_rate: float = 0.1
  weight_decay: float = 0.0
  clip: float = 0.0  # 0: not clipped

  def check(self, spec: Spec, arm: Arm) -> None:
    """Refuses labels of a test set."""
    del spec, arm
    if self.examples == 'test':
      raise core.UserError("examples 'test' have labels that are not for "
                           "training: take 'validation' or 'train'.")

  @property
  def optimizer(self) -> tuple[float, ...]:
    """Steps with the same ones are compiled once."""
    return self.learning_rate, self.steps, self.weight_decay, self.clip


@dataclasses.dataclass(frozen=True)
class Coefficients(Descent):
  """Settings of `learned_coefficients`."""
  objective: Literal['cross_entropy', 'entropy', 'negation'] = 'cross_entropy'
  per: Literal['leaf', 'model'] = 'leaf'  # what has a coefficient
  parts: int = 1  # random parts of a leaf, each with its own
  value: float = 0.0  # at the start
  bounds: tuple[float, ...] = ()  # (low, high); () none
  op_settings: OpSettings = dataclasses.field(default_factory=dict)

  def check(self, spec, arm):
    if self.objective == 'entropy':  # reads no labels
      return
    super().check(spec, arm)
    if self.objective == 'negation' and arm.forget not in arm.tasks:
      raise core.UserError(core.nearest('task to forget', arm.forget,
                                        arm.tasks))


@dataclasses.dataclass(frozen=True)
class Finetune(Descent):
  """Settings of `finetune`."""
  trainable: str = ''  # regex on paths; '^head/' probes; '' all


@dataclasses.dataclass(frozen=True)
class SvdFinetune(Descent):
  """Settings of `svd_finetune`."""
  rank: int | float = 0.1
  op_settings: OpSettings = dataclasses.field(default_factory=dict)


def learned_coefficients(arm: Arm, context: MergeContext) -> MergeResult:
  """Weights per leaf or model, learned on examples of the arm's tasks.

  With objective 'entropy' the examples may be those of 'test': transductive.
  'negation' unlearns `arm.forget`, one of its tasks, and does not stop by
  itself.
  """
  base, experts = context.base.params, operators.experts(arm, context)
  params = [model[0] for model in experts]

  def make(chosen):
    s = settings_of(Coefficients, arm, chosen)
    learner = _coefficient_learner(
        context.fns.logits, arm.op or 'linear', s.objective, s.bounds,
        s.optimizer, tuple(s.op_settings.items()))
    parts = procedures.random_parts(base, s.parts, seed=context.seed) if (
        s.parts > 1) else None
    state = learner.init(procedures.init_coefficients(
        base, len(params), per=s.per, parts=s.parts, value=s.value))
    stats = operators.batch_statistics(arm, context, base, experts)
    for batch in _batches(arm, context, s, stats, s.objective == 'negation'):
      state, _ = learner.step(state, base, params, batch, parts)
    merged = learner.params(state.theta, base, params, parts)
    trained.update(trained=_size(state.theta))
    return merged, operators.batch_statistics(arm, context, merged, experts)

  trained = {}
  chosen = tune(arm, context, make)
  return of_model(context, make(chosen), chosen | trained)


def finetune(arm: Arm, context: MergeContext) -> MergeResult:
  """The base, trained on the same examples: as many labels."""
  base, stats = context.base_model

  def make(chosen):
    s = settings_of(Finetune, arm, chosen)
    theta = {path: x for path, x in base.items()
             if re.search(s.trainable, path)}
    if not theta:
      raise core.UserError(f'trainable={s.trainable!r} matches no parameter.')
    learner = _parameter_learner(context.fns.logits, s.optimizer)
    state = learner.init(theta)
    for batch in _batches(arm, context, s, stats):
      state, _ = learner.step(state, base, batch)
    trained.update(trained=_size(theta))
    return {**base, **state.theta}, stats

  trained = {}
  chosen = tune(arm, context, make)
  return of_model(context, make(chosen), chosen | trained)


def svd_finetune(arm: Arm, context: MergeContext) -> MergeResult:
  """Singular values of the merge by `arm.op`, learned: stage 2 of AXIS."""
  experts = operators.experts(arm, context)
  measures = operators.measures(arm, context, experts)

  def make(chosen):
    s = settings_of(SvdFinetune, arm, chosen)
    merged, stats = operators.apply(
        dataclasses.replace(arm, settings=s.op_settings), context, experts,
        measures, {})
    values, basis = procedures.singular_values(context.base.params, merged,
                                               rank=s.rank)
    learner = _singular_value_learner(context.fns.logits, s.optimizer)
    state = learner.init(values)
    for batch in _batches(arm, context, s, stats):
      state, _ = learner.step(state, basis, batch)
    trained.update(trained=_size(values))
    return procedures.singular_params(state.theta, basis), stats

  trained = {}
  chosen = tune(arm, context, make)
  return of_model(context, make(chosen), chosen | trained)


def _size(theta) -> float:
  """Number of parameters."""
  return float(sum(x.size for x in theta.values()))


def _batches(arm: Arm, context: MergeContext, s: Descent, stats,
             negation: bool = False) -> Iterator[dict[str, Any]]:
  """One batch per step: as many examples of every task, with replacement.

  A task with no more examples than a batch gives all of them, each time.
  """
  arrays = {t: getattr(context.splits[t], s.examples) for t in arm.tasks}
  for task, x in arrays.items():
    if not len(x):
      raise core.UserError(f'config.tasks.{task} has no validation examples to '
                           'learn from: set its data.validation.')
  groups = dict(target=[arm.forget], control=[
      t for t in arrays if t != arm.forget]) if negation else dict(
          all=list(arrays))
  for step in range(s.steps):
    batch = {name: _batch([_draw(arrays[t], s.batch, (context.seed, step, n))
                           for n, t in enumerate(tasks)], stats)
             for name, tasks in groups.items()}
    yield batch.get('all', batch)


def _draw(arrays: data.Arrays, size: int, seed) -> data.Arrays:
  if len(arrays) <= size:
    return arrays
  return arrays.take(np.random.default_rng(seed).integers(len(arrays),
                                                          size=size))


def _batch(parts, stats):
  return dict(inputs=(np.concatenate([x.images for x in parts]), stats),
              labels=np.concatenate([x.labels for x in parts]))


def _optimizer(learning_rate, steps, weight_decay, clip):
  schedule = optax.cosine_decay_schedule(learning_rate, max(steps, 1))
  return optax.chain(
      optax.clip_by_global_norm(clip) if clip else optax.identity(),
      optax.adamw(schedule, weight_decay=weight_decay))


def _objective(logits, name):
  forward = lambda params, inputs: logits(params, *inputs)
  return getattr(procedures, f'{name}_objective')(forward)


# The same objects for all seeds, so that nothing compiles twice.


@functools.lru_cache
def _coefficient_learner(logits, op, objective, bounds, optimizer, op_settings):
  return procedures.learned_coefficients(
      _objective(logits, objective), _optimizer(*optimizer),
      op if callable(op) else core.resolve(
          merge, op, 'operator (op)', takes='models'),
      bounds=bounds or None, **dict(op_settings))


@functools.lru_cache
def _parameter_learner(logits, optimizer):
  loss = _objective(logits, 'cross_entropy')
  return procedures.descend(
      lambda theta, base, batch: loss({**base, **theta}, batch),
      _optimizer(*optimizer))


@functools.lru_cache
def _singular_value_learner(logits, optimizer):
  loss = _objective(logits, 'cross_entropy')
  return procedures.descend(
      lambda values, basis, batch: loss(
          procedures.singular_params(values, basis), batch),
      _optimizer(*optimizer))
