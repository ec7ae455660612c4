"""A step of several networks: what each loss term reads and what it updates.

Images and text are tested alike where they share the code.
"""
import dataclasses
from typing import NamedTuple

from flax import nnx
import jax
from jax import numpy as jnp
import numpy as np
import pytest

from kt_jax import core
from kt_jax import data
from kt_jax import losses
from kt_jax import models
from kt_jax import train
from kt_jax.train import LossTerm
from kt_jax.train import Module
from kt_jax.train import Optimizer
from kt_jax.train import Teacher

INFO = data.Info(name='noise', classes=4, input_shape=(8, 8, 1), mean=(0.3,),
                 std=(0.5,), class_names=tuple('abcd'),
                 sizes=dict(train=20, validation=6, test=5))
TOKENS = data.Info(name='text', classes=11, input_shape=(12,), mean=(), std=(),
                   class_names=(), sizes=dict(train=20, validation=3, test=3))
B = 6
MLP = dict(name='mlp', kw=dict(width=5, depth=1))
CONVNET = dict(name='convnet', kw=dict(widths=(4, 6)))
SPEC = core.spec.build(train.Training, dict(
    model=MLP, batch=dict(size=B), loop=dict(steps=10), mesh=dict(data=1)))
TEXT = core.spec.change(SPEC, dict(
    data=data.Text(length=12, prompt=4, domains=dict(
        a=data.Domain('task:add'))),
    model=dict(name='decoder', kw=dict(depth=1, width=8, heads=2))))


def images(**changes):
  return core.spec.change(SPEC, changes)


def text(**changes):
  return core.spec.change(TEXT, changes)


def info_of(spec):
  return TOKENS if isinstance(spec.data, data.Text) else INFO


def filled(tree, low=-0.6, high=0.6, seed=0):
  """Uniform numbers of these shapes: nothing compiles for them."""
  rng = np.random.default_rng(seed)
  return jax.tree.map(
      lambda x: rng.uniform(low, high, x.shape).astype(x.dtype), tree)


def trained(name='mlp', info=INFO, seed=7, **kw):
  build = models.builder(name, classes=info.classes,
                         input_shape=info.input_shape, seed=0, **kw)
  net = models.abstract(build)
  params, stats = jax.eval_shape(lambda: models.arrays(net, build()))
  return train.Trained(net, filled(params, seed=seed), filled(
      stats, 0.4, 1.6, seed), info, {}, 'digest', 'somewhere')


def decoder(seed=7, depth=1, width=6, heads=1, **kw):
  return trained('decoder', TOKENS, seed, depth=depth, width=width, heads=heads,
                 **kw)


def first_state(session):
  """A state with parameters, statistics and averages of all sorts."""
  shapes = session.abstract
  return shapes._replace(
      step=np.int32(0), params=filled(shapes.params),
      stats=filled(shapes.stats, 0.4, 1.6), opt_state=jax.tree.map(
          lambda x: np.zeros(x.shape, x.dtype), shapes.opt_state),
      ema=shapes.ema and dict(params=filled(shapes.ema['params'], seed=1),
                              stats=filled(shapes.ema['stats'], 0.4, 1.6, 1)))


def batch(seed=0):
  r = np.random.default_rng(seed)
  return dict(images=r.integers(0, 256, (B, 8, 8, 1)).astype(np.uint8),
              labels=r.integers(0, 4, B).astype(np.int32),
              index=r.permutation(20)[:B].astype(np.int32))


def rows(seed=0, count=B):
  """Documents of unequal lengths, prompts and padding."""
  r = np.random.default_rng(seed)
  lengths = r.integers(6, 13, count)
  at = np.arange(12)
  segments = (at < lengths[:, None]).astype(np.int32)
  return dict(tokens=r.integers(0, 11, (count, 12)).astype(np.int32),
              segments=segments, targets=(at >= 4) & (segments > 0),
              index=r.permutation(20)[:count].astype(np.int32),
              domain=np.zeros(count, np.int32))


def batch_of(spec):
  return rows() if isinstance(spec.data, data.Text) else batch()


class First(NamedTuple):
  """The first step, without its update."""
  session: train.Session
  state: train.State
  grads: dict[str, dict[str, np.ndarray]]
  metrics: dict[str, np.ndarray]
  stats: dict[str, dict[str, np.ndarray]]  # that it leaves


def first(spec, teachers=(), the_batch=None, grad=True, state=None, **kw):
  """What the first step computes, `First`; without `grad` it compiles less."""
  session = train.make_session(spec, info_of(spec), dict(teachers), **kw)
  state = first_state(session) if state is None else state
  the_batch = the_batch or batch_of(spec)
  prepare = train.tokens.prepare_tokens if isinstance(
      spec.data, data.Text) else train.prepare_images(INFO)
  forward = train.make_forward(session.graph)

  def loss(params, stats, ema, constants):
    key = jax.random.fold_in(jax.random.key(spec.seed), 0)
    prepare_key, key = jax.random.split(key)
    sums, stats = forward(
        params, stats, prepare(the_batch, prepare_key), key,
        train.step.StepContext(state.step, ema, constants))
    means = {n: total / count for n, (total, count) in sums.items()}
    value = sum(session.inputs.term_weights[n] * x for n, x in means.items())
    return value, (means | dict(loss=value), stats)
  args = state.params, state.stats, state.ema, session.inputs.constants
  if grad:
    grads, rest = jax.jit(jax.grad(loss, has_aux=True))(*args)
  else:
    grads, rest = {}, jax.jit(loss)(*args)[1]
  return First(session, state, *host((grads, *rest)))


def shapes_only(spec, teachers=(), **kw):
  """Traces a step, as `train.check` does."""
  session = train.make_session(spec, info_of(spec), dict(teachers), **kw)
  jax.eval_shape(session.step, session.abstract, session.batch, session.inputs)
  return session


def close(got, want, rtol=1e-4, atol=1e-6):
  got, want = core.flatten(got), core.flatten(want)
  assert got.keys() == want.keys()
  for name in want:
    np.testing.assert_allclose(got[name], want[name], rtol=rtol, atol=atol,
                               err_msg=name)


def host(tree):
  return jax.tree.map(np.array, jax.device_get(tree))


def moves(tree) -> bool:
  return any(np.any(np.abs(x) > 1e-7) for x in jax.tree.leaves(tree))


def differ(a, b) -> bool:
  return moves(jax.tree.map(lambda x, y: np.subtract(x, y), a, b))


def logits(net, params, the_batch=None, info=INFO, stats=None, mode='train'):
  x = data.normalize((the_batch or batch())['images'], info.mean, info.std)
  return models.apply(net, params, stats or {}, x, train=mode == 'train').logits


def stats_after(net, params, stats):
  x = data.normalize(batch()['images'], INFO.mean, INFO.std)
  return models.apply(net, params, stats, x, train=True).stats


def token_logits(net, params, the_batch=None, prefix=None):
  the_batch = the_batch or rows()
  return models.call(net, params, {}, lambda m: m.logits(m.hidden(
      the_batch['tokens'], the_batch['segments'], prefix=prefix)))[0]


def token_mean(values, weight=None):
  """Mean over the tokens that count, one for each prediction."""
  batch = rows()
  where = np.zeros((B, 12), bool)
  where[:, :-1] = batch['targets'][:, 1:]
  values = values if weight is None else values * weight
  return jnp.sum(jnp.where(where, values, 0)) / where.sum()


def token_labels():
  return np.pad(rows()['tokens'][:, 1:], [(0, 0), (0, 1)])


# Kinds of networks.


def test_frozen_teacher():
  """By hand; the teacher normalizes the image in its own way."""
  other = dataclasses.replace(INFO, mean=(0.1,), std=(0.2,))
  t = trained(width=9, depth=1, info=other)
  spec = images(teachers=dict(big=Teacher('x')), terms=dict(
      kd=LossTerm('kd', weight=0.7, teacher='big', kw=dict(temperature=2.0)),
      task=LossTerm('cross_entropy')))
  out = first(spec, dict(big=t))
  def by_hand(params):
    z = logits(out.session.net, params)
    kd = losses.kd(z, logits(t.net, t.params, info=other), temperature=2.0)
    return jnp.mean(0.7 * kd + losses.cross_entropy(z, batch()['labels']))
  want, grads = jax.jit(jax.value_and_grad(by_hand))(
      out.state.params['student'])
  close(out.grads, dict(student=grads))
  np.testing.assert_allclose(out.metrics['loss'], want, rtol=1e-5)


def test_frozen_and_average_teachers_with_batch_norm_are_in_evaluation_mode():
  t = trained('convnet', widths=(5,))
  spec = images(
      model=CONVNET, train=dict(ema=0.75), teachers=dict(
          big=Teacher('x'), mean=Teacher(kind='average')), terms=dict(
              kd=LossTerm('kd', teacher='big', kw=dict(temperature=3.0)),
              mt=LossTerm('kd', teacher='mean', kw=dict(temperature=1.0))))
  out = first(spec, dict(big=t), grad=False)
  net, ema = out.session.net, out.state.ema
  z = logits(net, out.state.params['student'],
             stats=out.state.stats['student'])
  values = {mode: [jnp.mean(losses.kd(
      z, logits(net, params, stats=stats, mode=mode), temperature=temperature))
                   for net, params, stats, temperature in (
                       (t.net, t.params, t.stats, 3.0),
                       (net, ema['params'], ema['stats'], 1.0))]
            for mode in ('eval', 'train')}
  np.testing.assert_allclose([out.metrics['kd'], out.metrics['mt']],
                             values['eval'], rtol=1e-4)
  assert np.all(np.abs(np.subtract(values['train'], values['eval'])) > 1e-3)
  assert set(out.state.params) == set(out.stats) == {'student'}


def test_online_teacher_with_batch_norm_moves_its_statistics_once():
  """However many terms and updates its outputs are used in."""
  t = trained('convnet', widths=(5,))
  peer = dict(student='peer', updates=('peer',))
  spec = images(
      model=CONVNET, teachers=dict(peer=Teacher('x', kind='online')),
      terms=dict(
          kd=LossTerm('kd', teacher='peer'),
          both=LossTerm('kd', teacher='peer', updates=('student', 'peer')),
          task=LossTerm('cross_entropy', **peer),
          back=LossTerm('kd', teacher='student', **peer)))
  session = train.make_session(spec, INFO, dict(peer=t))
  state = session.init()
  close(state.params['peer'], t.params)
  close(state.stats['peer'], t.stats)
  start = host(state)
  want = {n: stats_after(net, start.params[n], start.stats[n])
          for n, net in (('peer', t.net), ('student', session.net))}
  new, _ = session.step(state, batch(), session.inputs)
  close(new.stats, want)
  assert differ(want['peer'], t.stats) and differ(new.params['peer'], t.params)


def test_clean_view_does_not_count_twice_in_the_statistics():
  """The statistics are those of the augmented inputs, in whatever order."""
  clean = dict(clean=LossTerm('cross_entropy', student='student@clean'))
  moved = dict(task=LossTerm('cross_entropy'))
  stats = []
  for terms in (clean | moved, moved | clean, moved):
    spec = images(model=CONVNET, modules=dict(move=Module('AffineAugmentor')),
                  augmentor='move', terms=terms)
    out = first(spec, grad=False)
    stats.append(out.stats['student'])
  close(stats[0], stats[2], rtol=1e-5)
  close(stats[1], stats[2], rtol=1e-5)
  assert differ(stats[2], stats_after(
      out.session.net, out.state.params['student'],
      out.state.stats['student']))


def mutual(spec, peer=None):
  """Student and peer teach each other; the peer has its own optimizer."""
  return core.spec.change(spec, dict(
      teachers=dict(peer=Teacher(kind='online', model=core.spec.build(
          train.Model, peer or dict(name='mlp', kw=dict(width=7, depth=1))))),
      optimizers=dict(peer=Optimizer('sgd', 0.05)), terms=dict(
          task=LossTerm('cross_entropy'),
          kd=LossTerm('kd', teacher='peer', kw=dict(temperature=3.0)),
          peer_task=LossTerm('cross_entropy', weight=0.3, student='peer'),
          peer_kd=LossTerm('kd', student='peer', teacher='student',
                           kw=dict(temperature=2.0)))))


@pytest.mark.parametrize('modality', ['images', 'text'])
def test_mutual_learning_is_two_runs(modality):
  """Each moves by its own loss, to which the other is a constant.

  The peer with its own optimizer, the student by that of the spec; of text,
  `test_micro_batches_change_nothing` has both.
  """
  if modality == 'images':
    spec, of, y, mean = mutual(SPEC), logits, batch()['labels'], jnp.mean
  else:
    spec = mutual(TEXT, dict(name='decoder', kw=dict(depth=1, width=4,
                                                     heads=1)))
    of, y, mean = token_logits, token_labels(), token_mean
  out = first(spec)
  session, state, grads = out[:3]
  mine, peers = state.params['student'], state.params['peer']
  nets = session.net, session.graph.networks['peer'].net
  z, z_peer = of(nets[0], mine), of(nets[1], peers)
  def one(net, other, weight, temperature):
    return lambda params: mean(
        weight * losses.cross_entropy(of(net, params), y)
        + losses.kd(of(net, params), other, temperature=temperature))
  grad = lambda fn, at: jax.jit(jax.grad(fn))(at)
  close(grads['student'], grad(one(nets[0], z_peer, 1.0, 3.0), mine))
  close(grads['peer'], grad(one(nets[1], z, 0.3, 2.0), peers))
  assert set(grads) == {'student', 'peer'}
  if modality == 'text':
    return
  after, metrics = session.step(state, batch(), session.inputs)
  for name, rate in dict(student=0.1, peer=0.05).items():
    close(after.params[name], jax.tree.map(
        lambda p, g: p - rate * g, state.params[name], grads[name]))
  for name, value in out.metrics.items():
    np.testing.assert_allclose(metrics[name], value, rtol=1e-5)


def test_model_of_a_state_is_the_student():
  session = train.make_session(mutual(SPEC), INFO)
  state = first_state(session)
  model, training = train.to_items(state)
  assert set(model['params']) == set(state.params['student'])
  assert set(training['params']) == {'peer'}
  again = train.loop.from_items(model, training, session.abstract)
  assert jax.tree.structure(again) == jax.tree.structure(state)
  jax.tree.map(np.testing.assert_array_equal, again, state)


def test_adapter_and_student_move_together():
  """One divergence trains both; the term on labels only the adapter."""
  both = dict(teacher='big', teacher_taps='pool', module='adapter')
  spec = images(
      teachers=dict(big=Teacher('x')),
      modules=dict(adapter=Module('TeacherAdapter')), terms=dict(
          kd=LossTerm('kd', **both), hold=LossTerm(
              'cross_entropy', updates=('adapter',), rename=dict(
                  student_logits='teacher_logits'), **both)))
  t = trained(width=9, depth=1)
  grads = first(spec, dict(big=t)).grads
  assert moves(grads['adapter']) and moves(grads['student'])
  spec = core.spec.change(spec, dict(terms=dict(
      kd=dict(updates=('student',)), hold=dict(weight=0.0))))
  grads = first(spec, dict(big=t)).grads
  assert moves(grads['student']) and not moves(grads['adapter'])


def test_average_teacher():
  spec = images(train=dict(ema=0.5), teachers=dict(
      mean=Teacher(kind='average')), terms=dict(
          kd=LossTerm('kd', teacher='mean', kw=dict(temperature=1.0))))
  out = first(spec)
  by_hand = lambda params: jnp.mean(losses.kd(
      logits(out.session.net, params),
      logits(out.session.net, out.state.ema['params']), temperature=1.0))
  want, grads = jax.value_and_grad(by_hand)(out.state.params['student'])
  np.testing.assert_allclose(out.metrics['kd'], want, rtol=1e-4)
  close(out.grads['student'], grads)


def test_initial_student():
  spec = images(teachers=dict(initial=Teacher(kind='initial'),
                              big=Teacher('x')),
                terms=dict(dp=LossTerm('partitioned_kd', teacher='big')))
  t = trained()
  session = train.make_session(spec, INFO, dict(big=t))
  start = session.init()
  close(start.params['student'],
        session.inputs.constants['networks']['initial']['params'])
  out = first(spec, dict(big=t), grad=False)  # another state than the first
  want = losses.partitioned_kd(
      logits(out.session.net, out.state.params['student']),
      logits(t.net, t.params), logits(session.net, start.params['student']),
      batch()['labels'])
  np.testing.assert_allclose(out.metrics['dp'], jnp.mean(want), rtol=1e-4)


def test_classes_of_the_teacher():
  wide = dataclasses.replace(INFO, classes=6, class_names=tuple('abcdef'))
  t = trained(info=wide)
  spec = images(teachers=dict(big=Teacher('x', classes=(5, 0, 3, 1))),
                terms=dict(kd=LossTerm('kd', teacher='big')))
  out = first(spec, dict(big=t), grad=False)
  want = losses.kd(logits(out.session.net, out.state.params['student']),
                   logits(t.net, t.params)[:, jnp.asarray([5, 0, 3, 1])])
  np.testing.assert_allclose(out.metrics['kd'], jnp.mean(want), rtol=1e-5)


def test_permuted_logits_are_so_by_example():
  permute = train.images.permute_logits
  z = jnp.arange(80.).reshape(20, 4)
  index = jnp.arange(20)
  permuted = permute(z, index, 0.3)
  np.testing.assert_array_equal(permute(z[::-1], index[::-1], 0.3),
                                permuted[::-1])
  changed = np.any(np.asarray(permuted != z), -1)
  many = np.any(np.asarray(permute(jnp.broadcast_to(z[0], (2000, 4)),
                                   jnp.arange(2000), 0.3) != z[0]), -1)
  assert 1 <= changed.sum() <= 12
  assert abs(many.mean() - 0.3 * 23 / 24) < 0.04
  np.testing.assert_array_equal(np.sort(permuted, -1), z)
  t = trained()
  spec = images(teachers=dict(big=Teacher('x', permute_logits=0.9)),
                terms=dict(kd=LossTerm('kd', teacher='big')))
  out = first(spec, dict(big=t), grad=False)
  want = losses.kd(
      logits(out.session.net, out.state.params['student']),
      permute(logits(t.net, t.params), batch()['index'], 0.9))
  np.testing.assert_allclose(out.metrics['kd'], jnp.mean(want), rtol=1e-5)


def test_several_teachers():
  spec = images(teachers=dict(b=Teacher('x'), a=Teacher('x')),
                modules=dict(mix=Module('TeacherMixture', dict(
                    weights=(0.2, 0.8)))),
                terms=dict(kd=LossTerm('kd', module='mix', teacher='a',
                                       kw=dict(temperature=1.0))))
  teachers = dict(a=trained(seed=1), b=trained(seed=2, width=3, depth=1))
  out = first(spec, teachers, grad=False)
  p = [jax.nn.softmax(logits(t.net, t.params)) for t in teachers.values()]
  want = losses.kd(logits(out.session.net, out.state.params['student']),
                   jnp.log(0.2 * p[0] + 0.8 * p[1]), temperature=1.0)
  np.testing.assert_allclose(out.metrics['kd'], jnp.mean(want), rtol=1e-4)


# Modules.


def augmented(**terms):
  return images(
      teachers=dict(big=Teacher('x')), augmentor='move',
      modules=dict(move=Module('AffineAugmentor')), terms=terms or dict(
          kd=LossTerm('kd', teacher='big', kw=dict(temperature=1.0)),
          against=LossTerm('kd', weight=-1.0, teacher='big',
                           kw=dict(temperature=1.0), updates=('move',))))


def test_augmentor_works_against_the_student():
  """The same divergence, up for one and down for the other."""
  t = trained(width=9, depth=1)
  grads = first(augmented(), dict(big=t)).grads
  joint = first(augmented(kd=LossTerm(
      'kd', teacher='big', kw=dict(temperature=1.0),
      updates=('student', 'move'))), dict(big=t)).grads
  close(grads['student'], joint['student'], atol=1e-7)
  close(jax.tree.map(lambda g: -g, grads['move']), joint['move'], atol=1e-7)
  assert moves(grads['move'])


def test_clean_view():
  spec = core.spec.change(augmented(), dict(terms=dict(
      clean=LossTerm('cross_entropy', student='student@clean'))))
  out = first(spec, dict(big=trained()), grad=False)
  want = losses.cross_entropy(
      logits(out.session.net, out.state.params['student']), batch()['labels'])
  np.testing.assert_allclose(out.metrics['clean'], jnp.mean(want), rtol=1e-5)


class RowShare(nnx.Module):
  """A learned weight in (0, 1) for each training example or row."""

  def __init__(self, *, rngs, examples):
    self.free = nnx.Param(jax.random.normal(rngs.params(), (examples,)))

  def __call__(self, index):
    return {'share': jax.nn.sigmoid(self.free[...][index])}


class Heat(nnx.Module):
  """A learned temperature."""

  def __init__(self, *, rngs):
    del rngs
    self.free = nnx.Param(jnp.asarray(0.8))

  def __call__(self):
    return {'temperature': jnp.exp(self.free[...])}


def test_hypergradient_reaches_the_ratio_network():
  """d CE_val / d alpha_i = -(eta / n) <grad CE_val(theta'), grad(KL_i - CE_i)>,

  through the network to its parameters; nothing here differentiates twice.
  """
  share = dict(teacher='big', module='ratio')
  spec = images(
      teachers=dict(big=Teacher('x')),
      modules=dict(ratio=Module('SampleRatio')),
      bilevel=dict(module='ratio', rate=0.3, batch=0), terms=dict(
          kd=LossTerm('kd', example_weight='teacher_share',
                      kw=dict(temperature=1.5), **share),
          task=LossTerm('cross_entropy', example_weight='label_share',
                        **share)))
  t, the_batch = trained(width=9, depth=1), batch()
  r = np.random.default_rng(1)
  held_out = dict(images=r.integers(0, 256, (6, 8, 8, 1)).astype(np.uint8),
                  labels=r.integers(0, 4, 6).astype(np.int32))
  session = train.make_session(spec, INFO, dict(big=t), held_out=held_out)
  state = first_state(session)
  before = state.params
  stats = jax.tree.map(jnp.asarray, state.stats['ratio'])
  arrays = lambda z: dict(student_logits=z, teacher_logits=logits(
      t.net, t.params), labels=the_batch['labels'])
  def alpha(omega):
    out, _ = models.call(
        session.graph.modules['ratio'].net, omega, stats, lambda m: core.bind(
            m.__call__, arrays(logits(session.net, before['student']))),
        train=True)
    return out['teacher_share']
  theta, y = before['student'], the_batch['labels']
  def values(theta):
    z = logits(session.net, theta)
    return (losses.kd(z, logits(t.net, t.params), temperature=1.5),
            losses.cross_entropy(z, y))
  shares = alpha(before['ratio'])
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
  want = jax.jit(jax.grad(lambda omega: jnp.vdot(by_alpha, alpha(omega))))(
      before['ratio'])
  assert any(np.abs(v).max() > 1e-5 for v in want.values())
  after, _ = session.step(state, the_batch, session.inputs)
  close({n: (before['ratio'][n] - after.params['ratio'][n]) / 0.1
         for n in want}, want, rtol=2e-3, atol=2e-6)


def test_hypergradient_on_text():
  """That of a row's weight: -eta <grad L_val(theta'), grad of its share>."""
  spec = text(
      modules=dict(share=Module(RowShare)), bilevel=dict(
          module='share', rate=0.4), optimizers=dict(share=Optimizer(
              'sgd', 1.0)),
      terms=dict(task=LossTerm('cross_entropy', module='share',
                               example_weight='share')))
  held_out = {k: v for k, v in rows(4, 3).items()
              if k in ('tokens', 'segments', 'targets')}
  session = train.make_session(spec, TOKENS, held_out=held_out)
  state = first_state(session)
  before = state.params
  free, theta = before['share']['free'], before['student']
  share = jax.nn.sigmoid(free[rows()['index']])
  of_row = lambda theta: jax.vmap(
      lambda i: token_mean(losses.cross_entropy(token_logits(
          session.net, theta), token_labels()), (jnp.arange(B) == i)[:, None])
  )(jnp.arange(B))
  each = jax.jit(jax.jacobian(of_row))(theta)
  moved = {n: v - 0.4 * np.tensordot(share, each[n], 1)
           for n, v in theta.items()}
  y, where = (train.align(held_out)[n] for n in ('labels', 'where'))
  g_val = jax.jit(jax.grad(lambda theta: core.masked_mean(losses.cross_entropy(
      token_logits(session.net, theta, held_out), y), where)))(moved)
  by_share = -0.4 * sum(
      np.tensordot(each[n].reshape(B, -1), g_val[n].ravel(), 1) for n in theta)
  want = np.zeros(20)
  want[rows()['index']] = by_share * share * (1 - share)
  assert np.abs(want).max() > 1e-5
  after, _ = session.step(state, rows(), session.inputs)
  np.testing.assert_allclose(free - after.params['share']['free'], want,
                             rtol=2e-3, atol=2e-6)


@pytest.mark.parametrize('modality', ['images', 'text'])
def test_taid_moves_with_the_steps(modality):
  """Its schedule observes the mean of its term, once per step."""
  kw = dict(start=0.15, end=0.9, alpha=0.6, beta=0.7)
  spec, t = (SPEC, trained(width=9, depth=1)) if modality == 'images' else (
      TEXT, decoder())
  spec = core.spec.change(spec, dict(
      teachers=dict(big=Teacher('x')),
      modules=dict(taid=Module('TaidSchedule', kw)),
      terms=dict(taid=LossTerm('taid', teacher='big', module='taid'))))
  session = train.make_session(spec, info_of(spec), dict(big=t))
  state = session.init()
  assert state.params['taid'] == {}
  share, momentum, last, shares = 0.15, 0.0, 0.0, []
  for n in range(4):
    np.testing.assert_allclose(state.stats['taid']['share'], share, rtol=1e-5)
    shares.append(share)
    params = state.params['student']
    if modality == 'images':
      want = jnp.mean(losses.taid(logits(session.net, params), logits(
          t.net, t.params), share=share))
    else:
      want = token_mean(losses.taid(token_logits(
          session.net, params), token_logits(t.net, t.params), share=share))
    state, metrics = session.step(state, batch_of(spec), session.inputs)
    loss = float(metrics['taid'])
    np.testing.assert_allclose(loss, want, rtol=1e-4)
    if n:
      momentum = 0.7 * momentum + 0.3 * (last - loss) / last
      ahead = share + 0.6 * (1 - share) / (1 + np.exp(-momentum))
      share = min(0.9, max(0.15 + (0.9 - 0.15) * n / 10, ahead))
    last = loss
  assert int(state.stats['taid']['updates']) == 4
  assert shares[0] == shares[1] < shares[2] < shares[3]


def test_targets_go_by_index():
  targets = dict(teacher_aspects=np.random.default_rng(0).random((20, 3),
                                                                 np.float32))
  spec = images(modules=dict(aspects=Module('AspectHead')), terms=dict(
      aspects=LossTerm(aspect_sum, taps='pool', module='aspects')))
  out = first(spec, grad=False, targets=targets)
  np.testing.assert_allclose(
      out.metrics['aspects'],
      targets['teacher_aspects'][batch()['index']].sum(-1).mean(),
      rtol=1e-5)


def aspect_sum(student_aspects, teacher_aspects):
  assert student_aspects.shape == teacher_aspects.shape == (B, 3)
  return jnp.sum(teacher_aspects, -1) + 0 * jnp.sum(student_aspects, -1)


def test_example_weight_on_images():
  spec = images(terms=dict(task=LossTerm('cross_entropy', weight=0.4,
                                         example_weight='share')))
  share = np.float32([0.1, 2.0, 0.0, 0.7, 1.3, 0.4])
  out = first(spec, the_batch=batch() | dict(share=share))
  want, grads = jax.value_and_grad(lambda params: 0.4 * jnp.mean(
      share * losses.cross_entropy(logits(out.session.net, params),
                                   batch()['labels'])))(
                                       out.state.params['student'])
  close(out.grads['student'], grads)
  np.testing.assert_allclose(out.metrics['loss'], want, rtol=1e-5)


# Quantized students.


def by_column(w, bits):
  """Kernels on 2^bits - 1 even levels per output, in float64."""
  w = np.float64(w)
  columns = w.reshape(-1, w.shape[-1])
  step = np.abs(columns).max(0) / (2**(bits - 1) - 1)
  return (np.round(columns / step) * step).reshape(w.shape)


@pytest.mark.parametrize('bits', [2, 3])
def test_bits_of_a_student_of_images(bits):
  """Value and gradient are those at the rounded kernels; so is `predict`."""
  t = trained(width=9, depth=1)
  spec = images(train=dict(bits=bits), teachers=dict(big=Teacher('x')),
                terms=dict(kd=LossTerm('kd', teacher='big')))
  out = first(spec, dict(big=t))
  session, own = out.session, out.state.params['student']
  rounded = {n: jnp.asarray(by_column(w, bits), jnp.float32)
             if n.endswith('/kernel') else w for n, w in own.items()}
  assert differ(own, rounded)
  want, grads = jax.value_and_grad(lambda params: jnp.mean(losses.kd(
      logits(session.net, params), logits(t.net, t.params))))(rounded)
  close(out.grads['student'], grads)
  np.testing.assert_allclose(out.metrics['kd'], want, rtol=1e-5)
  np.testing.assert_allclose(
      session.predict(own, {}, batch()['images']),
      logits(session.net, rounded), rtol=1e-4, atol=1e-5)


def test_bits_of_a_decoder_in_bfloat16():
  """What is measured is what was trained: rounded first, then narrower."""
  spec = text(train=dict(bits=4, compute_dtype='bfloat16'), terms=dict(
      task=LossTerm('cross_entropy')))
  out = first(spec, grad=False)
  score = out.session.predict(
      out.state.params['student'], {},
      {k: rows()[k] for k in ('tokens', 'segments', 'targets')})
  np.testing.assert_allclose(score['nll'].sum() / score['count'].sum(),
                             out.metrics['task'], rtol=1e-4)


# Text: everything at once, in chunks and in micro-batches.


def everything(**changes):
  """Loss terms of every kind between decoders, with weights and modules."""
  big = dict(teacher='big')
  return core.spec.change(text(
      teachers=dict(
          big=Teacher('x'), initial=Teacher(kind='initial'),
          peer=Teacher(kind='online', model=train.Model('decoder', dict(
              depth=1, width=4, heads=1))),
          prompted=Teacher(kind='prompted', of='big', module='prompt')),
      modules=dict(prompt=Module('SoftPrompt', dict(count=3)),
                   share=Module(RowShare), heat=Module(Heat)),
      optimizers=dict(prompt=Optimizer('sgd', 0.7), peer=Optimizer(
          'sgd', 0.03)),
      terms=dict(
          task=LossTerm('cross_entropy', weight=0.6, module='share',
                        example_weight='share'),
          given=LossTerm('cross_entropy', weight=0.5, example_weight='gift'),
          kd=LossTerm('kd', kw=dict(temperature=3.0), **big),
          back=LossTerm('reverse_kl', weight=0.7, rename=dict(
              teacher_logits='initial_logits')),
          heat=LossTerm('kd', module='heat', updates=('heat',), **big),
          peer=LossTerm('kd', student='peer', teacher='student', kw=dict(
              temperature=2.0)),
          both=LossTerm('kd', weight=0.3, teacher='peer',
                        updates=('student', 'peer')),
          see=LossTerm('reverse_kl', weight=1.4, teacher='prompted'),
          prompt=LossTerm('reverse_kl', student='prompted', teacher='student',
                          updates=('prompt',)),
          prompt_too=LossTerm('reverse_kl', teacher='prompted',
                              updates=('prompt',)))), changes)


def gifted():
  """A batch with a weight for each token."""
  return rows() | dict(gift=np.random.default_rng(9).uniform(
      0.0, 2.0, (B, 12)).astype(np.float32))


TEACHER = decoder(logit_softcap=2.5, tied=False)


@pytest.fixture(scope='module')
def whole():
  """Its first step in one piece."""
  return first(everything(), dict(big=TEACHER), gifted())


def test_text_by_hand(whole):
  session, start, _, metrics, _ = whole
  net, own = session.net, start.params['student']
  z, y = token_logits(net, own), token_labels()
  initial = session.inputs.constants['networks']['initial']['params']
  z0, peer = token_logits(net, initial), token_logits(
      session.graph.networks['peer'].net, start.params['peer'])
  big = token_logits(TEACHER.net, TEACHER.params)
  prompted = token_logits(TEACHER.net, TEACHER.params,
                          prefix=start.params['prompt']['embedding'])
  share = jax.nn.sigmoid(start.params['share']['free'][rows()['index']])
  want = dict(
      task=token_mean(losses.cross_entropy(z, y), share[:, None]),
      given=token_mean(losses.cross_entropy(z, y), gifted()['gift']),
      kd=token_mean(losses.kd(z, big, temperature=3.0)),
      back=token_mean(losses.reverse_kl(z, z0)),
      heat=token_mean(losses.kd(z, big, temperature=np.exp(
          start.params['heat']['free']))),
      peer=token_mean(losses.kd(peer, z, temperature=2.0)),
      both=token_mean(losses.kd(z, peer)),
      see=token_mean(losses.reverse_kl(z, prompted)),
      prompt=token_mean(losses.reverse_kl(prompted, z)),
      prompt_too=token_mean(losses.reverse_kl(z, prompted)))
  for name, value in want.items():
    np.testing.assert_allclose(metrics[name], value, rtol=2e-4, err_msg=name)
    assert abs(value) > 1e-4, name
  np.testing.assert_allclose(
      metrics['loss'], sum(everything().terms[n].weight * v
                           for n, v in want.items()), rtol=1e-4)


def test_chunks_change_nothing(whole):
  """Of 72 tokens, 7 at a time."""
  out = first(everything(train=dict(chunk=7)), dict(big=TEACHER), gifted())
  close(out.grads, whole.grads)
  close(out.metrics, whole.metrics)
  for name in ('prompt', 'share', 'heat', 'peer', 'student'):
    assert moves(out.grads[name]), name


@pytest.mark.parametrize('parts, chunk', [(2, 0), (3, 100)])
def test_micro_batches_change_nothing(whole, parts, chunk):
  """Each network moves by the whole gradient and by its own optimizer."""
  session = train.make_session(everything(train=dict(
      accumulate=parts, chunk=chunk)), TOKENS, dict(big=TEACHER))
  state, metrics = session.step(whole.state, gifted(), session.inputs)
  for name, grads in whole.grads.items():
    rate = dict(prompt=0.7, peer=0.03).get(name, 0.1)
    close(state.params[name], jax.tree.map(
        lambda p, g: p - rate * g, whole.state.params[name], grads), atol=2e-6)
  for name, value in whole.metrics.items():
    np.testing.assert_allclose(metrics[name], value, rtol=1e-4)


class Blend(nnx.Module):
  """Logits of a teacher that are not those of a network."""

  def __init__(self, *, rngs):
    del rngs

  def __call__(self, teacher_logits):
    return {'teacher_logits': 0.5 * teacher_logits}


@pytest.mark.parametrize('term, message', [
    (LossTerm('kd', teacher='big', module='blend'), 'blend outputs '
     'teacher_logits'),
    (LossTerm('kd', rename=dict(teacher_logits='teachers_logits')),
     'teachers_logits'),
    (LossTerm('kd', teacher='big', rename=dict(
        student_logits='initial_logits')), 'student_logits'),
    (LossTerm('partitioned_kd', teacher='big'), 'single tokens'),
    (LossTerm('uld', teacher='big'), 'sorts the vocabulary'),
], ids=lambda x: x if isinstance(x, str) else '')
def test_what_chunks_cannot_do_is_refused(term, message):
  spec = text(train=dict(chunk=5), terms=dict(kd=term), teachers=dict(
      big=Teacher('x'), initial=Teacher(kind='initial')),
              modules=dict(blend=Module(Blend)) if term.module else {})
  with pytest.raises(core.UserError, match=message):
    shapes_only(spec, dict(big=decoder()))


def test_a_network_that_teaches_itself_is_a_constant_in_that_role():
  """Also in chunks: the loss here has a gradient to its teacher."""
  spec = text(terms=dict(a=LossTerm(teacher_sum, teacher='student')))
  for chunk in (0, 7):
    assert not moves(first(core.spec.change(spec, dict(
        train=dict(chunk=chunk)))).grads), chunk
    assert moves(first(core.spec.change(spec, dict(
        train=dict(chunk=chunk), terms=dict(a=dict(
            updates=('student',)))))).grads), chunk


def teacher_sum(student_logits, teacher_logits):
  return (jnp.sum(jnp.sin(teacher_logits), -1)
          + 0 * jnp.sum(student_logits, -1))


# Where the student starts.


def test_a_low_rank_update_starts_beside_the_base_and_alone_learns():
  base = decoder(width=8, heads=2, seed=3)
  spec = text(model=dict(kw=dict(depth=1, width=8, heads=2, lora_rank=2)),
              trainable='/lora_', optimizer=dict(name='adam', l2=0.1),
              init_from='base', terms=dict(task=LossTerm('cross_entropy')))
  state = train.make_session(spec, TOKENS, start=base).init()
  session, _, grads, *_ = first(spec, state=state, start=base)
  before = host(state.params['student'])
  lora = {n for n in before if '/lora_' in n}
  assert lora and {*before} - lora == {*base.params}
  for name, value in base.params.items():
    np.testing.assert_array_equal(before[name], value)
  np.testing.assert_allclose(token_logits(session.net, before), token_logits(
      base.net, base.params), rtol=1e-5, atol=1e-6)
  norm = np.sqrt(sum((np.float64(grads['student'][n])**2).sum() for n in lora))
  for step in range(2):
    state, metrics = session.step(state, rows(), session.inputs)
    if not step:
      np.testing.assert_allclose(metrics['grad_norm'], norm, rtol=1e-4)
  after = host(state.params['student'])
  for name in before:
    assert (before[name].tobytes() == after[name].tobytes()) == (
        name not in lora), name
  # Another seed draws another update; what the start has is taken as it is.
  other = train.make_session(
      dataclasses.replace(spec, seed=1), TOKENS, start=base).init().params
  assert any(np.any(other['student'][n] != before[n]) for n in lora)
  tuned = base._replace(params=after)
  again = train.make_session(spec, TOKENS, start=tuned).init().params
  close(again['student'], after, rtol=0, atol=0)


# Compilation, and what is refused.


def test_one_program():
  """Another seed, weight or teacher of the same shape compiles nothing."""
  spec = images(teachers=dict(big=Teacher('x')),
                terms=dict(kd=LossTerm('kd', teacher='big')))
  session = train.make_session(spec, INFO, dict(big=trained()))
  state = session.init()  # as the step leaves it
  for seed in range(3):
    t = trained(seed=seed)
    inputs = train.step_inputs(
        spec.terms, seed=seed, weights=dict(kd=float(seed)),
        constants=dict(networks=dict(big=dict(params=t.params, stats=t.stats))))
    state, _ = session.step(state, batch(seed), inputs)
  assert session.step._cache_size() == 1


BIG = dict(teachers=dict(big=Teacher('x')),
           terms=dict(kd=LossTerm('kd', teacher='big')))
SHARED = [  # changes that both modalities refuse
    (dict(terms=dict(kd=dict(teacher='bigg'))), "Did you mean 'big'"),
    (dict(terms=dict(kd=dict(student='studnet'))), "Did you mean 'student'"),
    (dict(terms=dict(kd=dict(updates=('big',)))), 'learns'),
    (dict(terms=dict(kd=dict(module='m'))), "module .config.terms.kd.module"),
    (dict(modules=dict(m=Module('TaidSchedule'))), 'm: no term names it'),
    (dict(modules=dict(m=Module('TaidSchedul')), terms=dict(kd=dict(
        module='m'))), "Did you mean 'TaidSchedule'"),
    (dict(modules=dict(m=Module('TaidSchedule', dict(stat=1))), terms=dict(
        kd=dict(module='m'))), "Did you mean 'start'"),
    (dict(modules=dict(big=Module('TaidSchedule')), terms=dict(
        kd=dict(module='big'))), 'the name is reserved, used twice'),
    (dict(modules={'a/b': Module('TaidSchedule')}, terms=dict(
        kd=dict(module='a/b'))), "contains '/' or '@'"),
    (dict(teachers={'a@b': Teacher('x')}), "contains '/' or '@'"),
    (dict(teachers=dict(student=Teacher('x'))), 'the name is reserved'),
    (dict(teachers=dict(p=Teacher('x', kind='online'))), 'no term updates it'),
    (dict(optimizers=dict(bigger=Optimizer())), 'config.optimizers'),
    (dict(teachers=dict(ema=Teacher(kind='average'))), 'train.ema'),
    (dict(teachers=dict(first=Teacher(kind='initial'))), "called 'initial'"),
    (dict(teachers=dict(initial=Teacher('x'))), "called 'initial'"),
    (dict(teachers=dict(big=Teacher())), 'init_from is empty'),
    (dict(teachers=dict(big=Teacher('x', of='y'))), r'big\.of is for '),
    (dict(terms=dict(kd=dict(example_weight='shares'))), 'array'),
    (dict(terms=dict(kd=dict(rename=dict(teacher_logits='initial_logit')))),
     'array .config.terms.kd'),
    (dict(train=dict(bits=1)), 'train.bits must be'),
    (dict(train=dict(bits=17)), 'train.bits must be'),
    (dict(bilevel=dict(module='m')), "module 'm'"),
    (dict(modules=dict(m=Module(RowShare)), bilevel=dict(module='m')),
     'no term has it in updates'),
    (dict(modules=dict(m=Module(RowShare)), bilevel=dict(module='m'),
          train=dict(accumulate=2), terms=dict(kd=dict(
              module='m', example_weight='share'))),
     'bilevel needs train.accumulate 1'),
]
IMAGES = [
    (dict(augmentor='m'), "module 'm'"),
    (dict(terms=dict(h=LossTerm('hint', teacher='big', taps='poll',
                                teacher_taps='pool'))), "'pool'"),
    (dict(terms=dict(h=LossTerm('hint', teacher='big', taps='pool'))), 'shape'),
    (dict(teachers=dict(big=Teacher('x', tokenizer='bytes'))),
     'tokenizer is for text'),
    (dict(teachers=dict(p=Teacher(kind='prompted'))), 'kind prompted is for'),
    (dict(sampling=dict(source='student')), 'config.sampling is for text'),
    (dict(mixture=dict(every=2)), 'config.mixture is for text'),
    (dict(train=dict(chunk=3)), 'config.train.chunk is for text'),
    (dict(export=True), 'config.export is for text'),
    (dict(evaluate=dict(responses=3)), 'evaluate.responses is for text'),
    (dict(batch=dict(augment=dict(flop={}))), "Did you mean 'flip'"),
]
WORDS = [
    (dict(augmentor='m', modules=dict(m=Module('AffineAugmentor'))),
     'config.augmentor is for images, and the data are text: tokens have no '
     'such thing'),
    (dict(batch=dict(mixup=0.2)), 'batch.mixup is for images'),
    (dict(batch=dict(cutmix=0.2)), 'batch.cutmix is for images'),
    (dict(batch=dict(augment=dict(flip={}))), 'batch.augment is for images'),
    (dict(targets=dict(a='image_aspects')), 'config.targets is for images'),
    (dict(evaluate=dict(cka=(('pool', 'pool'),))), 'evaluate.cka is for'),
    (dict(evaluate=dict(corruptions=dict(a=dict(flip={})))),
     'evaluate.corruptions is for images'),
    (dict(teachers=dict(big=Teacher('x', classes=(1,)))), 'classes is for im'),
    (dict(teachers=dict(big=Teacher('x', permute_logits=0.1))),
     'permute_logits is for im'),
    (dict(terms=dict(kd=dict(student='student@clean'))), "'student@clean'"),
    (dict(terms=dict(h=LossTerm('hint', teacher='big', taps='pool'))),
     'tap of (student|big)'),
    (dict(teachers=dict(p=Teacher(kind='prompted', of='big'))),
     r'module .config.teachers.p.module'),
    (dict(teachers=dict(p=Teacher(kind='prompted', of='bigg', module='m')),
          modules=dict(m=Module('SoftPrompt'))), "Did you mean 'big'"),
    (dict(teachers=dict(
        q=Teacher('x', kind='online'),
        p=Teacher(kind='prompted', of='q', module='m')),
          modules=dict(m=Module('SoftPrompt')), terms=dict(
              a=LossTerm('kd', student='q', teacher='p'))), 'frozen teacher'),
    (dict(teachers=dict(p=Teacher(kind='online'))), 'not a decoder'),
    (dict(model=dict(name='mlp')), 'not a decoder'),
    (dict(teachers=dict(big=Teacher('x', kind='online', model=train.Model(
        'decoder', dict(depth=2)))), terms=dict(a=LossTerm(
            'cross_entropy', student='big'))), 'model is that of init_from'),
    (dict(sampling=dict(source='student'), data=dict(prompt=0)),
     'data.prompt must be'),
    (dict(sampling=dict(source='blend')), 'sampling.teacher'),
]


@pytest.mark.parametrize('modality, change, message', [
    *(('images', *case) for case in SHARED + IMAGES),
    *(('text', *case) for case in SHARED + WORDS)],
                         ids=lambda x: x if isinstance(x, str) else '')
def test_refusals(modality, change, message):
  spec, t = (SPEC, trained(width=9, depth=1)) if modality == 'images' else (
      TEXT, decoder())
  spec = core.spec.change(core.spec.change(spec, BIG), change)
  with pytest.raises(ValueError, match=message) as e:
    shapes_only(spec, {n: t for n, teacher in spec.teachers.items()
                       if teacher.init_from})
  assert isinstance(e.value, core.UserError) or message in ('shape', "'pool'")


def test_a_cached_teacher_has_no_prompt_and_no_hidden_states():
  cached = dict(big=dict(logits=jax.ShapeDtypeStruct((12, 11), np.float32)))
  for spec, message in (
      (everything(cache=dict(views=1)), 'prompted.*cache.views 0'),
      (core.spec.change(TEXT, BIG | dict(train=dict(chunk=3))),
       'outputs of big come from a cache')):
    with pytest.raises(core.UserError, match=message):
      shapes_only(spec, dict(big=TEACHER), cached=cached)


def test_class_counts_that_differ():
  t = trained(info=dataclasses.replace(INFO, classes=6))
  spec = images(**BIG)
  with pytest.raises(core.UserError, match='6 classes, the data 4.*classes '
                     'lists its class'):
    shapes_only(spec, dict(big=t))
  with pytest.raises(core.UserError, match='one of the 6'):
    shapes_only(core.spec.change(spec, dict(teachers=dict(big=dict(
        classes=(0, 1, 2, 6))))), dict(big=t))
  with pytest.raises(core.UserError, match='input_shape'):
    shapes_only(spec, dict(big=trained(info=dataclasses.replace(
        INFO, input_shape=(6, 6, 1)))))
  small = dataclasses.replace(TOKENS, classes=9)
  with pytest.raises(core.UserError, match='vocabulary of 9'):
    shapes_only(text(**BIG), dict(big=trained(
        'decoder', small, depth=1, width=4, heads=1)))
