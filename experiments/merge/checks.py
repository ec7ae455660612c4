"""What `merge` refuses before anything is trained."""
import inspect
import re

import jax

from experiments import compare
from experiments import finetune
from experiments import pretrain
from experiments.merge import context
from experiments.merge import kinds
from experiments.merge import operators
from experiments.merge import options
from kt_jax import core
from kt_jax import data
from kt_jax import merge
from kt_jax import models
from kt_jax import train


def check(config):
  """Traces trainings and merges; what is trained or in the pool, is not."""
  compare.check_claims(config)
  if not config.tasks:
    raise core.UserError('config.tasks must not be empty.')
  reports, seed, start, model = [], config.seeds[0], 'base', None
  first, plain, held_out = None, [], {}
  if config.base == 'pretrain':
    base = context.base_config(config, seed)
    reports += _reports(pretrain, base, 'base', config)
    first, model = data.abstract(base.data), base.model
  elif config.base:
    given = train.load_trained(config.base)
    start, first, model = given.source, given.info, given.model
    if not model:
      raise core.UserError(f'config.base {config.base} is not the --workdir of '
                           'a run.')
  context.in_order(config.tasks)
  for task, changes in config.tasks.items():
    run = context.expert_config(config, task, seed, start, model)
    info = data.abstract(run.data)
    held_out[task] = info.sizes['validation']
    if config.base and not run.data.mean:
      info = _like(info, first)
    expert = info
    if 'checkpoint' in changes:
      expert = train.load_trained(changes.checkpoint).info
    elif plain and set(changes) <= {'data'}:  # as the last that was traced
      reports += [r._replace(name=task) for r in plain]
    else:
      found = _reports(finetune if config.base else pretrain, run, task, config)
      reports += found
      plain = found if set(changes) <= {'data'} else plain
    first = first or expert
    context.check_alike(config, task, expert, first, info)
    model = model or run.model
  params = _shapes(model, first) if model else None
  for name in config.arms:
    arm = arm_of(config, name)
    check_arm(config, name, params)
    for task in arm.tasks if arm.tune else ():
      context.check_held_out(task, held_out[task])
  return reports


def arm_of(config, name: str):
  """An arm with its experts and tasks named."""
  arm = config.arms[name].copy_and_resolve_references().unlock()
  with arm.ignore_type():
    arm.experts = tuple(arm.experts or config.tasks)
    arm.tasks = tuple(arm.tasks or arm.experts)
  return arm


def kind_of(arm):
  """The function of an arm's kind."""
  if ':' in arm.kind:
    return core.resolve(None, arm.kind, 'kind')
  if arm.kind not in kinds.KINDS:
    raise core.UserError(core.nearest('kind', arm.kind, kinds.KINDS))
  return kinds.KINDS[arm.kind]


def _reports(module, run, name, config):
  return [r._replace(name=name, steps=r.steps * len(config.seeds))
          for r in module.check(run)]


def _like(info, first):
  """What `finetune` makes of the data: inputs as the base knows them."""
  return data.Info(**vars(info) | dict(mean=first.mean, std=first.std))


def check_arm(config, name, params):
  """Refuses what an arm says wrong, by tracing its merge."""
  arm, where = arm_of(config, name), f'config.arms.{name}'
  for task in (*arm.experts, *arm.tasks, *[arm.forget] * bool(arm.forget)):
    if task not in config.tasks:
      raise core.UserError(core.nearest(f'task ({where})', task, config.tasks))
  tuned = [n for n, a in config.arms.items() if a.tune]
  if arm.tuned_as and arm.tuned_as not in tuned:
    raise core.UserError(core.nearest(f'arm that is tuned ({where}.tuned_as)',
                                      arm.tuned_as, tuned))
  if arm.tuned_as and arm.tune:
    raise core.UserError(f'{where} has both tune and tuned_as.')
  if arm.path and (len(arm.experts) != 2 or arm.path < 3
                   or kind_of(arm) is not kinds.merge):
    raise core.UserError(f'{where}.path asks for a merge of two experts and '
                         'three points at least.')
  kind = kind_of(arm)
  if hasattr(kind, 'options'):
    try:
      options.read(config, arm, kind)
    except core.UserError as e:
      raise core.UserError(f'{where}: {e}') from e
  if kind is not kinds.merge:
    return
  op = operators.operator(arm)
  if arm.align:
    operators.alignment(arm)
  asked = ['models'] + [n for n in operators.MEASURES
                        if n in inspect.signature(op).parameters]
  for key in arm.shuffle:
    if key not in asked:
      raise core.UserError(core.nearest(f'array ({where}.shuffle)',
                                        key, asked))
  for key in [*arm.settings, *arm.tune, *(
      k for _, rule in arm.rules for k in rule or ())]:
    if key != 'weight' and key not in operators.settings_of(op):
      raise core.UserError(core.nearest(
          f'setting of {arm.op} ({where})', key,
          ['weight', *operators.settings_of(op)]))
  try:
    operators.weights(arm.weight, len(arm.experts))
    if params is not None:
      _trace(arm, params)
  except ValueError as e:
    raise core.UserError(f'{where}: {e}') from e


def _shapes(model, info):
  """Path -> shape of a network's parameters."""
  build = models.builder(model['name'], classes=info.classes,
                         input_shape=info.input_shape, **model['kw'])
  net = models.abstract(build)
  return jax.eval_shape(lambda: models.arrays(net, build()))[0]


def _trace(arm, params):
  """Merges shapes, with the first values of the grid."""
  op, count = operators.operator(arm), len(arm.experts)
  settings = arm.settings.to_dict() | {n: v[0] for n, v in arm.tune.items()}
  weight = operators.weights(settings.pop('weight', arm.weight), count)
  key = jax.random.key(0) if operators.draws(op) else None
  rules = [(f'^{re.escape(path)}$', rule)
           for path, rule in operators.rules_of(arm, params).items()]
  jax.eval_shape(lambda base, models: merge.over_tree(
      op, base, models, weight, key=key, rules=rules, **settings),
                 params, [params] * count)
