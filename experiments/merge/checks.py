"""Validation of a `merge` spec before anything is trained."""
import dataclasses
import inspect
import re
from typing import Any

import jax

from experiments import compare
from experiments.merge import context as contexts
from experiments.merge import kinds
from experiments.merge import operators
from experiments.merge.result import settings_of
from experiments.merge.spec import Arm
from experiments.merge.spec import Spec
from kt_jax import core
from kt_jax import data
from kt_jax import merge
from kt_jax import models
from kt_jax import train


def check(spec: Spec) -> list[train.Report]:
  """Traces trainings and merges. Models of the pool are reported all the same.

  Raises:
    UserError: what is wrong with the spec.
  """
  compare.check_claims(spec)
  if not spec.tasks:
    raise core.UserError('config.tasks must not be empty.')
  reports, seed, model, first = [], spec.seeds[0], None, None
  base = contexts.base_training(spec, seed)
  report = lambda name, training: [
      r._replace(name=name, steps=r.steps * len(spec.seeds))
      for r in train.check(training)[-1:]]
  if spec.base == 'pretrain':
    reports += report('base', base)
    first, model = data.abstract(contexts.images_of(base)), base.model
  elif spec.base:
    trained = train.load_trained(spec.base)
    first, model = trained.info, contexts.model_of(trained)
  contexts.in_order(spec.tasks)
  validation = {}
  for name, task in spec.tasks.items():
    training = contexts.expert_training(spec, name, seed, model)
    images = contexts.images_of(training)
    info = data.abstract(images)
    validation[name] = info.sizes['validation']
    if first and spec.base and not images.mean:
      info = dataclasses.replace(info, mean=first.mean, std=first.std)
    expert = info
    if task.checkpoint:
      expert = train.load_trained(task.checkpoint).info
    else:
      reports += report(name, _from_base(spec, training, base))
    first = first or expert
    contexts.check_alike(name, expert, first, info)
    model = model or training.model
  params = _shapes(model, first) if model and first else None
  for name in spec.arms:
    check_arm(spec, name, params)
    arm = arm_of(spec, name)
    for task in arm.tasks if arm.tune else ():
      contexts.check_held_out(task, validation[task])
  return reports


def _from_base(spec: Spec, training: train.Training, base: train.Training
              ) -> train.Training:
  """A run that starts from the base, which may not be trained yet."""
  if not spec.base:
    return training
  if spec.base != 'pretrain':
    return dataclasses.replace(training, init_from=spec.base)
  return dataclasses.replace(training, init_from='base', pretrain=base,
                             pool={'base': train.Pretrained()})


def arm_of(spec: Spec, name: str) -> Arm:
  """An arm with its experts and tasks named."""
  arm = spec.arms[name]
  experts = arm.experts or tuple(spec.tasks)
  return dataclasses.replace(arm, experts=experts, tasks=arm.tasks or experts)


def check_arm(spec: Spec, name: str, params) -> None:
  """Refuses an arm with errors; its merge is traced.

  Args:
    spec: of the experiment.
    name: of the arm.
    params: shapes of the base; None: not traced.
  """
  arm, where = arm_of(spec, name), f'config.arms.{name}'
  for task in (*arm.experts, *arm.tasks, *[arm.forget] * bool(arm.forget)):
    if task not in spec.tasks:
      raise core.UserError(core.nearest(f'task ({where})', task, spec.tasks))
  tuned = [n for n, a in spec.arms.items() if a.tune]
  if arm.tuned_as and arm.tuned_as not in tuned:
    raise core.UserError(core.nearest(
        f'arm with a grid ({where}.tuned_as)', arm.tuned_as, tuned))
  if arm.tuned_as and arm.tune:
    raise core.UserError(f'{where}: tune and tuned_as exclude each other.')
  kind = kinds.kind_of(arm)
  merges = kind.make is kinds.merge
  if arm.path and (len(arm.experts) != 2 or arm.path < 3 or not merges):
    raise core.UserError(f'{where}.path needs a merge of two experts and at '
                         'least three points.')
  if kind.Settings:
    _check_settings(spec, arm, kind.Settings, where)
  if merges:
    _check_merge(arm, where, params)


def _check_settings(spec: Spec, arm: Arm, cls: type, where: str) -> None:
  """Refuses settings of a kind: those of the arm, and each of its grid."""
  grid: list[dict[str, Any]] = [{}] + [
      {name: value} for name, values in arm.tune.items() for value in values]
  for chosen in grid:
    settings = settings_of(cls, arm, chosen, f'{where}.settings')
    if hasattr(settings, 'check'):
      try:
        settings.check(spec, arm)
      except core.UserError as e:
        raise core.UserError(f'{where}.settings: {e}') from e


def _check_merge(arm: Arm, where: str, params) -> None:
  op = operators.operator(arm)
  if arm.align:
    operators.alignment(arm)
  arrays = ['models'] + [n for n in operators.MEASURES
                         if n in inspect.signature(op).parameters]
  for key in arm.shuffle:
    if key not in arrays:
      raise core.UserError(core.nearest(f'array ({where}.shuffle)', key,
                                        arrays))
  for key in [*arm.settings, *arm.tune, *(
      k for _, rule in arm.rules for k in rule or ())]:
    if key != 'weight' and key not in operators.defaults(op):
      raise core.UserError(core.nearest(
          f'setting of {arm.op} ({where})', key,
          ['weight', *operators.defaults(op)]))
  try:
    operators.weights(arm.weight, len(arm.experts))
    if params is not None:
      _trace(arm, params)
  except ValueError as e:
    raise core.UserError(f'{where}: {e}') from e


def _shapes(model: train.Model, info: data.Info):
  """Path -> shape of a network's parameters."""
  build = models.builder(model.name, classes=info.classes,
                         input_shape=info.input_shape, **model.kw)
  net = models.abstract(build)
  return jax.eval_shape(lambda: models.arrays(net, build()))[0]


def _trace(arm: Arm, params) -> None:
  """Merges shapes, with the first values of the grid."""
  op, count = operators.operator(arm), len(arm.experts)
  settings = dict(arm.settings) | {n: v[0] for n, v in arm.tune.items()}
  weight = operators.weights(settings.pop('weight', arm.weight), count)
  key = jax.random.key(0) if operators.takes_key(op) else None
  rules = [(f'^{re.escape(path)}$', rule)
           for path, rule in operators.rules_of(arm, params).items()]
  jax.eval_shape(lambda base, models: merge.over_tree(
      op, base, models, weight, key=key, rules=rules, **settings),
                 params, [params] * count)
