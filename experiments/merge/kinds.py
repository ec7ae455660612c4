"""Kinds of arms, by name: `(arm, context) -> MergeResult`.

Settings are chosen on validation data; no kind reads labels of a test set.
"""
from collections.abc import Callable
import dataclasses
from typing import Any, Literal, NamedTuple

import numpy as np

from experiments.merge import context as contexts
from experiments.merge import learn
from experiments.merge import operators
from experiments.merge import route
from experiments.merge import search
from experiments.merge import task_vectors
from experiments.merge.context import MergeContext
from experiments.merge.result import MergeResult
from experiments.merge.result import of_model
from experiments.merge.result import settings_of
from experiments.merge.result import tune
from experiments.merge.spec import Arm
from kt_jax import core
from kt_jax import procedures


def merge(arm: Arm, context: MergeContext) -> MergeResult:
  """Parameters merged by `arm.op`: one model, not told the task."""
  experts = operators.experts(arm, context)
  measures = operators.measures(arm, context, experts)
  make = lambda chosen: operators.apply(arm, context, experts, measures, chosen)
  chosen = tune(arm, context, make)
  return of_model(context, make(chosen), chosen, experts)


def base(arm: Arm, context: MergeContext) -> MergeResult:
  """The model that the experts started from."""
  del arm
  return of_model(context, context.base_model)


def individual(arm: Arm, context: MergeContext) -> MergeResult:
  """Each task by its own expert, which is told the task: the ceiling."""
  del arm
  return MergeResult(context.expert_logits)


def best_single(arm: Arm, context: MergeContext) -> MergeResult:
  """The one expert that is best on the validation data of all tasks."""
  validation = {t: context.splits[t].validation for t in arm.tasks}
  def score(name):
    return context.pooled(contexts.accuracies(
        lambda _, x: context.expert_logits(name, x), validation))
  name = max(arm.experts, key=score) if len(arm.experts) > 1 else (
      arm.experts[0])
  return MergeResult(lambda _, x: context.expert_logits(name, x),
                     dict(expert=name))


def ensemble(arm: Arm, context: MergeContext) -> MergeResult:
  """Mean of the experts' probabilities: T times the cost."""
  def logits(_, arrays):
    log_p = [_log_softmax(context.expert_logits(name, arrays))
             for name in arm.experts]
    return np.logaddexp.reduce(log_p) - np.log(len(log_p))
  return MergeResult(logits)


@dataclasses.dataclass(frozen=True)
class Multitask:
  """Settings of `multitask`."""
  updates: Literal['all', 'one'] = 'all'  # of the experts' runs, or of one


def multitask(arm: Arm, context: MergeContext) -> MergeResult:
  """One model trained on the data of all the arm's tasks together."""
  start = context.base if context.spec.base else None
  training = contexts.multitask_training(
      context.spec, arm.tasks, settings_of(Multitask, arm).updates,
      context.seed, contexts.model_of(start) if start else None)
  trained = contexts.pretrained('multitask', training, context.folder, start)
  return of_model(context, (trained.params, trained.stats))


def greedy_soup(arm: Arm, context: MergeContext) -> MergeResult:
  """The mean of those experts that help on the tasks' validation data."""
  experts = [context.experts[name] for name in arm.experts]
  def score(model):
    return context.pooled(context.validation(model, arm.tasks))
  soup = procedures.greedy_soup([(e.params, e.stats) for e in experts], score)
  return of_model(context, soup.params, dict(members=float(len(soup.members))))


def _log_softmax(logits):
  logits = np.asarray(logits, np.float64)
  return logits - np.logaddexp.reduce(logits, -1, keepdims=True)


class Kind(NamedTuple):
  make: Callable[[Arm, MergeContext], MergeResult]
  # Dataclass of `arm.settings`, with `check(spec, arm)` where they depend on
  # more than their types; None: they are the operator's, or free.
  Settings: type | None = None


KINDS: dict[str, Kind] = dict(
    merge=Kind(merge),
    base=Kind(base),
    individual=Kind(individual),
    best_single=Kind(best_single),
    ensemble=Kind(ensemble),
    multitask=Kind(multitask, Multitask),
    greedy_soup=Kind(greedy_soup),
    learned_coefficients=Kind(learn.learned_coefficients, learn.Coefficients),
    finetune=Kind(learn.finetune, learn.Finetune),
    svd_finetune=Kind(learn.svd_finetune, learn.SvdFinetune),
    evolve=Kind(search.evolve, search.Evolve),
    layer_path=Kind(search.layer_path, search.LayerPath),
    route=Kind(route.route, route.Route),
    layer_swap=Kind(task_vectors.layer_swap, task_vectors.LayerSwap),
    transfer_task_vector=Kind(task_vectors.transfer_task_vector,
                              task_vectors.Transfer))


def kind_of(arm: Arm) -> Kind:
  """The kind of an arm; one of the user's own has free settings."""
  kind: Any = arm.kind
  if callable(kind):
    return Kind(kind)
  if ':' in kind:
    return Kind(core.resolve(None, kind, 'kind'))
  if kind not in KINDS:
    raise core.UserError(core.nearest('kind', kind, KINDS))
  return KINDS[kind]
