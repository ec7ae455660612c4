"""Gradient descent for arms of `merge`: batches, optimiser, what is compiled.
"""
import functools

import numpy as np
import optax

from experiments.merge_options import OneOf
from kt_jax import core
from kt_jax import data
from kt_jax import merge
from kt_jax import procedures

SETTINGS = dict(
    examples=OneOf(('validation', 'train')), steps=100, batch=128,
    learning_rate=0.1, weight_decay=0.0, clip=0.0)


def batches(arm, scene, s, buffers):
  """One for each step: as many examples of every task, with replacement.

  A task that has no more than a batch gives all it has, each time.
  """
  arrays = {t: getattr(scene.splits[t], s.examples) for t in arm.tasks}
  for task, x in arrays.items():
    if not len(x):
      raise core.UserError(f'config.tasks.{task} holds nothing out to learn '
                           'from: set its data.validation.')
  objective = getattr(s, 'objective', '')
  groups = dict(all=list(arrays)) if objective != 'negation' else dict(
      target=[arm.forget], control=[t for t in arrays if t != arm.forget])
  for step in range(s.steps):
    made = {name: _batch([_draw(arrays[t], s.batch, (scene.seed, step, n))
                          for n, t in enumerate(tasks)], buffers)
            for name, tasks in groups.items()}
    yield made.get('all', made)


def _draw(arrays, size, seed) -> data.Arrays:
  if len(arrays) <= size:
    return arrays
  return arrays.take(np.random.default_rng(seed).integers(len(arrays),
                                                          size=size))


def _batch(parts, buffers):
  return dict(inputs=(np.concatenate([x.images for x in parts]), buffers),
              labels=np.concatenate([x.labels for x in parts]))


def key_of(s):
  """What the optimiser hangs on; those of one key are compiled once."""
  return s.learning_rate, s.steps, s.weight_decay, s.clip


def _optimizer(learning_rate, steps, weight_decay, clip):
  """AdamW on a cosine, gradients clipped to a norm."""
  schedule = optax.cosine_decay_schedule(learning_rate, max(steps, 1))
  return optax.chain(
      optax.clip_by_global_norm(clip) if clip else optax.identity(),
      optax.adamw(schedule, weight_decay=weight_decay))


def _objective(logits, name):
  forward = lambda params, inputs: logits(params, *inputs)
  return getattr(procedures, f'{name}_objective')(forward)


@functools.lru_cache
def learner(logits, op, objective, bounds, key, of_op):
  return procedures.learned_coefficients(
      _objective(logits, objective), _optimizer(*key),
      core.resolve(merge, op, 'operator (op)', takes='models'),
      bounds=bounds or None, **dict(of_op))


@functools.lru_cache
def fitter(logits, key):
  loss = _objective(logits, 'cross_entropy')
  return procedures.descend(
      lambda theta, base, batch: loss({**base, **theta}, batch),
      _optimizer(*key))


@functools.lru_cache
def singular(logits, key):
  loss = _objective(logits, 'cross_entropy')
  return procedures.descend(
      lambda values, basis, batch: loss(
          procedures.singular_params(values, basis), batch), _optimizer(*key))
