"""Arms of `merge` that make a model for every input."""
import functools

import jax
from jax import numpy as jnp
import numpy as np
import optax

from experiments.merge import operators
from experiments.merge import result
from experiments.merge.options import OneOf
from experiments.merge.options import options
from experiments.merge.options import read
from kt_jax import procedures

EXAMPLES = 250  # whose models are evaluated in one call


@options(router=OneOf(('mlp', 'argmax', 'uniform', 'random', 'oracle', 'none')),
         scale=0.3, rank=0.1, skip=(), tap='pool', steps=500, batch=512,
         learning_rate=5e-4, dropout=0.5, width=0)
def route(config, arm, scene) -> result.Made:
  """Twin-Merging; the task of a test input is hidden but from 'oracle'.

  The router is trained on training examples of the experts' tasks. 'argmax'
  takes its first choice only, 'uniform' and 'random' do without, 'none' is the
  shared model.
  """
  found = operators.experts(config, arm, scene)
  buffers = operators.buffers(config, arm, scene, None, found)
  chosen = result.tuned(arm, scene, None) if arm.tuned_as else {}
  scale = chosen.get('weight')
  s = read(config, arm, route, {} if scale is None else dict(scale=scale))
  twin = procedures.twin_merging(
      scene.base.params, [m[0] for m in found], scale=s.scale, rank=s.rank,
      skip=s.skip)
  count = len(found)
  features = lambda images: _features(scene.fns, s.tap, twin.shared, buffers,
                                      images)
  theta = None
  if s.router in ('mlp', 'argmax'):
    router = _router(count, s.learning_rate, s.dropout, s.width)
    theta = _trained(router, s, arm, scene, features)

  def weights(task, images):
    size = len(images)
    if s.router == 'oracle':
      return np.eye(count)[[arm.experts.index(task)] * size]
    if s.router == 'random':
      return np.eye(count)[np.random.default_rng(
          [scene.seed, *task.encode()]).integers(count, size=size)]
    if theta is None:
      return np.full((size, count), 0.0 if s.router == 'none' else 1 / count)
    soft = np.asarray(router.weights(theta, features(images)))
    return np.eye(count)[soft.argmax(-1)] if s.router == 'argmax' else soft

  def logits(task, arrays):
    found = []
    chunk = config.eval_batch_size
    for at in range(0, len(arrays), chunk):
      images = np.asarray(arrays.images[at:at + chunk])
      short = chunk - len(images)  # one shape for all: compiled once
      whole = np.concatenate([images, np.repeat(images[-1:], short, 0)])
      r = weights(task, whole)
      found.append(np.asarray(_forward(scene.fns.logits, twin, r, whole,
                                       buffers))[:len(images)])
    return np.concatenate(found)
  test = {t: scene.splits[t].test for t in arm.tasks}
  found_task = float(np.mean([np.mean(
      weights(t, np.asarray(x.images)).argmax(-1) == arm.experts.index(t))
      for t, x in test.items()])) if theta is not None else 0.0
  return result.Made(logits, dict(scale=float(s.scale),
                                       routed=found_task))


def _trained(router, s, arm, scene, features):
  """Theta of a router, from training examples and the task they are of."""
  parts = [scene.splits[t].train for t in arm.experts]
  seen = np.concatenate([np.asarray(features(np.asarray(x.images)))
                         for x in parts])
  tasks = np.repeat(np.arange(len(parts)), [len(x) for x in parts])
  key = jax.random.key(scene.seed)
  state = router.init(key, seen)
  rng = np.random.default_rng(scene.seed)
  for step in range(s.steps):
    rows = rng.integers(len(seen), size=s.batch)
    state, _ = router.step(state, jax.random.fold_in(key, step), seen[rows],
                           tasks[rows])
  return state.theta


def _features(fns, tap, params, buffers, images):
  """`[B, d]`: the mean over all but the first and the last axis."""
  out = fns.taps(params, buffers, images, (tap,))[tap]
  return jnp.mean(out.reshape(len(out), -1, out.shape[-1]), 1)


@functools.lru_cache
def _router(count, learning_rate, dropout, width):
  return procedures.mlp_router(count, optax.adam(learning_rate),
                               width=width or None, dropout=dropout)


@functools.partial(jax.jit, static_argnums=0)
def _forward(logits, twin, weight, images, buffers):
  return procedures.twin_forward(
      lambda params, x: logits(params, x, buffers), twin,
      jnp.asarray(weight, jnp.float32), images, batch_size=EXAMPLES)
