"""Kinds of arms of `merge`: `(config, arm, scene) -> Made`, a function each.

Settings are chosen on what tasks hold out; no kind sees labels of a test set.
"""
from collections.abc import Callable, Mapping
import itertools
from typing import Any, NamedTuple

import numpy as np

from experiments import merge_apply
from experiments import merge_scene
from kt_jax import core
from kt_jax import data


class Made(NamedTuple):
  """What an arm made of the experts."""
  logits: Callable[[str, data.Arrays], np.ndarray]  # (task, examples) -> [N, K]
  # What tuning chose: recorded, and numbers in it are metrics 'chosen_NAME'.
  chosen: Mapping[str, Any] = {}
  # The experts in one network's units, between which `path` is measured.
  ends: tuple = ()


def merge(config, arm, scene) -> Made:
  """Parameters merged by `arm.op`: one model, that knows of no task."""
  found = merge_apply.experts(config, arm, scene)
  leaves = merge_apply.measured(config, arm, scene, found)
  make = lambda chosen: merge_apply.run(config, arm, scene, found, leaves,
                                        chosen)
  chosen = tuned(arm, scene, make)
  return of_model(scene, make(chosen), chosen, found)


def of_model(scene, model, chosen=None, ends=()) -> Made:
  """One model of the base's network for all tasks."""
  return Made(lambda _, arrays: scene.logits(model, arrays), chosen or {},
              tuple(ends))


def tuned(arm, scene, make) -> dict[str, Any]:
  """The settings of the grid `arm.tune` that are best on validation data.

  Best is the pooled accuracy; with `arm.forget` the lowest accuracy on that
  task of those settings that keep `arm.control` of the base's on the others.
  The first of equals. With `tuned_as`, what that arm chose.
  """
  if arm.tuned_as:
    return dict(scene.chosen[arm.tuned_as])
  if not arm.tune:
    return {}
  base = arm.forget and scene.validation(
      (scene.base.params, scene.base.stats), arm.tasks)
  best, score = {}, -np.inf
  names = list(arm.tune)
  for values in itertools.product(*(arm.tune[n] for n in names)):
    chosen = dict(zip(names, values))
    found = scene.validation(make(chosen), arm.tasks)
    if arm.forget:
      others = [t for t in found if t != arm.forget]
      stays = all(found[t] >= arm.control * base[t] for t in others)
      value = -found[arm.forget] if stays else -np.inf
    else:
      value = merge_scene.pooled(found, scene, 'validation')
    if value > score:
      best, score = chosen, value
  if not best:
    raise core.UserError(f'No setting of {arm.tune.to_dict()} keeps '
                         f'{arm.control} of the accuracy of the base.')
  return best


def base(config, arm, scene) -> Made:
  """What the experts started from."""
  del config, arm
  return of_model(scene, (scene.base.params, scene.base.stats))


def own(config, arm, scene) -> Made:
  """Each task by its own expert: it is told the task. The ceiling."""
  del config, arm
  def logits(task, arrays):
    return expert_logits(scene, task, arrays)
  return Made(logits)


def expert_logits(scene, task, arrays):
  expert = scene.experts[task]
  fns = merge_scene.functions(expert.net, scene.base.info.mean,
                              scene.base.info.std)
  return scene._replace(fns=fns).logits((expert.params, expert.stats), arrays)


def single(config, arm, scene) -> Made:
  """The one expert that is best on the validation data of all tasks."""
  del config
  held_out = {t: scene.splits[t].validation for t in arm.tasks}
  def score(name):
    return merge_scene.pooled(merge_scene.accuracies(
        lambda _, x: expert_logits(scene, name, x), held_out), scene,
                              'validation')
  name = max(arm.experts, key=score) if len(arm.experts) > 1 else (
      arm.experts[0])
  return Made(lambda _, x: expert_logits(scene, name, x), dict(expert=name))


def ensemble(config, arm, scene) -> Made:
  """Mean of the experts' probabilities: T times the cost."""
  del config
  def logits(_, arrays):
    log_p = [_log_softmax(expert_logits(scene, name, arrays))
             for name in arm.experts]
    return np.logaddexp.reduce(log_p) - np.log(len(log_p))
  return Made(logits)


def multitask(config, arm, scene) -> Made:
  """One model trained on the data of all the arm's tasks together.

  `settings.updates`: of 'one' expert, or the sum over 'all' of them.
  """
  start = scene.base if config.base else None
  run = merge_scene.multitask_config(
      config, arm.tasks, arm.settings.get('updates', 'all'), scene.seed,
      start and start.source, start and start.model)
  found = merge_scene.kept('multitask', run, scene.folder, start)
  return of_model(scene, (found.params, found.stats))


def _log_softmax(logits):
  logits = np.asarray(logits, np.float64)
  return logits - np.logaddexp.reduce(logits, -1, keepdims=True)
