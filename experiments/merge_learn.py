"""Arms of `merge` that learn a few numbers, or all of them, by gradient."""
import re

from experiments import merge_apply
from experiments import merge_descent
from experiments import merge_kinds
from experiments.merge_options import OneOf
from experiments.merge_options import options
from experiments.merge_options import read
from kt_jax import core
from kt_jax import procedures


@options(**merge_descent.SETTINGS | dict(
    objective=OneOf(('cross_entropy', 'entropy', 'negation')),
    examples=OneOf(('validation', 'train', 'test')), per='leaf', parts=1,
    value=0.0, bounds=(), of_op={}))
def learn(config, arm, scene) -> merge_kinds.Made:
  """Weights per leaf or model, learned on what the arm's tasks hold out.

  Or on what they train on. With objective 'entropy' labels are not read, and
  examples may be those of 'test': transductive. 'negation' unlearns
  `arm.forget`, one of its tasks, and does not stop by itself.
  """
  base, found = scene.base.params, merge_apply.experts(config, arm, scene)
  params = [model[0] for model in found]

  def make(chosen):
    s = read(config, arm, learn, chosen)
    if s.examples == 'test' and s.objective != 'entropy':
      raise core.UserError(f'objective {s.objective} reads labels: '
                           "its examples are not those of 'test'.")
    if s.objective == 'negation' and arm.forget not in arm.tasks:
      raise core.UserError(core.nearest('task to forget', arm.forget,
                                        arm.tasks))
    machine = merge_descent.learner(
        scene.fns.logits, arm.op or 'linear', s.objective, tuple(s.bounds),
        merge_descent.key_of(s), tuple(dict(s.of_op).items()))
    parts = procedures.random_parts(base, s.parts, seed=scene.seed) if (
        s.parts > 1) else None
    state = machine.init(procedures.init_coefficients(
        base, len(params), per=s.per, parts=s.parts, value=s.value))
    buffers = merge_apply.buffers(config, arm, scene, base, found)
    for batch in merge_descent.batches(arm, scene, s, buffers):
      state, _ = machine.step(state, base, params, batch, parts)
    merged = machine.params(state.theta, base, params, parts)
    made.update(trained=float(sum(x.size for x in state.theta.values())))
    return merged, merge_apply.buffers(config, arm, scene, merged, found)

  made = {}
  chosen = merge_kinds.tuned(arm, scene, make)
  return merge_kinds.of_model(scene, make(chosen), chosen | made)


@options(train='', **merge_descent.SETTINGS)
def fit(config, arm, scene) -> merge_kinds.Made:
  """The base, trained on what the arm's tasks hold out: as many labels.

  `settings.train`: regex on the paths of what is trained; '^head/' probes.
  """
  def make(chosen):
    s = read(config, arm, fit, chosen)
    theta = {path: x for path, x in scene.base.params.items()
             if re.search(s.train, path)}
    if not theta:
      raise core.UserError(f'train={s.train!r} matches no parameter.')
    descent = merge_descent.fitter(scene.fns.logits, merge_descent.key_of(s))
    state = descent.init(theta)
    for batch in merge_descent.batches(arm, scene, s, scene.base.stats):
      state, _ = descent.step(state, scene.base.params, batch)
    made.update(trained=float(sum(x.size for x in theta.values())))
    return {**scene.base.params, **state.theta}, scene.base.stats

  made = {}
  chosen = merge_kinds.tuned(arm, scene, make)
  return merge_kinds.of_model(scene, make(chosen), chosen | made)


@options(rank=0.1, of_op={}, **merge_descent.SETTINGS)
def singular(config, arm, scene) -> merge_kinds.Made:
  """Singular values of what `arm.op` merges, learned: stage 2 of AXIS."""
  found = merge_apply.experts(config, arm, scene)
  leaves = merge_apply.measured(config, arm, scene, found)

  def make(chosen):
    s = read(config, arm, singular, chosen)
    merged, buffers = merge_apply.run(
        config, with_settings(arm, s.of_op), scene, found, leaves, {})
    values, basis = procedures.singular_values(scene.base.params, merged,
                                               rank=s.rank)
    descent = merge_descent.singular(scene.fns.logits, merge_descent.key_of(s))
    state = descent.init(values)
    for batch in merge_descent.batches(arm, scene, s, buffers):
      state, _ = descent.step(state, basis, batch)
    made.update(trained=float(sum(x.size for x in values.values())))
    return procedures.singular_params(state.theta, basis), buffers

  made = {}
  chosen = merge_kinds.tuned(arm, scene, make)
  return merge_kinds.of_model(scene, make(chosen), chosen | made)


def with_settings(arm, settings):
  """The arm with settings that are of its operator."""
  arm = arm.copy_and_resolve_references().unlock()
  with arm.ignore_type():
    arm.settings = dict(settings)
  return arm
