"""Trains students in turn, each the teacher 'previous' of the next.

The weight of the labels is that of the spec, or the one that would be best if
the next student were a kernel regression on the features of the last.
"""
import dataclasses
from typing import Any

import jax
from jax import numpy as jnp
import numpy as np

from kt_jax import checkpoint
from kt_jax import core
from kt_jax import data
from kt_jax import models
from kt_jax import procedures
from kt_jax import scores
from kt_jax import train


@dataclasses.dataclass(frozen=True)
class Generations:
  count: int = 2  # students in turn
  first: tuple[str, ...] = ()  # terms of the first alone; () those without a
  # teacher, which the others keep.
  label: str = ''  # term whose weight is that of the labels; '' as they are
  teacher: str = ''  # term that has the rest
  ridge: float = 1.0  # of the kernel regression that chooses the label's weight


@dataclasses.dataclass(frozen=True)
class Spec(train.Training):
  experiment: str = 'generations'
  generations: Generations = Generations()


def check(spec):
  """Reports of the first two generations."""
  if 'previous' in spec.teachers:
    raise core.UserError("config.teachers: 'previous' is the last generation.")
  settings = spec.generations
  if settings.count < 1:
    raise core.UserError('generations.count must be from 1 on, got '
                         f'{settings.count}.')
  for key in ('label', 'teacher'):
    term = getattr(settings, key)
    if term and term not in spec.terms:
      raise core.UserError(core.nearest(
          f'term (generations.{key})', term, spec.terms))
  if bool(settings.label) != bool(settings.teacher):
    raise core.UserError('generations.label and generations.teacher: set both '
                         'or neither; their weights sum to 1.')
  if settings.label and not data.abstract(spec.data).sizes['validation']:
    raise core.UserError('generations.label needs held-out examples: set '
                         'data.validation.')
  if spec.init_from:
    raise core.UserError('config.init_from cannot be combined with '
                         'generations: every generation is trained from '
                         'scratch.')
  first = _first(spec)
  reports = train.check(first)
  # The first generation is not trained yet: as if it were in the pool.
  following = dataclasses.replace(
      _next(spec, 1, 'previous'), pretrain=first,
      pool=dict(spec.pool, previous=train.Pretrained()))
  return reports + [r for r in train.check(following)
                    if r.name != 'pretrain previous']


def run(spec, workdir):
  """Metrics of the last generation, and accuracies of all and of their mean."""
  workdir = checkpoint.open_workdir(workdir, core.spec.to_json(spec))
  metrics: dict[str, float] = {}
  logits, labels, last = [], np.zeros(0, int), {}
  for i in range(spec.generations.count):
    home = workdir / f'generation_{i}'
    if i == 0:
      last = train.run(_first(spec), home)
    else:
      training = _next(spec, i, str(workdir / f'generation_{i - 1}'))
      if spec.generations.label:
        share = _label_weight(spec, i, workdir, training)
        metrics[f'label_weight_{i}'] = share
        training = core.spec.change(training, dict(terms={
            spec.generations.label: dict(weight=share),
            spec.generations.teacher: dict(weight=1 - share)}))
      last = train.run(training, home)
    with np.load(home / 'predictions.npz') as stored:
      logits.append(stored['logits'])
      labels = stored['labels']
    metrics[f'accuracy_{i}'] = last['accuracy']
  p = lambda z: np.exp(z - z.max(-1, keepdims=True))
  if len(logits) > 2:
    mean = sum(p(z) / p(z).sum(-1, keepdims=True) for z in logits[1:])
    metrics['accuracy_ensemble'] = float(
        scores.accuracy(jnp.asarray(mean), jnp.asarray(labels)))
  return metrics | last


def _label_weight(spec, i, workdir, training) -> float:
  """That of generation i, computed once."""
  file = workdir / f'label_weight_{i}.json'
  if not file.exists():
    checkpoint.write_json(file, dict(value=label_weight(
        spec, training.teachers['previous'].init_from)))
  return checkpoint.read_json(file)['value']


def label_weight(spec, previous: str) -> float:
  """The weight of the labels in [0, 1] for a student of `previous`.

  That of one step of kernel regression on its penultimate features, fitted on
  the training examples and best on the held-out ones (borup2021teacher).
  """
  splits, t = data.load(spec.data), train.load_trained(previous)
  predict = lambda images: models.apply(
      t.net, t.params, t.stats,
      data.normalize(images, t.info.mean, t.info.std), taps=('pool',))

  def outputs(arrays):
    out = [predict(b['images']) for b in data.batches_for_eval(
        arrays, spec.evaluate.batch_size)]
    join = lambda parts: np.concatenate(parts)[:len(arrays)].astype(np.float64)
    return (join([o.features['pool'] for o in out]),
            join([jax.nn.softmax(o.logits) for o in out]))
  f, fitted = outputs(splits.train)
  f_val, _ = outputs(splits.validation)
  hot = np.eye(splits.info.classes)
  scale = np.mean(np.sum(f * f, -1))  # so that the ridge has no unit
  share = procedures.optimal_label_weight(
      f @ f.T / scale, hot[splits.train.labels], fitted,
      spec.generations.ridge, at=f_val @ f.T / scale,
      at_targets=hot[splits.validation.labels])
  return float(np.clip(share, 0, 1))


def _first(spec) -> train.Training:
  """The generation that has no teacher."""
  first = spec.generations.first or [
      n for n, t in spec.terms.items() if not t.teacher]
  for name in first:
    if name not in spec.terms:
      raise core.UserError(core.nearest(
          'term (generations.first)', name, spec.terms))
  return _training(spec, terms={n: spec.terms[n] for n in first}, teachers={},
                   modules={}, optimizers={})


def _next(spec, i, previous: str) -> train.Training:
  """Generation i, with the last one as the teacher 'previous'."""
  return _training(
      spec, seed=train.seed_of(spec.seed, f'generation {i}'),
      terms={n: t for n, t in spec.terms.items()
             if n not in spec.generations.first},
      teachers=dict(spec.teachers, previous=train.Teacher(previous)))


def _training(spec, **changes) -> train.Training:
  fields: dict[str, Any] = {f.name: getattr(spec, f.name)
                            for f in dataclasses.fields(train.Training)}
  fields |= dict(experiment='train') | changes
  return train.Training(**fields)
