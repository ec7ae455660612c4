"""Optimizers and schedules by their optax names."""
import inspect

import optax

from kt_jax import core
from kt_jax.train import specs


def make_schedule(optimizer: specs.Optimizer, steps: int) -> optax.Schedule:
  """`step -> learning rate` of an optimizer spec.

  `schedule.name` is an optax schedule; '' keeps the rate constant. Of its
  settings, the peak (or first) value is `learning_rate` and `decay_steps` is
  the length of the run, unless they are given.
  """
  rate, schedule = optimizer.learning_rate, optimizer.schedule
  if not schedule.name:
    return optax.constant_schedule(rate)
  make = core.resolve(optax.schedules, schedule.name, 'optax schedule')
  takes = inspect.signature(make).parameters
  filled = dict(schedule.kw)
  if 'boundaries_and_scales' in filled:  # JSON has no integer keys
    filled['boundaries_and_scales'] = {
        int(k): v for k, v in filled['boundaries_and_scales'].items()}
  for name in ('peak_value', 'init_value', 'value'):
    if name in takes:
      filled.setdefault(name, rate)
      break
  for name in ('decay_steps', 'transition_steps'):
    if name in takes:
      filled.setdefault(name, steps)
  if 'init_value' in takes:  # of a warm-up, whose peak was filled above
    filled.setdefault('init_value', 0.0)
  return _call(make, filled, 'setting of ' + schedule.name)


def make_optimizer(optimizer: specs.Optimizer | optax.GradientTransformation,
                   steps: int) -> optax.GradientTransformation:
  """Clipping, L2 and the optimizer of a spec; a transformation as it is.

  `l2` is added to the gradient before momentum, as in PyTorch's SGD; the
  decoupled decay of adamw is a setting of its own, `kw.weight_decay`.
  """
  if isinstance(optimizer, optax.GradientTransformation):
    return optimizer
  make = core.resolve(optax, optimizer.name, 'optax optimizer',
                      takes='learning_rate')
  parts = []
  if optimizer.clip:
    parts.append(optax.clip_by_global_norm(optimizer.clip))
  if optimizer.l2:
    parts.append(optax.add_decayed_weights(optimizer.l2))
  settings = dict(optimizer.kw, learning_rate=make_schedule(optimizer, steps))
  parts.append(_call(make, settings, 'setting of ' + optimizer.name))
  return optax.chain(*parts)


def _call(make, settings, what):
  takes = inspect.signature(make).parameters
  for name in settings:
    if name not in takes:
      raise core.UserError(core.nearest(what, name, takes))
  missing = [n for n, p in takes.items() if n not in settings
             and p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD]
  if missing:
    raise core.UserError(f'{what} is missing: {", ".join(missing)}.')
  return make(**settings)
