"""Aligns experts, measures what an operator asks for, and runs it."""
from collections.abc import Mapping
import inspect
import re
from typing import Any

import jax
from jax import numpy as jnp
import numpy as np

from kt_jax import align
from kt_jax import core
from kt_jax import data
from kt_jax import merge
from kt_jax import models
from kt_jax import stats

Model = tuple[Mapping[str, Any], Mapping[str, Any]]  # (params, stats)


# Array parameter -> (what measures it, the function of the network it reads).
MEASURES = dict(fisher=(stats.fisher, 'logits'), grams=(stats.gram, 'inputs'))


def operator(arm):
  return core.resolve(merge, arm.op, 'operator (op)', takes='models')


def draws(op) -> bool:
  return 'key' in inspect.signature(op).parameters


def settings_of(op) -> dict[str, Any]:
  """Its settings and their defaults."""
  return {p.name: p.default for p in inspect.signature(op).parameters.values()
          if p.kind is p.KEYWORD_ONLY}


def weights(given, count: int) -> list[float]:
  """() is 1 / T each; one number, in a tuple or not, is everybody's."""
  given = [given] if np.ndim(given) == 0 else list(given)
  if not given:
    given = [1 / count]
  if len(given) not in (1, count):
    raise core.UserError(f'weight must be (), one number or one for each of '
                         f'{count} experts, got {tuple(given)}.')
  return [float(w) for w in (given * count if len(given) == 1 else given)]


def experts(config, arm, scene) -> list[Model]:
  """The arm's experts, in the units of the first one if it aligns them."""
  found = [scene.experts[name] for name in arm.experts]
  first, *others = [(_reordered(arm, scene, name, e.params), e.stats)
                    for name, e in zip(arm.experts, found)]
  if not arm.align:
    return [first, *others]
  spec = models.permutation_spec(scene.base.net)
  seen = lambda model: features(config, arm, scene, spec, model)
  return [first] + [aligned(arm, spec, other, first, seen) for other in others]


def alignment(arm):
  """The function that the arm aligns with; refuses settings it has not."""
  fn = core.resolve(align, arm.align, 'alignment (align)', takes='spec')
  known = inspect.signature(fn).parameters
  for name in arm.align_settings:
    if name not in known and not (
        name == 'features' and 'features_a' in known):
      raise core.UserError(core.nearest(
          f'setting of {arm.align} (align_settings)', name, known))
  return fn


def aligned(arm, spec, moving: Model, target: Model, seen) -> Model:
  """`moving` in the units of `target`, which keeps what it computes."""
  fn, settings = alignment(arm), arm.align_settings.to_dict()
  wanted = inspect.signature(fn).parameters
  with_features = 'features_a' in wanted and (
      settings.pop('features', False)
      or wanted['features_a'].default is inspect.Parameter.empty)
  pool = dict(params_a=moving[0], params_b=target[0], spec=spec)
  if with_features:
    pool |= dict(features_a=seen(moving), features_b=seen(target))
  maps = fn(**{n: v for n, v in pool.items() if n in wanted}, **settings)
  plans = any(np.ndim(m) == 2 for m in maps.values())
  move = align.transport if plans else align.permute
  both = move({**moving[0], **moving[1]}, spec, maps)
  return tuple({path: both[path] for path in part} for part in moving)


def features(config, arm, scene, spec, model: Model):
  """Group of units -> activations on examples of the first expert's task."""
  groups = tuple(sorted(align.group_names(spec)))
  batches = list(samples(config, scene, arm.experts[0]))
  parts = [jax.device_get(scene.fns.taps(*model, b['images'], groups))
           for b in batches]
  return {g: np.concatenate([p[g][b['where']] for p, b in zip(parts, batches)])
          for g in groups}


def samples(config, scene, task):
  """Batches of `config.samples` training examples of a task, class by class."""
  arrays = scene.splits[task].train
  count = min(config.samples, len(arrays))
  chosen = arrays.take(data.stratified(arrays.labels, count, scene.seed))
  return data.batches_for_eval(chosen, min(config.eval_batch_size, count))


def measured(config, arm, scene, found) -> dict[str, dict[str, jax.Array]]:
  """Leaf -> array parameter of the operator -> what is measured for it."""
  asks = inspect.signature(operator(arm)).parameters
  leaves = {}
  for name, (measure, fn) in MEASURES.items():
    if name not in asks:
      continue
    each = [measure(getattr(scene.fns, fn), params,
                    samples(config, scene, task), context=(buffers,))
            for task, (params, buffers) in zip(arm.experts, found)]
    for path in each[0]:
      leaves.setdefault(path, {})[name] = jnp.stack([x[path] for x in each])
  for name in set(arm.shuffle) - {'models'}:
    for path, arrays in leaves.items():
      arrays[name] = _shuffled(arrays[name], scene.seed, path)
  return leaves


def _reordered(arm, scene, task, params):
  """With 'models' in `shuffle`: a random task vector of the same entries."""
  if 'models' not in arm.shuffle:
    return params
  return {path: base + _shuffled((params[path] - base)[None], scene.seed,
                                 task + path)[0]
          for path, base in scene.base.params.items()}


def _shuffled(stack, seed, path):
  """Each model's entries of a leaf in an order of their own."""
  rng = np.random.default_rng([seed, *path.encode()])
  rows = np.asarray(stack).reshape(len(stack), -1)
  return jnp.asarray(np.stack([rng.permutation(row) for row in rows])
                     ).reshape(stack.shape)


def run(config, arm, scene, found, leaves, chosen) -> Model:
  """The merged model.

  Args:
    config: of the protocol.
    arm: whose operator it is.
    scene: of the seed.
    found: T experts.
    leaves: from `measured`.
    chosen: settings that go above the arm's, `weight` among them.
  """
  op = operator(arm)
  settings = arm.settings.to_dict() | chosen
  weight = weights(settings.pop('weight', arm.weight), len(found))
  base, params = scene.base.params, [model[0] for model in found]
  rules = rules_of(arm, base)
  if arm.whole_model:
    share = lambda name, default: settings.get(
        name, settings_of(op).get(name, default))
    settings['threshold'] = merge.whole_model_bounds(
        [(base[p], [m[p] for m in params]) for p, r in rules.items()
         if r is not None], share('density', 1.0), share('gamma', 0.0))
  key = jax.random.key(scene.seed) if draws(op) else None
  exact = [(f'^{re.escape(path)}$', rule if rule is None else (
      leaves.get(path, {}) | rule)) for path, rule in rules.items()]
  merged = merge.over_tree(op, base, params, weight, rules=exact, key=key,
                           **settings)
  return merged, buffers(config, arm, scene, merged, found)


def rules_of(arm, base) -> dict[str, Any]:
  """Leaf -> settings of the first rule found in its path; None: the base's."""
  rules = [*arm.rules, ('', {})]
  first = {path: next(rule for pattern, rule in rules
                      if re.search(pattern, path)) for path in base}
  return {path: rule if rule is None else dict(rule)
          for path, rule in first.items()}


def buffers(config, arm, scene, params, found):
  """BatchNorm's statistics: the experts' mean, or measured anew."""
  mean = merge.over_tree(merge.linear, found[0][1], [m[1] for m in found],
                         [1 / len(found)] * len(found)) if found[0][1] else {}
  if not arm.reestimate:
    return mean
  batches = [b for task in arm.experts for b in samples(config, scene, task)]
  return models.reestimate_statistics(
      scene.base.net, params, mean, batches, prepare=scene.fns.normal)
