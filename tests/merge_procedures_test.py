"""Arms of `merge` that learn, search, route or carry."""
import jax
from jax import numpy as jnp
import numpy as np
import pytest

from configs import common
from experiments import merge
from experiments import merge_check
from experiments import merge_scene
from kt_jax import core
from kt_jax import train


def _tasks(c):
  c.pretrain.model = dict(name='residual_mlp',
                          kw=dict(width=8, depth=2))
  for name, angle in (('one', 0.0), ('two', 90.0)):
    c.tasks[name] = dict(data=dict(rotation=angle))
  return c


def _config(**arms):
  """Two experts of residual MLPs on digits, and these arms."""
  c = common.merge_variant(_tasks(common.merge_mnist('zhang2024atlas')), 'tiny',
                           ('small', 'tiny'))
  for name, arm in arms.items():
    c.arms[name] = arm
  with c.unlocked():
    c.variant = 'tiny'
  return c.lock()


ARMS = dict(
    learn=lambda **kw: common.merging('linear', 'learn', settings=kw),
    fit=lambda **kw: common.merging(kind='fit', settings=kw),
    singular=lambda **kw: common.merging('linear', 'singular', settings=kw),
    evolve=lambda **kw: common.merging('linear', 'evolve', settings=kw),
    flow=lambda **kw: common.merging(kind='flow', settings=kw),
    route=lambda **kw: common.merging(kind='route', settings=kw),
    swap=lambda **kw: common.merging(kind='swap', settings=kw),
    patch=lambda **kw: common.merging(kind='patch', settings=kw))


@pytest.fixture(scope='module', name='pool')
def _pool(tmp_path_factory):
  return str(tmp_path_factory.mktemp('pool'))


@pytest.fixture(scope='module', name='scene')
def _scene(pool):
  c = _config(own=common.merging(kind='own'))
  with c.unlocked():
    c.pool_dir = pool
  return merge_scene.make(c, 0, pool)


def _made(scene, arm):
  c = _config(arm=arm)
  merge_check.check_arm(c, 'arm', None)
  arm = merge_check.arm_of(c, 'arm')
  return merge_check.kind_of(arm)(c, arm, scene)


def _logits(scene, arm, task='one'):
  return _made(scene, arm).logits(task, scene.splits[task].test)


def _expert(scene, name, task='one'):
  e = scene.experts[name]
  return scene.logits((e.params, e.stats), scene.splits[task].test)


@pytest.mark.parametrize('kind, setting', [
    (kind, dict(no_such=1)) for kind in ARMS] + [
        ('learn', dict(objective='entropi')), ('route', dict(router='oracles')),
        ('patch', dict(tuned='three')), ('evolve', dict(search='cma'))])
def test_wrong_settings_are_refused_before_training(kind, setting):
  with pytest.raises(core.UserError, match='config.arms.arm: .*Have'):
    merge_check.check_arm(_config(arm=ARMS[kind](**setting)), 'arm', None)


def test_labels_of_the_test_set_are_refused(scene):
  with pytest.raises(core.UserError, match='reads labels'):
    _made(scene, ARMS['learn'](examples='test'))


def test_tasks_start_from_earlier_ones_only():
  c = _config(own=common.merging(kind='own'))
  with c.unlocked():
    c.tasks.one.start = 'two'
  assert merge_scene.in_order(c.tasks) == ['two', 'one']
  with c.unlocked():
    c.tasks.two.start = 'one'
  with pytest.raises(core.UserError, match='start'):
    merge_scene.in_order(c.tasks)


def test_learned_coefficients_start_where_they_are_told(scene):
  still = dict(steps=0, batch=8)
  np.testing.assert_array_equal(
      _logits(scene, ARMS['learn'](value=0.0, **still)),
      scene.logits((scene.base.params, scene.base.stats),
                   scene.splits['one'].test))
  moved = _made(scene, ARMS['learn'](steps=3, batch=8))
  assert moved.chosen['trained'] == 2 * len(scene.base.params)
  made = _made(scene, ARMS['learn'](objective='entropy', examples='test',
                                    per='model', steps=3))
  assert made.chosen['trained'] == 2


def test_negation_forgets_one_task_and_keeps_another(scene):
  arm = ARMS['learn'](objective='negation', per='model', steps=40, batch=40)
  with pytest.raises(core.UserError, match='task to forget'):
    _made(scene, arm)
  arm.forget = 'two'
  made = _made(scene, arm)
  held_out = {t: x.validation for t, x in scene.splits.items()}
  loss = {t: train.classification_metrics(made.logits(t, x), x.labels)['nll']
          for t, x in held_out.items()}
  assert loss['two'] > loss['one']


def test_fit_trains_what_it_is_told(scene):
  made = _made(scene, ARMS['fit'](train='^head/', steps=3))
  assert made.chosen['trained'] == 8 * 10 + 10
  with pytest.raises(core.UserError, match='matches no parameter'):
    _made(scene, ARMS['fit'](train='^heads/', steps=3))


def test_singular_values_begin_as_the_merge(scene):
  still = _logits(scene, ARMS['singular'](steps=0))
  np.testing.assert_allclose(still, _logits(scene, common.merging('linear')),
                             atol=1e-4)
  made = _made(scene, common.merging(
      'multi_source_svd', 'singular', weight=1.0,
      settings=dict(steps=2, rank=2, of_op=dict(components=2))))
  assert made.chosen['trained'] == 2 * 6


def test_evolve_counts_evaluations_and_never_loses_to_its_first(scene):
  kw = dict(evaluations=20, sigma=0.3, population=10)
  found = _made(scene, ARMS['evolve'](**kw))
  drawn = _made(scene, ARMS['evolve'](search='random_search', **kw))
  assert found.chosen['genes'] == drawn.chosen['genes'] == 6
  held_out = {t: x.validation for t, x in scene.splits.items()}
  accuracy = merge_scene.accuracies(found.logits, held_out)
  assert abs(merge_scene.pooled(accuracy, scene, 'validation')
             - found.chosen['fitness']) < 1e-6
  with pytest.raises(core.UserError, match='evaluations'):
    _made(scene, ARMS['evolve'](evaluations=3))


def test_flow_of_the_first_model_is_that_model(scene):
  from experiments import merge_search
  one = scene.experts['one'].params
  stacked, depth = merge_search._stack([one, scene.experts['two'].params])
  space, forward = merge_search._flow(scene.base.net, depth, 2, 2, True)
  images = jnp.asarray(scene.splits['one'].test.images[:8])
  np.testing.assert_allclose(
      jax.jit(forward)(jnp.asarray(space.mean, jnp.float32), one, stacked,
                       scene.fns.normal(images)),
      scene.fns.predict(one, {}, images), atol=1e-5)
  made = _made(scene, ARMS['flow'](evaluations=20))
  assert 0 <= made.chosen['fitness'] <= 1


def test_routes_at_full_rank_are_experts(scene):
  arm = ARMS['route'](router='oracle', rank=1.0, tap='norm')
  np.testing.assert_allclose(_logits(scene, arm), _expert(scene, 'one'),
                             atol=1e-4)
  arm = ARMS['route'](router='none', rank=1.0, tap='norm')
  made = _logits(scene, arm)
  np.testing.assert_allclose(
      made, _logits(scene, common.merging('linear', weight=0.3)), atol=1e-4)
  learned = _made(scene, ARMS['route'](steps=3, rank=1.0, tap='norm'))
  assert 0 <= learned.chosen['routed'] <= 1


def test_swap_and_patch(scene):
  arm = ARMS['swap'](bottom=1, top=1, others=0.0)
  arm.experts = ('one', 'two')
  made = _made(scene, arm)
  np.testing.assert_array_equal(made.logits('one', scene.splits['one'].test),
                                _expert(scene, 'one'))
  assert made.chosen['two_0'] > 0
  patched = ARMS['patch'](tuned='two', target='')
  np.testing.assert_allclose(_logits(scene, patched), _expert(scene, 'two'),
                             atol=1e-4)
  made = _made(scene, ARMS['patch'](tuned='two', target='two'))
  assert abs(made.chosen['cosine'] - 1) < 1e-5
  noisy = _made(scene, ARMS['patch'](tuned='two', target='two',
                                     noise='shuffled'))
  assert noisy.chosen['cosine'] < 0.5


def test_claims_may_be_about_what_was_recorded(scene, pool, tmp_path):
  del scene  # whose models are in the pool
  patch = lambda noise: ARMS['patch'](tuned='two', target='two', noise=noise)
  c = _config(patch=patch('none'), shuffled=patch('shuffled'))
  with c.unlocked():
    c.pool_dir = pool
    c.claims.cosine = common.claim('patch', 'shuffled', 'chosen_cosine')
  assert 'cosine' in merge.run(c, tmp_path / 'run')['table']
