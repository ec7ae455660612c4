"""The model of an arm, and the choice of its settings on validation data."""
from collections.abc import Callable, Mapping
import itertools
from typing import Any, NamedTuple

import numpy as np

from experiments.merge import context
from kt_jax import core
from kt_jax import data


class Made(NamedTuple):
  """What an arm made of the experts."""
  logits: Callable[[str, data.Arrays], np.ndarray]  # (task, examples) -> [N, K]
  # What tuning chose: recorded, and numbers in it are metrics 'chosen_NAME'.
  chosen: Mapping[str, Any] = {}
  # The experts in one network's units, between which `path` is measured.
  ends: tuple = ()


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
      value = context.pooled(found, scene, 'validation')
    if value > score:
      best, score = chosen, value
  if not best:
    raise core.UserError(f'No setting of {arm.tune.to_dict()} keeps '
                         f'{arm.control} of the accuracy of the base.')
  return best


def expert_logits(scene, task, arrays):
  expert = scene.experts[task]
  fns = context.functions(expert.net, scene.base.info.mean,
                              scene.base.info.std)
  return scene._replace(fns=fns).logits((expert.params, expert.stats), arrays)
