"""The model of an arm, and the choice of its settings on validation data."""
from collections.abc import Callable, Mapping
import itertools
from typing import Any, NamedTuple

import numpy as np

from experiments.merge.context import MergeContext
from experiments.merge.context import Model
from experiments.merge.spec import Arm
from kt_jax import core
from kt_jax import data


class MergeResult(NamedTuple):
  """What an arm makes of the experts."""
  logits: Callable[[str, data.Arrays], np.ndarray]  # (task, examples) -> [N, K]
  # Recorded; its numbers are metrics 'chosen_NAME'.
  chosen: Mapping[str, Any] = {}
  # The experts in the units of one network, for `path`.
  ends: tuple[Model, ...] = ()


def of_model(context: MergeContext, model: Model, chosen=None, ends=()
            ) -> MergeResult:
  """One model of the base's network for all tasks."""
  return MergeResult(lambda _, arrays: context.logits(model, arrays),
                     chosen or {}, tuple(ends))


def tune(arm: Arm, context: MergeContext,
         make: Callable[[Mapping[str, Any]], Model]) -> dict[str, Any]:
  """The settings of the grid `arm.tune` that are best on validation data.

  Best is the pooled accuracy; with `arm.forget` the lowest accuracy on that
  task among the settings that keep `arm.control` of the base's on the others.
  The first of equals. With `tuned_as`, the choice of that arm.

  Args:
    arm: its grid.
    context: of the seed.
    make: settings -> model.
  """
  if arm.tuned_as:
    return dict(context.chosen[arm.tuned_as])
  if not arm.tune:
    return {}
  base = context.validation(context.base_model, arm.tasks) if (
      arm.forget) else {}
  best, highest = {}, -np.inf
  for values in itertools.product(*arm.tune.values()):
    settings = dict(zip(arm.tune, values))
    accuracy = context.validation(make(settings), arm.tasks)
    if arm.forget:
      keeps = all(accuracy[t] >= arm.control * base[t] for t in accuracy
                  if t != arm.forget)
      score = -accuracy[arm.forget] if keeps else -np.inf
    else:
      score = context.pooled(accuracy)
    if score > highest:
      best, highest = settings, score
  if not best:
    raise core.UserError(f'No setting of {dict(arm.tune)} keeps {arm.control} '
                         'of the accuracy of the base.')
  return best


def settings_of(cls: type, arm: Arm, chosen: Mapping[str, Any] = {},
                where: str = 'settings') -> Any:
  """The settings of a kind: those of the arm, `chosen` above them.

  Args:
    cls: dataclass of the settings.
    arm: has some of them.
    chosen: by tuning.
    where: path of the settings, for errors.
  """
  return core.spec.build(cls, dict(arm.settings) | dict(chosen), where)
