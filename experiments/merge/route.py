"""Arms that make a model for every input."""
import dataclasses
import functools
from typing import Literal

import jax
from jax import numpy as jnp
import numpy as np
import optax

from experiments.merge import operators
from experiments.merge.context import MergeContext
from experiments.merge.result import MergeResult
from experiments.merge.result import settings_of
from experiments.merge.result import tune
from experiments.merge.spec import Arm
from kt_jax import procedures

EXAMPLES = 250  # whose models are evaluated in one call


@dataclasses.dataclass(frozen=True)
class Route:
  """Settings of `route`.

  Routers: 'mlp' is trained on training examples of the experts' tasks, 'argmax'
  takes its first choice only; 'uniform' and 'random' need no training; 'oracle'
  is told the task; 'none' is the shared model.
  """
  router: Literal['mlp', 'argmax', 'uniform', 'random', 'oracle', 'none'] = (
      'mlp')
  scale: float = 0.3
  rank: int | float = 0.1
  skip: tuple[str, ...] = ()  # see twin_merging
  tap: str = 'pool'  # features of the shared model that the router reads
  steps: int = 500
  batch: int = 512
  learning_rate: float = 5e-4
  dropout: float = 0.5
  width: int = 0  # 0: that of the features


def route(arm: Arm, context: MergeContext) -> MergeResult:
  """Twin-Merging: the task of a test input is hidden from all but 'oracle'."""
  experts = operators.experts(arm, context)
  stats = operators.batch_statistics(arm, context, None, experts)
  chosen = tune(arm, context, _refuse) if arm.tuned_as else {}
  s = settings_of(Route, arm, dict(scale=chosen['weight']) if (
      'weight' in chosen) else {})
  twin = procedures.twin_merging(
      context.base.params, [m[0] for m in experts], scale=s.scale, rank=s.rank,
      skip=s.skip)
  count = len(experts)
  features = lambda images: _features(context.fns, s.tap, twin.shared, stats,
                                      images)
  theta = router = None
  if s.router in ('mlp', 'argmax'):
    router = _router(count, s.learning_rate, s.dropout, s.width)
    theta = _trained(router, s, arm, context, features)

  def weights(task, images):
    size = len(images)
    if s.router == 'oracle':
      return np.eye(count)[[arm.experts.index(task)] * size]
    if s.router == 'random':
      return np.eye(count)[np.random.default_rng(
          [context.seed, *task.encode()]).integers(count, size=size)]
    if router is None:
      return np.full((size, count), 0.0 if s.router == 'none' else 1 / count)
    soft = np.asarray(router.weights(theta, features(images)))
    return np.eye(count)[soft.argmax(-1)] if s.router == 'argmax' else soft

  def logits(task, arrays):
    parts = []
    chunk = context.spec.evaluate.batch_size
    for at in range(0, len(arrays), chunk):
      images = np.asarray(arrays.images[at:at + chunk])
      short = chunk - len(images)  # one shape for all: compiled once
      full = np.concatenate([images, np.repeat(images[-1:], short, 0)])
      parts.append(np.asarray(_forward(
          context.fns.logits, twin, weights(task, full), full, stats)
                             )[:len(images)])
    return np.concatenate(parts)
  routed = 0.0
  if router:
    routed = float(np.mean([np.mean(
        weights(t, np.asarray(context.splits[t].test.images)).argmax(-1)
        == arm.experts.index(t)) for t in arm.tasks]))
  return MergeResult(logits, dict(scale=float(s.scale), routed=routed))


def _refuse(settings):
  raise AssertionError('Only the choice of another arm is taken.')


def _trained(router, s: Route, arm, context, features):
  """Theta of a router, from training examples and their tasks."""
  parts = [context.splits[t].train for t in arm.experts]
  inputs = np.concatenate([np.asarray(features(np.asarray(x.images)))
                         for x in parts])
  tasks = np.repeat(np.arange(len(parts)), [len(x) for x in parts])
  key = jax.random.key(context.seed)
  state = router.init(key, inputs)
  rng = np.random.default_rng(context.seed)
  for step in range(s.steps):
    rows = rng.integers(len(inputs), size=s.batch)
    state, _ = router.step(state, jax.random.fold_in(key, step), inputs[rows],
                           tasks[rows])
  return state.theta


def _features(fns, tap, params, stats, images):
  """`[B, d]`: the mean over all but the first and the last axis."""
  out = fns.taps(params, stats, images, (tap,))[tap]
  return jnp.mean(out.reshape(len(out), -1, out.shape[-1]), 1)


@functools.lru_cache
def _router(count, learning_rate, dropout, width):
  return procedures.mlp_router(count, optax.adam(learning_rate),
                               width=width or None, dropout=dropout)


@functools.partial(jax.jit, static_argnums=0)
def _forward(logits, twin, weight, images, stats):
  return procedures.twin_forward(
      lambda params, x: logits(params, x, stats), twin,
      jnp.asarray(weight, jnp.float32), images, batch_size=EXAMPLES)
