"""Kinds of arms of `merge`: `(config, arm, scene) -> Made`, a function each.

Settings are chosen on what tasks hold out; no kind sees labels of a test set.
"""
import numpy as np

from experiments.merge import context
from experiments.merge import learn
from experiments.merge import operators
from experiments.merge import result
from experiments.merge import route
from experiments.merge import search
from experiments.merge import task_vectors
from kt_jax import procedures


def merge(config, arm, scene) -> result.Made:
  """Parameters merged by `arm.op`: one model, that knows of no task."""
  found = operators.experts(config, arm, scene)
  leaves = operators.measured(config, arm, scene, found)
  make = lambda chosen: operators.run(config, arm, scene, found, leaves,
                                        chosen)
  chosen = result.tuned(arm, scene, make)
  return result.of_model(scene, make(chosen), chosen, found)


def base(config, arm, scene) -> result.Made:
  """What the experts started from."""
  del config, arm
  return result.of_model(scene, (scene.base.params, scene.base.stats))


def own(config, arm, scene) -> result.Made:
  """Each task by its own expert: it is told the task. The ceiling."""
  del config, arm
  def logits(task, arrays):
    return result.expert_logits(scene, task, arrays)
  return result.Made(logits)


def single(config, arm, scene) -> result.Made:
  """The one expert that is best on the validation data of all tasks."""
  del config
  held_out = {t: scene.splits[t].validation for t in arm.tasks}
  def score(name):
    return context.pooled(context.accuracies(
        lambda _, x: result.expert_logits(scene, name, x), held_out), scene,
                              'validation')
  name = max(arm.experts, key=score) if len(arm.experts) > 1 else (
      arm.experts[0])
  return result.Made(lambda _, x: result.expert_logits(scene, name, x),
                     dict(expert=name))


def ensemble(config, arm, scene) -> result.Made:
  """Mean of the experts' probabilities: T times the cost."""
  del config
  def logits(_, arrays):
    log_p = [_log_softmax(result.expert_logits(scene, name, arrays))
             for name in arm.experts]
    return np.logaddexp.reduce(log_p) - np.log(len(log_p))
  return result.Made(logits)


def multitask(config, arm, scene) -> result.Made:
  """One model trained on the data of all the arm's tasks together.

  `settings.updates`: of 'one' expert, or the sum over 'all' of them.
  """
  start = scene.base if config.base else None
  run = context.multitask_config(
      config, arm.tasks, arm.settings.get('updates', 'all'), scene.seed,
      start and start.source, start and start.model)
  found = context.kept('multitask', run, scene.folder, start)
  return result.of_model(scene, (found.params, found.stats))


def greedy_soup(config, arm, scene) -> result.Made:
  """The mean of those experts that help on the tasks' validation data."""
  del config
  experts = [scene.experts[name] for name in arm.experts]
  def score(model):
    return context.pooled(scene.validation(model, arm.tasks), scene,
                              'validation')
  soup = procedures.greedy_soup([(e.params, e.stats) for e in experts], score)
  return result.of_model(scene, soup.params,
                              dict(members=float(len(soup.members))))


def _log_softmax(logits):
  logits = np.asarray(logits, np.float64)
  return logits - np.logaddexp.reduce(logits, -1, keepdims=True)


# What `arm.kind` may be: (config, arm, scene) -> Made.
KINDS = dict(
    merge=merge, base=base, own=own, single=single, ensemble=ensemble,
    multitask=multitask, greedy_soup=greedy_soup, evolve=search.evolve,
    flow=search.flow, learn=learn.learn, fit=learn.fit,
    singular=learn.singular, patch=task_vectors.patch, swap=task_vectors.swap,
    route=route.route)
