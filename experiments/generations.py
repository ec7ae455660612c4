"""Students in turn, each the teacher 'previous' of the next.

The weight of the labels is the config's, or the one that would be best if the
next student were a kernel regression on the features of the last.
"""
import copy
import json

import jax
import numpy as np

from kt_jax import checkpoint
from kt_jax import core
from kt_jax import data
from kt_jax import models
from kt_jax import procedures
from kt_jax import scores
from kt_jax import train
from kt_jax.launch import config as configs


def check(config, check_next, check_first):
  """Reports of the first two generations."""
  if 'previous' in config.teachers:
    raise core.UserError("config.teachers: 'previous' is the last generation.")
  which = config.generations
  for key in ('label', 'teacher'):
    if which[key] and which[key] not in config.terms:
      raise core.UserError(core.nearest(
          f'term (generations.{key})', which[key], config.terms))
  if bool(which.label) != bool(which.teacher):
    raise core.UserError('generations.label and generations.teacher go '
                         'together: the two terms that share a weight of 1.')
  if which.label and not data.abstract(config.data).sizes['validation']:
    raise core.UserError('generations.label needs held-out examples: set '
                         'data.validation.')
  if config.start:
    raise core.UserError('config.start and generations: each is fresh.')
  first = _first(config)
  reports = check_first(first)
  abstract = _next(config, 1, '')
  abstract.pretrain = first
  return reports + check_next(abstract)


def run(config, workdir, run_next, run_first):
  """Metrics of the last generation, and accuracies of all and of their mean."""
  workdir = checkpoint.open_workdir(workdir, json.loads(config.to_json()))
  metrics, logits, labels = {}, [], None
  for i in range(config.generations.count):
    home = workdir / f'generation_{i}'
    if i == 0:
      last = run_first(_first(config), home)
    else:
      mine = _next(config, i, str(workdir / f'generation_{i - 1}'))
      if config.generations.label:
        found = workdir / f'label_weight_{i}.json'
        if not found.exists():
          checkpoint.write_json(found, dict(value=label_weight(
              config, mine.teachers.previous.checkpoint)))
        share = checkpoint.read_json(found)['value']
        mine.terms[config.generations.label].weight = share
        mine.terms[config.generations.teacher].weight = 1 - share
        metrics[f'label_weight_{i}'] = share
      last = run_next(mine, home)
    with np.load(home / 'predictions.npz') as stored:
      logits.append(stored['logits'])
      labels = stored['labels']
    metrics[f'accuracy_{i}'] = last['accuracy']
  p = lambda z: np.exp(z - z.max(-1, keepdims=True))
  mean = sum(p(z) / p(z).sum(-1, keepdims=True) for z in logits[1:])
  if len(logits) > 2:
    metrics['accuracy_ensemble'] = float(scores.accuracy(mean, labels))
  return metrics | last


def label_weight(config, previous: str) -> float:
  """The weight of the labels in [0, 1] for a student of `previous`.

  That of one step of kernel regression on its penultimate features, fitted on
  the training examples and best on the held-out ones (borup2021teacher).
  """
  splits, t = data.load(config.data), train.load_trained(previous)
  predict = lambda images: models.apply(
      t.net, t.params, t.stats,
      data.normalize(images, t.info.mean, t.info.std), taps=('pool',))
  def seen(arrays):
    out = [predict(b['images']) for b in data.batches_for_eval(
        arrays, config.eval_batch_size)]
    join = lambda parts: np.concatenate(parts)[:len(arrays)].astype(np.float64)
    return (join([o.features['pool'] for o in out]),
            join([jax.nn.softmax(o.logits) for o in out]))
  f, fitted = seen(splits.train)
  f_val, _ = seen(splits.validation)
  hot = np.eye(splits.info.classes)
  scale = np.mean(np.sum(f * f, -1))  # so that the ridge has no unit
  share = procedures.optimal_label_weight(
      f @ f.T / scale, hot[splits.train.labels], fitted,
      config.generations.ridge, at=f_val @ f.T / scale,
      at_targets=hot[splits.validation.labels])
  return float(np.clip(share, 0, 1))


def _first(config):
  """The config of the generation that has no teacher."""
  mine = _plain(config, 0)
  mine.experiment = 'pretrain'
  keep = config.generations.first or [
      n for n, t in config.terms.items() if not t.teacher]
  for name in keep:
    if name not in config.terms:
      raise core.UserError(core.nearest(
          'term (generations.first)', name, config.terms))
  mine.terms = {n: config.terms[n] for n in keep}
  return mine


def _next(config, i, checkpoint_dir):
  mine = _plain(config, i)
  mine.terms = {n: t for n, t in config.terms.items()
                if n not in config.generations.first}
  mine.teachers.previous = configs.template('teachers')
  mine.teachers.previous.checkpoint = checkpoint_dir
  return mine


def _plain(config, i):
  mine = copy.deepcopy(config).unlock()
  if i:
    mine.seed = train.seed_of(config.seed, f'generation {i}')
  mine.generations.count = 0
  return mine
