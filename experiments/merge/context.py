"""Base, experts and data that the arms of one seed have in common."""
from collections.abc import Callable, Mapping
import dataclasses
import functools
from typing import Any, NamedTuple
import zlib

import jax
import numpy as np

from experiments.merge.spec import Spec
from kt_jax import core
from kt_jax import data
from kt_jax import models
from kt_jax import train

SEED_STRIDE = 1000  # between the seeds of experts of two seeds of the spec

Model = tuple[Mapping[str, Any], Mapping[str, Any]]  # (params, stats)


class Functions(NamedTuple):
  """Functions of a network; images are uint8 `[B, H, W, C]`."""
  predict: Callable[..., Any]  # (params, stats, images) -> logits [B, K]
  logits: Callable[..., Any]  # (params, images, stats) -> the same
  # (params, images, stats) -> kernel -> inputs of its layer
  inputs: Callable[..., Any]
  # (params, stats, images, taps) -> tap -> features
  taps: Callable[..., Any]
  normalize: Callable[..., Any]  # images -> inputs of the network


class MergeContext(NamedTuple):
  """Shared by the arms of one seed."""
  spec: Spec
  seed: int
  base: train.Trained  # the first expert where experts have no common start
  experts: Mapping[str, train.Trained]  # task -> expert
  splits: Mapping[str, data.Splits]  # task -> its data
  fns: Functions  # of the base's network
  chosen: dict[str, dict[str, Any]]  # arm -> tuned settings, as arms finish
  folder: Any  # where models are kept

  @property
  def base_model(self) -> Model:
    return self.base.params, self.base.stats

  def logits(self, model: Model, arrays: data.Arrays) -> np.ndarray:
    """Logits `[N, K]` of a model of the base's network."""
    return train.predict_all(self.fns.predict, *model, arrays,
                             batch_size=self.spec.evaluate.batch_size)

  def expert_logits(self, task: str, arrays: data.Arrays) -> np.ndarray:
    """Logits `[N, K]` of the expert on `task`, by its own network."""
    expert = self.experts[task]
    fns = functions(expert.net, self.base.info.mean, self.base.info.std)
    return self._replace(fns=fns).logits((expert.params, expert.stats), arrays)

  def validation(self, model: Model, tasks) -> dict[str, float]:
    """Task -> accuracy on the held-out part of its training data."""
    return accuracies(lambda task, x: self.logits(model, x), {
        task: self.splits[task].validation for task in tasks})

  def pooled(self, accuracy: Mapping[str, float]) -> float:
    """Validation accuracy on the examples of several tasks together."""
    size = {task: len(self.splits[task].validation) for task in accuracy}
    return sum(accuracy[t] * n for t, n in size.items()) / sum(size.values())


def accuracies(logits, arrays) -> dict[str, float]:
  """Task -> accuracy of `(task, examples) -> logits`; NaN is wrong."""
  for task, x in arrays.items():
    check_held_out(task, len(x))
  return {task: train.right(logits(task, x), x.labels) / len(x)
          for task, x in arrays.items()}


def check_held_out(task: str, count: int) -> None:
  if not count:
    raise core.UserError(f'config.tasks.{task} has no validation examples to '
                         'choose settings on: set its data.validation.')


def make(spec: Spec, seed: int, workdir) -> MergeContext:
  """The context of a seed; what is not in the pool yet is trained."""
  folder = train.pool.home(spec.pool_dir, workdir)
  base = None
  if spec.base == 'pretrain':
    base = pretrained('base', base_training(spec, seed), folder, None)
  elif spec.base:
    base = train.load_trained(spec.base)
  experts, splits = {}, {}
  for task in in_order(spec.tasks):
    entry = spec.tasks[task]
    start = experts[entry.init_from] if entry.init_from else base
    training = expert_training(spec, task, seed,
                               model_of(base) if base else None)
    splits[task] = data.load(images_of(training))
    experts[task] = train.load_trained(entry.checkpoint) if (
        entry.checkpoint) else pretrained(task, training, folder, start)
  first = base or next(iter(experts.values()))
  for task, expert in experts.items():
    check_alike(task, expert.info, first.info, splits[task].info)
  return MergeContext(
      spec, seed, first, experts, splits,
      functions(first.net, first.info.mean, first.info.std), {}, folder)


def in_order(tasks) -> list[str]:
  """Tasks after those from whose experts they start."""
  order, waiting = [], list(tasks)
  while waiting:
    ready = [t for t in waiting if tasks[t].init_from in ('', *order)]
    if not ready:
      raise core.UserError(core.nearest(
          f'task to start from (config.tasks.{waiting[0]}.init_from)',
          tasks[waiting[0]].init_from, order))
    order += ready
    waiting = [t for t in waiting if t not in ready]
  return order


def pretrained(name: str, training: train.Training, folder,
               start: train.Trained | None) -> train.Trained:
  """A model of the pool, trained from `start` if it is not there."""
  content = {}
  if start:
    training = dataclasses.replace(training, init_from=start.source)
    content = dict(init_from=start.digest)
  return train.load_trained(train.pool.trained(
      name, training, folder, train.run, **content))


def model_of(trained: train.Trained) -> train.Model:
  """The spec of a model's constructor."""
  if not trained.model:
    raise core.UserError(f'config.base {trained.source} is not the --workdir '
                         'of a run.')
  return core.spec.build(train.Model, trained.model)


def images_of(training: train.Training) -> data.Images:
  """The data set of a run; merges are of image classifiers."""
  if not isinstance(training.data, data.Images):
    raise core.UserError('config.tasks: merge is for images, not for text.')
  return training.data


def base_training(spec: Spec, seed: int) -> train.Training:
  """The run that trains the base."""
  return dataclasses.replace(spec.pretrain, seed=seed)


def expert_training(spec: Spec, task: str, seed: int,
                    model: train.Model | None) -> train.Training:
  """The run that trains an expert: its own seed, the base's network.

  Args:
    spec: of the experiment.
    task: of the expert.
    seed: of the base.
    model: of the base; None without one.
  """
  changes, where = spec.tasks[task].changes, f'config.tasks.{task}.changes'
  own = SEED_STRIDE * seed + zlib.crc32(task.encode()) % SEED_STRIDE
  if not spec.base:
    return dataclasses.replace(
        core.spec.change(spec.pretrain, changes, where), seed=own)
  for key in ('model', 'init_from', 'seed'):
    if key in changes:
      raise core.UserError(f'{where}.{key}: experts have that of the base.')
  training = core.spec.change(spec.finetune, changes, where)
  return dataclasses.replace(training, seed=own, model=model or training.model)


def multitask_training(spec: Spec, tasks, updates: str, seed: int,
                       model: train.Model | None) -> train.Training:
  """A run on the data of several tasks.

  Settings other than the data are those of the first task.

  Args:
    spec: of the experiment.
    tasks: names.
    updates: as many as 'one' expert has, or the sum over 'all' of them.
    seed: of the base.
    model: of the base; None without one.
  """
  first, *_ = parts = [expert_training(spec, t, seed, model) for t in tasks]
  return dataclasses.replace(
      first,
      data=data.Images(
          'kt_jax.data:union', kw=dict(parts=tuple(p.data for p in parts)),
          validation=0, mean=images_of(first).mean, std=images_of(first).std),
      loop=dataclasses.replace(
          first.loop, save_every=0,
          steps=first.loop.steps * (len(tasks) if updates == 'all' else 1)))


@functools.lru_cache
def functions(net, mean, std) -> Functions:
  """The same objects for all seeds, so that nothing compiles twice."""
  info = data.Info('', 0, (), mean, std, (), {})
  predict = train.make_predict(net, info)
  normalize = lambda images: data.normalize(images, mean, std)
  return Functions(
      predict, lambda params, images, stats: predict(params, stats, images),
      lambda params, images, stats: models.linear_inputs(
          net, params, stats, normalize(images)),
      jax.jit(lambda params, stats, images, taps: models.apply(
          net, params, stats, normalize(images), taps=taps).features,
              static_argnums=3), normalize)


def check_alike(task: str, expert: data.Info, first: data.Info, own: data.Info
               ) -> None:
  """Refuses an expert or data that the first network cannot be used for."""
  where = f'config.tasks.{task}'
  train.check_fits(expert, first, where)
  train.check_fits(first, own, where)
  for key in ('mean', 'std'):
    if getattr(expert, key) != getattr(first, key):
      raise core.UserError(
          f'{where}: its expert has data.{key} {getattr(expert, key)}, the '
          f'first model {getattr(first, key)}; a merged model has one: set '
          f'data.{key}.')
