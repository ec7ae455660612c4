"""A step of many: each term sees whom it names and moves whom it trains."""
import dataclasses

import jax
from jax import numpy as jnp
import numpy as np
import pytest

from configs import common
from kt_jax import core
from kt_jax import data
from kt_jax import losses
from kt_jax import models
from kt_jax import train

INFO = data.Info(name='noise', classes=4, input_shape=(8, 8, 1), mean=(0.3,),
                 std=(0.5,), class_names=tuple('abcd'),
                 sizes=dict(train=20, validation=6, test=5))
B = 6


def config():
  c = common.distill()
  c.model = dict(name='mlp', kw=dict(width=5, depth=1))
  c.optimizer.learning_rate = 0.1
  c.batch.size = B
  c.loop.steps = 10
  return c


def trained(name='mlp', info=INFO, seed=7, **kw):
  build = models.builder(name, classes=info.classes,
                         input_shape=info.input_shape, seed=seed, **kw)
  net, params, stats = models.init(build)
  return train.Trained(net, params, stats, info, {}, 'digest', 'somewhere')


def batch(seed=0):
  r = np.random.default_rng(seed)
  return dict(images=jnp.asarray(r.integers(0, 256, (B, 8, 8, 1)), jnp.uint8),
              labels=jnp.asarray(r.integers(0, 4, B), jnp.int32),
              index=jnp.asarray(r.permutation(20)[:B], jnp.int32))


def gradients(c, teachers=(), the_batch=None, **kw):
  """`(session, stage, state, gradients)` of the first step, without a step."""
  session, stage, _ = train.make_stage_session(c, INFO, dict(teachers), **kw)
  state = session.init()
  pool = train.classification(INFO)(the_batch or batch(), jax.random.key(0))
  forward = train.stage.make_forward(stage)
  key = jax.random.split(jax.random.fold_in(jax.random.key(c.seed), 0))[1]
  shared = train.step.Shared(state.step, state.slow, session.settings.frozen)
  def loss(params):
    sums, _ = forward(params, state.stats, pool, key, shared)
    return sum(session.settings.weights[n] * total / count
               for n, (total, count) in sums.items())
  return session, stage, state, jax.jit(jax.grad(loss))(state.params)


def close(got, want, rtol=1e-4, atol=1e-6):
  for name in want:
    np.testing.assert_allclose(got[name], want[name], rtol=rtol, atol=atol,
                               err_msg=name)


def logits(net, params, the_batch=None, info=INFO):
  x = data.normalize((the_batch or batch())['images'], info.mean, info.std)
  return models.apply(net, params, {}, x, train=True).logits


def test_frozen_teacher():
  """As written by hand; the teacher normalises the image in its own way."""
  other = dataclasses.replace(INFO, mean=(0.1,), std=(0.2,))
  c, t = config(), trained(width=9, depth=1, info=other)
  c.teachers.big = common.teacher()
  c.terms.kd = common.term('kd', weight=0.7, teacher='big', temperature=2.0)
  c.terms.task = common.term('cross_entropy')
  session, _, state, grads = gradients(c, dict(big=t))
  def by_hand(params):
    z = logits(session.net, params)
    kd = losses.kd(z, logits(t.net, t.params, info=other), temperature=2.0)
    return jnp.mean(0.7 * kd + losses.cross_entropy(z, batch()['labels']))
  close(grads, jax.jit(jax.grad(by_hand))(state.params))
  _, metrics = session.step(state, batch(), session.settings)
  np.testing.assert_allclose(metrics['loss'], by_hand(session.init().params),
                             rtol=1e-5)


def mutual():
  c = config()
  c.teachers.peer = common.teacher(
      'online', model=dict(name='mlp', kw=dict(width=7, depth=1)))
  c.terms.task = common.term('cross_entropy')
  c.terms.kd = common.term('kd', teacher='peer')
  c.terms.peer_task = common.term('cross_entropy', learner='peer')
  c.terms.peer_kd = common.term('kd', learner='peer', teacher='student')
  return c


def test_mutual_learning_is_two_runs():
  """Each moves by its own loss, to which the other is a constant."""
  session, stage, state, grads = gradients(mutual())
  y = batch()['labels']
  mine, peers = (train.part(state.params, n) for n in ('student', 'peer'))
  nets = session.net, stage.networks['peer'].net
  z, z_peer = logits(nets[0], mine), logits(nets[1], peers)
  def one(net, other):
    return lambda params: jnp.mean(
        losses.cross_entropy(logits(net, params), y)
        + losses.kd(logits(net, params), other))
  grad = lambda fn, at: jax.jit(jax.grad(fn))(at)
  close(train.part(grads, 'student'), grad(one(nets[0], z_peer), mine))
  close(train.part(grads, 'peer'), grad(one(nets[1], z), peers))
  assert {train.owner(n) for n in grads} == {'student', 'peer'}


def test_model_of_a_state_is_the_student():
  session, _, state, _ = gradients(mutual())
  model, training = train.to_items(state)
  assert set(model['params']) == set(train.part(state.params, 'student'))
  assert set(training['aside']['params']) == {
      n for n in state.params if n.startswith('@peer/')}
  again = train.loop.from_items(model, training)
  assert jax.tree.structure(again) == jax.tree.structure(state)
  assert set(again.params) == set(session.abstract.params)


def test_own_optimizers():
  """The peer by SGD at half the rate; the student by the config's."""
  c = mutual()
  c.optimizers.peer = common.optimizer('sgd', 0.05)
  session, _, state, grads = gradients(c)
  before = jax.tree.map(np.asarray, state.params)
  after, _ = session.step(state, batch(), session.settings)
  for name, g in grads.items():
    rate = 0.05 if name.startswith('@peer/') else 0.1
    np.testing.assert_allclose(after.params[name], before[name] - rate * g,
                               rtol=1e-4, atol=1e-6)


def test_adapter_and_student_move_together():
  """One divergence trains both; the term on labels only the adapter."""
  c = config()
  c.teachers.big = common.teacher()
  c.modules.adapter = common.module('TeacherAdapter')
  both = dict(teacher='big', teacher_taps='pool', module='adapter')
  c.terms.kd = common.term('kd', **both)
  c.terms.hold = common.term('cross_entropy', trains=('adapter',), rename=dict(
      student_logits='teacher_logits'), **both)
  t = trained(width=9, depth=1)
  _, _, state, grads = gradients(c, dict(big=t))
  assert any(np.any(g) for n, g in grads.items() if n.startswith('@adapter/'))
  assert any(np.any(g) for n, g in grads.items() if not n.startswith('@'))
  c.terms.kd.trains = ('student',)
  c.terms.kd.weight, c.terms.hold.weight = 1.0, 0.0
  _, _, _, grads = gradients(c, dict(big=t))
  assert not any(np.any(g) for n, g in grads.items() if n.startswith('@'))


def test_average_teacher():
  c = config()
  c.train.ema = 0.5
  c.teachers.mean = common.teacher('average')
  c.terms.kd = common.term('kd', teacher='mean', temperature=1.0)
  session, _, state, grads = gradients(c)
  assert not any(np.any(np.abs(g) > 1e-6) for g in grads.values())
  other = state._replace(slow=jax.tree.map(lambda x: x * 0.9, state.slow))
  want = jnp.mean(losses.kd(logits(session.net, state.params),
                            logits(session.net, other.slow['params']),
                            temperature=1.0))
  _, metrics = session.step(other, batch(), session.settings)
  np.testing.assert_allclose(metrics['kd'], want, rtol=1e-4)


def test_initial_student():
  c = config()
  c.teachers.initial = common.teacher('initial')
  c.teachers.big = common.teacher()
  c.terms.dp = common.term('partitioned_kd', teacher='big')
  session, _, state, _ = gradients(c, dict(big=trained()))
  for _ in range(3):
    state, _ = session.step(state, batch(), session.settings)
  start = session.init()
  want = losses.partitioned_kd(
      logits(session.net, state.params), logits(trained().net,
                                                trained().params),
      logits(session.net, start.params), batch()['labels'])
  _, metrics = session.step(state, batch(), session.settings)
  np.testing.assert_allclose(metrics['dp'], jnp.mean(want), rtol=1e-4)


def test_classes_of_the_teacher():
  wide = dataclasses.replace(INFO, classes=6, class_names=tuple('abcdef'))
  t, c = trained(info=wide), config()
  c.teachers.big = common.teacher(classes=(5, 0, 3, 1))
  c.terms.kd = common.term('kd', teacher='big')
  session, _, state, _ = gradients(c, dict(big=t))
  want = losses.kd(logits(session.net, state.params),
                   logits(t.net, t.params)[:, jnp.asarray([5, 0, 3, 1])])
  _, metrics = session.step(state, batch(), session.settings)
  np.testing.assert_allclose(metrics['kd'], jnp.mean(want), rtol=1e-5)


def test_corrupt_teacher_is_so_by_example():
  c, t = config(), trained()
  c.teachers.big = common.teacher(corrupt=0.5)
  c.terms.kd = common.term('kd', teacher='big')
  z = jnp.arange(80.).reshape(20, 4)
  index = jnp.arange(20)
  found = train.stage._corrupt(z, index, 0.5)
  np.testing.assert_array_equal(
      train.stage._corrupt(z[::-1], index[::-1], 0.5), found[::-1])
  changed = np.any(np.asarray(found != z), -1)
  assert 3 <= changed.sum() <= 15
  np.testing.assert_array_equal(np.sort(found, -1), z)
  gradients(c, dict(big=t))


def augmented():
  c = config()
  c.teachers.big = common.teacher()
  c.modules.move = common.module('AffineAugmentor')
  c.augmentor = 'move'
  c.terms.kd = common.term('kd', teacher='big', temperature=1.0)
  c.terms.against = common.term('kd', weight=-1.0, teacher='big',
                                temperature=1.0, trains=('move',))
  return c


def test_augmentor_works_against_the_student():
  """The same divergence, up for one and down for the other."""
  t = trained(width=9, depth=1)
  _, _, state, grads = gradients(augmented(), dict(big=t))
  c = augmented()
  c.terms.kd.trains = ('student', 'move')
  del c.terms.against
  _, _, _, joint = gradients(c, dict(big=t))
  for name, g in grads.items():
    sign = -1 if name.startswith('@move/') else 1
    np.testing.assert_allclose(g, sign * joint[name], rtol=1e-4, atol=1e-7)
  assert np.any(grads[next(n for n in grads if n.startswith('@move/'))])


def test_clean_view():
  c = augmented()
  c.terms.clean = common.term('cross_entropy', learner='student@clean')
  session, _, state, _ = gradients(c, dict(big=trained()))
  want = losses.cross_entropy(logits(session.net, state.params),
                              batch()['labels'])
  _, metrics = session.step(state, batch(), session.settings)
  np.testing.assert_allclose(metrics['clean'], jnp.mean(want), rtol=1e-5)


def bilevel():
  c = config()
  c.teachers.big = common.teacher()
  c.modules.ratio = common.module('SampleRatio')
  share = dict(teacher='big', module='ratio')
  c.terms.kd = common.term('kd', each='teacher_share', temperature=1.5, **share)
  c.terms.task = common.term('cross_entropy', each='label_share', **share)
  c.bilevel = dict(module='ratio', rate=0.3, batch=0)
  return c


def test_hypergradient_reaches_the_ratio_network():
  """d CE_val / d alpha_i = -(eta / n) <grad CE_val(theta'), grad(KL_i - CE_i)>,

  through the network to its parameters; nothing here differentiates twice.
  """
  c, t, the_batch = bilevel(), trained(width=9, depth=1), batch()
  r = np.random.default_rng(1)
  held_out = dict(images=r.integers(0, 256, (6, 8, 8, 1)).astype(np.uint8),
                  labels=r.integers(0, 4, 6).astype(np.int32))
  session, stage, _ = train.make_stage_session(
      c, INFO, dict(big=t), held_out=held_out)
  state = session.init()
  before = jax.tree.map(np.asarray, state.params)
  mine = train.part(state.params, 'ratio')
  arrays = lambda z: dict(student_logits=z, teacher_logits=logits(
      t.net, t.params), labels=the_batch['labels'])
  def alpha(omega):
    module = stage.modules['ratio'].net
    out, _ = models.call(
        module, omega, train.part(state.stats, 'ratio'), lambda m: core.bind(
            m.__call__, arrays(logits(session.net, train.part(
                before, 'student')))), train=True)
    return out['teacher_share']
  theta, y = train.part(before, 'student'), the_batch['labels']
  def values(theta):
    z = logits(session.net, theta)
    return (losses.kd(z, logits(t.net, t.params), temperature=1.5),
            losses.cross_entropy(z, y))
  shares = alpha(mine)
  g = jax.jit(jax.grad(lambda theta: jnp.mean(
      shares * values(theta)[0] + (1 - shares) * values(theta)[1])))(theta)
  moved = jax.tree.map(lambda v, g: v - 0.3 * g, theta, g)
  g_val = jax.jit(jax.grad(lambda theta: jnp.mean(losses.cross_entropy(logits(
      session.net, theta, dict(images=jnp.asarray(held_out['images']))),
      jnp.asarray(held_out['labels'])))))(moved)
  each = jax.jit(jax.jacobian(
      lambda theta: values(theta)[0] - values(theta)[1]))(theta)
  by_alpha = -0.3 / B * sum(
      jnp.tensordot(each[n].reshape(B, -1), g_val[n].ravel(), 1) for n in theta)
  want = jax.jit(jax.grad(lambda omega: jnp.vdot(by_alpha, alpha(omega))))(mine)
  assert any(np.abs(v).max() > 1e-5 for v in want.values())
  after, _ = session.step(state, the_batch, session.settings)
  for name, v in want.items():
    np.testing.assert_allclose(
        (before[f'@ratio/{name}'] - after.params[f'@ratio/{name}']) / 0.1, v,
        rtol=2e-3, atol=2e-6, err_msg=name)


def test_several_teachers():
  c = config()
  c.teachers.a, c.teachers.b = common.teacher(), common.teacher()
  c.modules.mix = common.module('TeacherMixture', weights=(0.25, 0.75))
  c.terms.kd = common.term('kd', module='mix', teacher='a', temperature=1.0)
  teachers = dict(a=trained(seed=1), b=trained(seed=2, width=3, depth=1))
  session, _, state, _ = gradients(c, teachers)
  p = [jax.nn.softmax(logits(t.net, t.params)) for t in teachers.values()]
  want = losses.kd(logits(session.net, state.params),
                   jnp.log(0.25 * p[0] + 0.75 * p[1]), temperature=1.0)
  _, metrics = session.step(state, batch(), session.settings)
  np.testing.assert_allclose(metrics['kd'], jnp.mean(want), rtol=1e-4)


def test_targets_go_by_index():
  c = config()
  targets = dict(teacher_aspects=np.random.default_rng(0).random((20, 3),
                                                                 np.float32))
  c.modules.aspects = common.module('AspectHead')
  c.terms.aspects = common.term(
      f'{__name__}:seen', taps='pool', module='aspects')
  session, _, _ = train.make_stage_session(c, INFO, {}, targets=targets)
  _, metrics = session.step(session.init(), batch(), session.settings)
  np.testing.assert_allclose(
      metrics['aspects'],
      targets['teacher_aspects'][np.asarray(batch()['index'])].sum(-1).mean(),
      rtol=1e-5)


def seen(student_aspects, teacher_aspects):
  assert student_aspects.shape == teacher_aspects.shape == (B, 3)
  return jnp.sum(teacher_aspects, -1) + 0 * jnp.sum(student_aspects, -1)


def test_one_program():
  """Another seed, weight or teacher of the same shape compiles nothing."""
  c = config()
  c.teachers.big = common.teacher()
  c.terms.kd = common.term('kd', teacher='big')
  session, _, _ = train.make_stage_session(c, INFO, dict(big=trained()))
  state = session.init()
  for seed in range(3):
    t = trained(seed=seed)
    settings = train.make_settings(
        c.terms, seed=seed, weights=dict(kd=float(seed)),
        frozen=dict(networks=dict(big=dict(params=t.params, stats=t.stats))))
    state, _ = session.step(state, batch(seed), settings)
  assert session.step._cache_size() == 1


def wrong(change):
  c = config()
  c.teachers.big = common.teacher()
  c.terms.kd = common.term('kd', teacher='big')
  change(c)
  return c


@pytest.mark.parametrize('change, says', [
    (lambda c: c.terms.kd.update(teacher='bigg'), "'big'"),
    (lambda c: c.terms.kd.update(learner='studnet'), "'student'"),
    (lambda c: c.terms.kd.update(trains=('big',)), 'learns'),
    (lambda c: c.terms.kd.update(module='m'), 'module'),
    (lambda c: c.modules.update(m=common.module('TeacherMixture')),
     'no term names it'),
    (lambda c: c.update(augmentor='m'), 'module'),
    (lambda c: c.teachers.update(p=common.teacher('online')), 'trains it'),
    (lambda c: c.optimizers.update(bigger=common.optimizer()), 'optimizers'),
    (lambda c: c.teachers.update(ema=common.teacher('average')), 'train.ema'),
    (lambda c: c.teachers.update(x=common.teacher('frozne')), "'frozen'"),
    (lambda c: c.terms.update(h=common.term(
        'hint', teacher='big', taps='poll', teacher_taps='pool')), "'pool'"),
    (lambda c: c.terms.update(h=common.term(
        'hint', teacher='big', taps='pool')), 'shape'),
    (lambda c: c.terms.kd.update(each='shares'), 'array'),
], ids=lambda x: x if isinstance(x, str) else '')
def test_bad_config(change, says):
  with pytest.raises(ValueError, match=says):
    gradients(wrong(change), dict(big=trained(width=9, depth=1)))


def test_class_counts_that_differ():
  t = trained(info=dataclasses.replace(INFO, classes=6))
  with pytest.raises(core.UserError, match='6 classes.*classes says which'):
    gradients(wrong(lambda c: None), dict(big=t))
  with pytest.raises(core.UserError, match='one of the 6'):
    gradients(wrong(lambda c: c.teachers.big.update(classes=(0, 1, 2, 6))),
              dict(big=t))
