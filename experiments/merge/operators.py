"""Experts made comparable, what an operator measures, and the merge itself."""
from collections.abc import Mapping
import inspect
import re
from typing import Any

import jax
from jax import numpy as jnp
import numpy as np

from experiments.merge.context import MergeContext
from experiments.merge.context import Model
from experiments.merge.spec import Arm
from kt_jax import align
from kt_jax import core
from kt_jax import data
from kt_jax import merge
from kt_jax import models
from kt_jax import stats

# Array parameter of an operator -> (its statistic, the function of the network
# that it reads).
MEASURES = dict(fisher=(stats.fisher, 'logits'), grams=(stats.gram, 'inputs'))

# Leaf -> array parameter of the operator -> `[T, ...]`.
Measures = dict[str, dict[str, jax.Array]]


def operator(arm: Arm):
  """The leaf operator of an arm."""
  return arm.op if callable(arm.op) else core.resolve(
      merge, arm.op, 'operator (op)', takes='models')


def takes_key(op) -> bool:
  return 'key' in inspect.signature(op).parameters


def defaults(op) -> dict[str, Any]:
  """Settings of an operator, with their defaults."""
  return {p.name: p.default for p in inspect.signature(op).parameters.values()
          if p.kind is p.KEYWORD_ONLY}


def weights(weight, count: int) -> list[float]:
  """The weight of each expert: () is 1 / T each, one number is that of all."""
  values = [weight] if np.ndim(weight) == 0 else list(weight)
  if not values:
    values = [1 / count]
  if len(values) not in (1, count):
    raise core.UserError(f'weight must be (), one number or one for each of '
                         f'{count} experts, got {tuple(values)}.')
  return [float(w) for w in (values * count if len(values) == 1 else values)]


# Experts.


def experts(arm: Arm, context: MergeContext) -> list[Model]:
  """The arm's experts, in the units of the first one if it aligns them."""
  first, *others = [
      (_shuffled_task_vector(arm, context, name), context.experts[name].stats)
      for name in arm.experts]
  if not arm.align:
    return [first, *others]
  spec = models.permutation_spec(context.base.net)
  features = lambda model: activations(arm, context, spec, model)
  return [first] + [align_expert(arm, spec, other, first, features)
                    for other in others]


def alignment(arm: Arm):
  """The function that an arm aligns with; settings it lacks are refused."""
  fn = core.resolve(align, arm.align, 'alignment (align)', takes='spec')
  parameters = inspect.signature(fn).parameters
  for name in arm.align_settings:
    if name not in parameters and not (
        name == 'features' and 'features_a' in parameters):
      raise core.UserError(core.nearest(
          f'setting of {arm.align} (align_settings)', name, parameters))
  return fn


def align_expert(arm: Arm, spec, moving: Model, target: Model, features
                ) -> Model:
  """`moving` in the units of `target`; its function stays the same.

  Args:
    arm: its alignment.
    spec: of the units of the network.
    moving: an expert.
    target: another.
    features: model -> activations of its units.
  """
  fn, settings = alignment(arm), dict(arm.align_settings)
  parameters = inspect.signature(fn).parameters
  with_features = 'features_a' in parameters and (
      settings.pop('features', False)
      or parameters['features_a'].default is inspect.Parameter.empty)
  arrays = dict(params_a=moving[0], params_b=target[0], spec=spec)
  if with_features:
    arrays |= dict(features_a=features(moving), features_b=features(target))
  maps = fn(**{n: v for n, v in arrays.items() if n in parameters}, **settings)
  transport = any(np.ndim(m) == 2 for m in maps.values())
  move = align.transport if transport else align.permute
  both = move({**moving[0], **moving[1]}, spec, maps)
  return ({path: both[path] for path in moving[0]},
          {path: both[path] for path in moving[1]})


def activations(arm: Arm, context: MergeContext, spec, model: Model):
  """Group of units -> activations on examples of the first expert's task."""
  groups = tuple(sorted(align.group_names(spec)))
  batches = list(samples(context, arm.experts[0]))
  parts = [jax.device_get(context.fns.taps(*model, b['images'], groups))
           for b in batches]
  return {g: np.concatenate([p[g][b['where']] for p, b in zip(parts, batches)])
          for g in groups}


def samples(context: MergeContext, task: str):
  """Batches of `spec.samples` training examples of a task, class by class."""
  spec, arrays = context.spec, context.splits[task].train
  count = min(spec.samples, len(arrays))
  some = arrays.take(data.stratified(arrays.labels, count, context.seed))
  return data.batches_for_eval(some, min(spec.evaluate.batch_size, count))


def _shuffled_task_vector(arm, context, task):
  """The expert; with 'models' in `shuffle`, a random order of what it learned.
  """
  params = context.experts[task].params
  if 'models' not in arm.shuffle:
    return params
  return {path: base + _shuffled((params[path] - base)[None], context.seed,
                                 task + path)[0]
          for path, base in context.base.params.items()}


def _shuffled(stack, seed, path):
  """Each model's entries of a leaf in its own random order."""
  rng = np.random.default_rng([seed, *path.encode()])
  rows = np.asarray(stack).reshape(len(stack), -1)
  return jnp.asarray(np.stack([rng.permutation(row) for row in rows])
                     ).reshape(stack.shape)


# Merging.


def measures(arm: Arm, context: MergeContext, models_: list[Model]) -> Measures:
  """Statistics that the operator takes, of each model on its own task."""
  parameters = inspect.signature(operator(arm)).parameters
  leaves: Measures = {}
  for name, (measure, fn) in MEASURES.items():
    if name not in parameters:
      continue
    each = [measure(getattr(context.fns, fn), params, samples(context, task),
                    context=(buffers,))
            for task, (params, buffers) in zip(arm.experts, models_)]
    for path in each[0]:
      leaves.setdefault(path, {})[name] = jnp.stack([x[path] for x in each])
  for name in set(arm.shuffle) - {'models'}:
    for path, arrays in leaves.items():
      arrays[name] = _shuffled(arrays[name], context.seed, path)
  return leaves


def apply(arm: Arm, context: MergeContext, models_: list[Model],
          measures_: Measures, chosen: Mapping[str, Any]) -> Model:
  """The merged model.

  Args:
    arm: its operator and settings.
    context: of the seed.
    models_: T experts.
    measures_: from `measures`.
    chosen: settings in place of the arm's, `weight` among them.
  """
  op = operator(arm)
  settings = dict(arm.settings) | dict(chosen)
  weight = weights(settings.pop('weight', arm.weight), len(models_))
  base, params = context.base.params, [model[0] for model in models_]
  rules = rules_of(arm, base)
  if arm.whole_model:
    setting = lambda name, default: settings.get(
        name, defaults(op).get(name, default))
    settings['threshold'] = merge.whole_model_bounds(
        [(base[p], [m[p] for m in params]) for p, r in rules.items()
         if r is not None], setting('density', 1.0), setting('gamma', 0.0))
  key = jax.random.key(context.seed) if takes_key(op) else None
  exact = [(f'^{re.escape(path)}$', rule if rule is None else (
      measures_.get(path, {}) | rule)) for path, rule in rules.items()]
  merged = merge.over_tree(op, base, params, weight, rules=exact, key=key,
                           **settings)
  return merged, batch_statistics(arm, context, merged, models_)


def rules_of(arm: Arm, base) -> dict[str, dict[str, Any] | None]:
  """Leaf -> settings of the first rule that matches; None: the base's leaf."""
  rules = [*arm.rules, ('', {})]
  first = {path: next(rule for pattern, rule in rules
                      if re.search(pattern, path)) for path in base}
  return {path: rule if rule is None else dict(rule)
          for path, rule in first.items()}


def batch_statistics(arm: Arm, context: MergeContext, params, models_):
  """Statistics of BatchNorm: the experts' mean, or measured again."""
  first = models_[0][1]
  mean = merge.over_tree(merge.linear, first, [m[1] for m in models_],
                         [1 / len(models_)] * len(models_)) if first else {}
  if not arm.reestimate:
    return mean
  batches = [b for task in arm.experts for b in samples(context, task)]
  return models.reestimate_statistics(
      context.base.net, params, mean, batches, prepare=context.fns.normalize)


# The opposite of `merge.multi_source_svd`, to compare it with.


def smallest_components(base: jax.Array, models: jax.Array, weight: jax.Array,
                        *, components: int | float = 76) -> jax.Array:
  """Pools the singular triplets of task vectors and keeps the smallest.

  Arguments and vectors as in `multi_source_svd`; those of 0 do not count.
  """
  if base.ndim < 2:
    return merge.linear(base, models, weight / len(models))
  u, s, v = merge.svd_factors(merge.as_matrix(models - base, 1))
  count = merge.rank_of('smallest_components', components, s.shape[1],
                        'components')
  values = (weight[:, None] * s).reshape(-1)
  size = jnp.abs(values)
  _, least = jax.lax.top_k(-jnp.where(size > 1e-6 * size.max(), size, jnp.inf),
                           count)
  chosen = jnp.zeros(values.shape, bool).at[least].set(True)
  values = jnp.where(chosen, values, 0).reshape(s.shape)
  delta = jnp.matmul(u * values[:, None], v, precision='highest')
  return base + jnp.sum(delta, 0).reshape(base.shape)


merge.declare(smallest_components, static=('components',))
