"""Arms of `merge` that learn, search, route or carry."""
import dataclasses

import jax
from jax import numpy as jnp
import numpy as np
import pytest

from experiments import compare
from experiments import merge
from experiments.merge import Arm
from experiments.merge import checks
from experiments.merge import context as contexts
from experiments.merge import kinds
from experiments.merge import search
from experiments.merge import Task
from kt_jax import core
from kt_jax import data
from kt_jax import train


def _spec(pool='', **arms):
  """Two experts of residual MLPs on digits, and these arms."""
  training = train.Training(
      data=data.Images('digits', subset=60, validation=20, test_limit=50),
      model=train.Model('residual_mlp',
                        dict(width=8, depth=2)),
      terms=dict(task=train.LossTerm('cross_entropy')),
      optimizer=train.Optimizer('sgd', 0.05, kw=dict(momentum=0.9)),
      batch=train.Batch(16), loop=train.Loop(2, log_every=1))
  return merge.Spec(
      pretrain=training,
      finetune=dataclasses.replace(training, model=train.Model()),
      tasks={name: Task(dict(data=dict(rotation=angle)))
             for name, angle in (('one', 0.0), ('two', 90.0))},
      samples=16, seeds=(0,), arms=arms, pool_dir=pool)


def _arm(kind, op='', **settings):
  return Arm(kind, op, settings=settings)


ARMS = dict(
    learn=lambda **kw: _arm('learned_coefficients', 'linear', **kw),
    finetune=lambda **kw: _arm('finetune', **kw),
    svd=lambda **kw: _arm('svd_finetune', 'linear', **kw),
    evolve=lambda **kw: _arm('evolve', 'linear', **kw),
    path=lambda **kw: _arm('layer_path', **kw),
    route=lambda **kw: _arm('route', **kw),
    swap=lambda **kw: _arm('layer_swap', **kw),
    multitask=lambda **kw: _arm('multitask', **kw),
    transfer=lambda **kw: _arm('transfer_task_vector', **kw))


@pytest.fixture(scope='module', name='pool')
def _pool(tmp_path_factory):
  return str(tmp_path_factory.mktemp('pool'))


@pytest.fixture(scope='module', name='context')
def _context(pool):
  return contexts.make(_spec(pool, own=Arm('individual')), 0, pool)


def _result(context, arm):
  spec = _spec(arm=arm)
  checks.check_arm(spec, 'arm', None)
  arm = checks.arm_of(spec, 'arm')
  return kinds.kind_of(arm).make(arm, context)


def _logits(context, arm, task='one'):
  return _result(context, arm).logits(task, context.splits[task].test)


def _expert(context, name, task='one'):
  e = context.experts[name]
  return context.logits((e.params, e.stats), context.splits[task].test)


@pytest.mark.parametrize('kind, settings, message', [
    (kind, dict(no_such=1), "'no_such'.*Have") for kind in ARMS] + [
        ('learn', dict(objective='entropi'), "'entropy'"),
        ('learn', dict(steps='many'), "must be an integer, got 'many'"),
        ('learn', dict(examples='test'), 'not for training'),
        ('learn', dict(objective='negation'), 'task to forget'),
        ('finetune', dict(examples='test'), 'not for training'),
        ('route', dict(router='oracles'), "'oracle'"),
        ('transfer', dict(tuned='three'), "task 'three'"),
        ('multitask', dict(updates='both'), "'both'"),
        ('evolve', dict(search='cma'), "'cma_es'")])
def test_wrong_settings_are_refused_before_training(kind, settings, message):
  with pytest.raises(core.UserError,
                     match=f'config.arms.arm.settings.*{message}'):
    checks.check_arm(_spec(arm=ARMS[kind](**settings)), 'arm', None)


def test_wrong_settings_in_a_grid_are_refused():
  arm = dataclasses.replace(ARMS['learn'](), tune=dict(steps=(1, 2.5)))
  with pytest.raises(core.UserError, match='settings.steps must be .*2.5'):
    checks.check_arm(_spec(arm=arm), 'arm', None)


def test_tasks_start_from_earlier_ones_only():
  tasks = dict(one=Task(init_from='two'), two=Task())
  assert contexts.in_order(tasks) == ['two', 'one']
  with pytest.raises(core.UserError, match='start'):
    contexts.in_order(tasks | dict(two=Task(init_from='one')))


def test_learned_coefficients_start_where_they_are_told(context):
  still = dict(steps=0, batch=8)
  np.testing.assert_array_equal(
      _logits(context, ARMS['learn'](value=0.0, **still)),
      context.logits((context.base.params, context.base.stats),
                   context.splits['one'].test))
  moved = _result(context, ARMS['learn'](steps=3, batch=8))
  assert moved.chosen['trained'] == 2 * len(context.base.params)
  made = _result(context, ARMS['learn'](objective='entropy', examples='test',
                                    per='model', steps=3))
  assert made.chosen['trained'] == 2


def test_negation_forgets_one_task_and_keeps_another(context):
  arm = dataclasses.replace(ARMS['learn'](
      objective='negation', per='model', steps=40, batch=40), forget='two')
  made = _result(context, arm)
  held_out = {t: x.validation for t, x in context.splits.items()}
  loss = {t: train.classification_metrics(made.logits(t, x), x.labels)['nll']
          for t, x in held_out.items()}
  assert loss['two'] > loss['one']


def test_finetune_trains_what_it_is_told(context):
  made = _result(context, ARMS['finetune'](trainable='^head/', steps=3))
  assert made.chosen['trained'] == 8 * 10 + 10
  with pytest.raises(core.UserError, match='matches no parameter'):
    _result(context, ARMS['finetune'](trainable='^heads/', steps=3))


def test_singular_values_begin_as_the_merge(context):
  still = _logits(context, ARMS['svd'](steps=0))
  np.testing.assert_allclose(still, _logits(context, Arm(op='linear')),
                             atol=1e-4)
  made = _result(context, Arm(
      'svd_finetune', 'multi_source_svd', weight=1.0,
      settings=dict(steps=2, rank=2, op_settings=dict(components=2))))
  assert made.chosen['trained'] == 2 * 6


def test_evolve_counts_evaluations_and_never_loses_to_its_first(context):
  kw = dict(evaluations=20, sigma=0.3, population=10)
  found = _result(context, ARMS['evolve'](**kw))
  drawn = _result(context, ARMS['evolve'](search='random_search', **kw))
  assert found.chosen['genes'] == drawn.chosen['genes'] == 6
  held_out = {t: x.validation for t, x in context.splits.items()}
  accuracy = contexts.accuracies(found.logits, held_out)
  assert abs(context.pooled(accuracy) - found.chosen['fitness']) < 1e-6
  with pytest.raises(core.UserError, match='evaluations'):
    _result(context, ARMS['evolve'](evaluations=3))


def test_flow_of_the_first_model_is_that_model(context):
  one = context.experts['one'].params
  stacked, depth = search._stack([one, context.experts['two'].params])
  space, forward = search._flow(context.base.net, depth, 2, 2, True)
  images = jnp.asarray(context.splits['one'].test.images[:8])
  np.testing.assert_allclose(
      jax.jit(forward)(jnp.asarray(space.mean, jnp.float32), one, stacked,
                       context.fns.normalize(images)),
      context.fns.predict(one, {}, images), atol=1e-5)
  made = _result(context, ARMS['path'](evaluations=20))
  assert 0 <= made.chosen['fitness'] <= 1


def test_routes_at_full_rank_are_experts(context):
  arm = ARMS['route'](router='oracle', rank=1.0, tap='norm')
  np.testing.assert_allclose(_logits(context, arm), _expert(context, 'one'),
                             atol=1e-4)
  arm = ARMS['route'](router='none', rank=1.0, tap='norm')
  made = _logits(context, arm)
  np.testing.assert_allclose(
      made, _logits(context, Arm(op='linear', weight=0.3)), atol=1e-4)
  learned = _result(context, ARMS['route'](steps=3, rank=1.0, tap='norm'))
  assert 0 <= learned.chosen['routed'] <= 1


def test_swap_and_patch(context):
  arm = ARMS['swap'](bottom=1, top=1, others=0.0)
  made = _result(context, arm)
  np.testing.assert_array_equal(made.logits('one', context.splits['one'].test),
                                _expert(context, 'one'))
  assert made.chosen['two_0'] > 0
  patched = ARMS['transfer'](tuned='two', target='')
  np.testing.assert_allclose(_logits(context, patched), _expert(context, 'two'),
                             atol=1e-4)
  made = _result(context, ARMS['transfer'](tuned='two', target='two'))
  assert abs(made.chosen['cosine'] - 1) < 1e-5
  noisy = _result(context, ARMS['transfer'](tuned='two', target='two',
                                     noise='shuffled'))
  assert noisy.chosen['cosine'] < 0.5


def test_claims_may_be_about_what_was_recorded(context, pool, tmp_path):
  del context  # its models are in the pool
  arm = lambda noise: ARMS['transfer'](tuned='two', target='two', noise=noise)
  spec = dataclasses.replace(
      _spec(pool, transfer=arm('none'), shuffled=arm('shuffled')),
      claims=dict(cosine=compare.Claim('transfer', 'shuffled',
                                       'chosen_cosine')))
  assert 'cosine' in merge.run(spec, tmp_path / 'run')['table']
