"""What a merge starts from: a base, experts on tasks, and the tasks' data."""
from collections.abc import Mapping
import copy
import functools
import importlib
from typing import Any, NamedTuple
import zlib

import jax
import numpy as np

from experiments import pool
from kt_jax import core
from kt_jax import data
from kt_jax import models
from kt_jax import train

APART = 1000  # seeds of the experts of one seed of the config


class Functions(NamedTuple):
  """Of images uint8 `[B, H, W, C]`."""
  predict: Any  # (params, stats, images) -> logits [B, K]
  logits: Any  # (params, images, stats) -> the same
  inputs: Any  # (params, images, stats) -> kernel -> what its layer reads
  taps: Any  # (params, stats, images, taps) -> tap -> features
  normal: Any  # images -> what the network sees


class Scene(NamedTuple):
  """All that arms of one seed have in common."""
  seed: int
  base: train.Trained  # the first expert where experts have no common start
  experts: Mapping[str, train.Trained]  # task -> expert
  splits: Mapping[str, data.Splits]  # task -> its data
  batch_size: int
  fns: Functions  # of the base's network
  chosen: dict[str, dict[str, Any]]  # arm -> what tuning chose, as arms finish
  folder: Any  # where models are kept

  def logits(self, model: tuple, arrays: data.Arrays) -> np.ndarray:
    """Logits `[N, K]` of `(params, stats)` of the base's network."""
    return train.predict_all(self.fns.predict, *model, arrays,
                             batch_size=self.batch_size)

  def validation(self, model: tuple, tasks) -> dict[str, float]:
    """Task -> accuracy on what was held out of its training data."""
    return accuracies(lambda task, x: self.logits(model, x), {
        task: self.splits[task].validation for task in tasks})


def accuracies(logits, arrays) -> dict[str, float]:
  """Of `(task, examples) -> logits`; NaN is wrong."""
  for task, x in arrays.items():
    check_held_out(task, len(x))
  return {task: pool.right(logits(task, x), x.labels) / len(x)
          for task, x in arrays.items()}


def check_held_out(task: str, count: int):
  if not count:
    raise core.UserError(f'config.tasks.{task} holds nothing out to choose '
                         'settings on: set its data.validation.')


def pooled(accuracy: Mapping[str, float], scene: Scene, split: str) -> float:
  """The accuracy on all tasks' examples together."""
  size = {task: len(getattr(scene.splits[task], split)) for task in accuracy}
  return sum(accuracy[t] * n for t, n in size.items()) / sum(size.values())


def base_config(config, seed: int):
  """What trains the base, or each expert where there is none."""
  base = copy.deepcopy(config.pretrain).unlock()
  base.seed = seed
  return base


def expert_config(config, task: str, seed: int, start: str, model):
  """The config that trains an expert: its own seed, the base's network."""
  changes = copy.deepcopy(config.tasks[task]).unlock()
  for key in ('checkpoint', *['start'] * bool(config.base)):
    if key in changes:
      del changes[key]
  where = f'config.tasks.{task}'
  own = APART * seed + zlib.crc32(task.encode()) % APART
  if not config.base:
    return pool.changed(base_config(config, own), changes, where)
  made = pool.changed(config.finetune, changes, where)
  made.seed = own
  made.model = copy.deepcopy(model)
  made.init.checkpoint, made.init.step = start, -1
  return made


def multitask_config(config, tasks, updates: str, seed: int, start: str, model):
  """One model of several tasks: `updates` of 'one' expert or of 'all'.

  Settings other than the data are those of the first task; checkpoints are the
  last ones.
  """
  made = expert_config(config, tasks[0], seed, start, model)
  parts = [expert_config(config, t, seed, start, model).data.to_dict()
           for t in tasks]
  made.data = dict(data.DEFAULTS) | dict(
      name='kt_jax.data:union', parts=parts, validation=0,
      mean=made.data.mean, std=made.data.std)
  if updates not in ('one', 'all'):
    raise core.UserError(core.nearest('value of updates', updates,
                                      ('one', 'all')))
  made.loop.steps *= len(tasks) if updates == 'all' else 1
  made.loop.save_every = 0
  return made


def kept(name, config, folder, start: train.Trained | None):
  """A run of `config`, that starts from `start`, in the pool."""
  content = {} if start is None else dict(start=start.digest)
  module = importlib.import_module(f'experiments.{config.experiment}')
  return train.load_trained(pool.trained(name, config, folder, module.run,
                                         **content))


def starting_point(config, seed: int, folder):
  """The trained base, or None."""
  if not config.base:
    return None
  if config.base != 'pretrain':
    return train.load_trained(config.base)
  return kept('base', base_config(config, seed), folder, None)


def make(config, seed: int, workdir) -> Scene:
  """Trains what is not in the pool yet."""
  folder = pool.home(config.pool_dir, workdir)
  base = starting_point(config, seed, folder)
  experts, splits = {}, {}
  for task in in_order(config.tasks):
    changes = config.tasks[task]
    start = experts[changes.start] if changes.get('start') else base
    run = expert_config(config, task, seed, start and start.source,
                        base and base.model)
    splits[task] = data.load(run.data)
    path = changes.get('checkpoint')
    experts[task] = train.load_trained(path) if path else kept(
        task, run, folder, start)
  first = base or next(iter(experts.values()))
  for task, expert in experts.items():
    check_alike(config, task, expert.info, first.info, splits[task].info)
  return Scene(seed, first, experts, splits, config.eval_batch_size,
               functions(first.net, first.info.mean, first.info.std), {},
               folder)


def in_order(tasks) -> list[str]:
  """Tasks after those whose experts they start from (`start`)."""
  order, waiting = [], list(tasks)
  while waiting:
    ready = [t for t in waiting if tasks[t].get('start', '') in ('', *order)]
    if not ready:
      raise core.UserError(core.nearest(
          f'task to start from (config.tasks.{waiting[0]}.start)',
          tasks[waiting[0]].start, order))
    order += ready
    waiting = [t for t in waiting if t not in ready]
  return order


@functools.lru_cache
def functions(net, mean, std) -> Functions:
  """The same objects for all seeds, so that nothing compiles twice."""
  info = data.Info('', 0, (), mean, std, (), {})
  predict = train.make_predict(net, info)
  normal = lambda images: data.normalize(images, mean, std)
  return Functions(
      predict, lambda params, images, stats: predict(params, stats, images),
      lambda params, images, stats: models.linear_inputs(
          net, params, stats, normal(images)),
      jax.jit(lambda params, stats, images, taps: models.apply(
          net, params, stats, normal(images), taps=taps).features,
          static_argnums=3), normal)


def check_alike(config, task: str, expert, first, own):
  """Refuses what one network cannot be evaluated on."""
  where = f'config.tasks.{task}'
  train.check_fits(expert, first, where)
  train.check_fits(first, own, where)
  for key in ('mean', 'std'):
    if getattr(expert, key) != getattr(first, key):
      raise core.UserError(
          f'{where}: its expert has data.{key} {getattr(expert, key)}, the '
          f'first model {getattr(first, key)}; merged they see the same inputs:'
          f' set data.{key}.')
