"""What a distilled student and its teachers are measured by."""
import dataclasses

import jax
from jax import numpy as jnp
import numpy as np

from kt_jax import core
from kt_jax import data
from kt_jax import losses
from kt_jax import models
from kt_jax import scores
from kt_jax import train

CKA_EXAMPLES = 1000  # of the test set


class Teachers:
  """Frozen teachers and what they say of the test set."""

  def __init__(self, config, teachers, splits):
    self.teachers, self.logits = teachers, {}
    for name, t in teachers.items():
      predict = train.make_predict(t.net, t.info)
      logits = train.predict_all(predict, t.params, t.stats, splits.test,
                                 batch_size=config.eval_batch_size)
      if not np.isfinite(logits).all():
        raise core.UserError(
            f'The logits of teacher {name} ({t.source}) are not finite on '
            f'{int((~np.isfinite(logits)).any(-1).sum())} of {len(logits)} '
            'test examples: name another checkpoint.')
      classes = list(config.teachers[name].classes)
      self.logits[name] = logits[:, classes] if classes else logits


def measure(config, session, stage, splits, says):
  """`(model, test logits, state) -> metrics` besides the student's own.

  Teachers that learn are taken as the last step left them.
  """
  test = splits.test

  def found(model, logits, state):
    metrics = {}
    if logits.shape[-1] > 5:
      metrics['top5_accuracy'] = float(
          scores.top_k_accuracy(logits, test.labels, k=5))
    for name, teacher in says.logits.items():
      metrics |= {
          f'{name}_accuracy': float(scores.accuracy(teacher, test.labels)),
          f'{name}_agreement': float(scores.agreement(logits, teacher)),
          f'{name}_kl': float(scores.fidelity(logits, teacher)),
          f'{name}_positive_flips': float(
              scores.rho_positive(teacher, logits, test.labels)),
          f'{name}_negative_flips': float(
              scores.rho_negative(teacher, logits, test.labels))}
    for name, network in stage.networks.items():
      if network.kind == 'online':
        part = lambda tree, name=name: train.part(tree, name)
        peer = train.predict_all(
            train.make_predict(network.net, dataclasses.replace(
                splits.info, mean=network.mean, std=network.std)),
            part(state.params), part(state.stats), test,
            batch_size=config.eval_batch_size, mesh=session.mesh)
        metrics |= {f'{name}_{k}': v for k, v in train.classification_metrics(
            peer, test.labels).items()}
    for name, augment in config.shifts.items():
      moved = data.augmented(test, augment.to_dict(), seed=0)
      metrics[f'{name}_accuracy'] = float(scores.accuracy(train.predict_all(
          session.predict, model['params'], model['stats'], moved,
          batch_size=config.eval_batch_size, mesh=session.mesh), test.labels))
    for ours, theirs in config.cka:
      metrics[f'cka {ours} {theirs}'] = cka(
          session.net, model, says, splits, ours, theirs)
    sizes = {name: 0 for name in (*stage.networks, *stage.modules)}
    for path, v in state.params.items():
      sizes[train.owner(path)] += v.size
    ours = sizes.pop('student')
    return metrics | dict(parameters=ours, trained_besides=sum(sizes.values()))
  return found


def cka(net, model, says, splits, ours, theirs) -> float:
  """Debiased linear CKA of taps of the student and of the first teacher."""
  images = jnp.asarray(splits.test.images[:CKA_EXAMPLES])
  t = next(iter(says.teachers.values()))
  def tap(net, params, stats, info, name):
    x = data.normalize(images, info.mean, info.std)
    out = jax.jit(lambda p, s, x: models.apply(net, p, s, x, taps=(name,)))(
        params, stats, x).features[name]
    return out.reshape(len(out), -1)
  a = tap(net, model['params'], model['stats'], splits.info, ours)
  b = tap(t.net, t.params, t.stats, t.info, theirs)
  return 1 - float(jnp.mean(losses.cka(a, b, debiased=True)))
