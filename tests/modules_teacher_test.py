"""Modules between teacher, label, input and student."""
import functools
import inspect

from flax import nnx
import jax
from jax import numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest
from scipy import ndimage
from scipy import special

from kt_jax import core
from kt_jax import losses
from kt_jax import models
from kt_jax import modules
from kt_jax.modules.affine_augmentor import affine_sample

B, K, T, Q = 6, 5, 3, 4
r = np.random.default_rng(0)
normal = lambda *shape: r.standard_normal(shape).astype(np.float32)
POOL = {
    'student_logits': normal(B, K), 'teacher_logits': normal(B, K),
    'teachers_logits': normal(T, B, K), 'labels': np.array([0, 1, 4, 1, 0, 3]),
    'student_features': normal(B, 4, 4, 7),
    'teacher_features': normal(B, 3, 3, 8),
    'teacher_aspects': r.random((B, Q)).astype(np.float32),
    'inputs': normal(B, 8, 6, 3)}
CASES = {
    'adapter': ('TeacherAdapter', dict(width=7, hidden=6),
                {'teacher_logits': (B, K)}),
    'ratio': ('SampleRatio', dict(hidden=(9, 4), temperature=2.5),
              {'teacher_share': (B,), 'label_share': (B,)}),
    'aspects': ('AspectHead', {}, {'student_aspects': (B, Q)}),
    'augmentor': ('AffineAugmentor',
                  dict(rotate=30., scale=.3, shear=.2, fill=(1., 2., 3.)),
                  {'inputs': (B, 8, 6, 3)})} | {
    how: ('TeacherMixture', dict(how=how),
          {'teacher_logits': (B, K), 'teacher_weights': (T, B)})
    for how in ('fixed', 'learned', 'confidence', 'best')}
each = pytest.mark.parametrize('case', CASES)


def pool():
  return {n: jnp.asarray(v) for n, v in POOL.items()} | {
      'key': jax.random.key(3)}


def shapes(**arrays):
  return {n: jax.ShapeDtypeStruct(np.shape(v), np.asarray(v).dtype)
          for n, v in arrays.items()}


def make(name, seed=0, arrays=None, **kw):
  cls = getattr(modules, name)
  takes = inspect.signature(cls.__init__).parameters
  arrays = {n: v for n, v in shapes(**(arrays or POOL)).items() if n in takes}
  return cls(**arrays, rngs=nnx.Rngs(seed), **kw)


def close(got, want, rtol=1e-5, atol=1e-6):
  np.testing.assert_allclose(np.asarray(got), np.asarray(want), rtol, atol)


@functools.cache
def pure(case):
  """Jitted `(params, stats, pool) -> (out, stats)` in training, its arrays."""
  name, settings, _ = CASES[case]
  net, params, stats = models.split(make(name, **settings))
  def call(params, stats, pool):
    return models.call(net, params, stats, lambda m: core.bind(m, pool),
                       train=True)
  return jax.jit(call), params, stats


@each
def test_shapes_and_jit(case):
  call, params, stats = pure(case)
  out, after = call(params, stats, pool())
  assert {n: v.shape for n, v in out.items()} == CASES[case][2]
  assert all(v.dtype == jnp.float32 for v in out.values())
  shape_and_type = lambda tree: jax.tree.map(
      lambda v: (v.shape, v.dtype, v.aval.weak_type), tree)
  assert shape_and_type(after) == shape_and_type(stats)  # compiled once


@each
def test_gradient_is_finite_and_leaves_the_module_alone(case):
  call, params, stats = pure(case)
  def loss(params, stats, pool):
    out, stats = call(params, stats, pool)
    return sum(jnp.sum(v * jnp.cos(i + jnp.arange(v.size)).reshape(v.shape))
               for i, v in enumerate(out.values())), stats
  grads, _ = jax.jit(jax.grad(loss, has_aux=True))(params, stats, pool())
  assert set(grads) == set(params)
  for v in grads.values():
    assert jnp.isfinite(v).all()
  if case in ('ratio', 'aspects', 'augmentor', 'learned'):
    assert all(jnp.abs(v).max() > 0 for v in grads.values())


@each
def test_construction_reads_shapes_only(case):
  name, settings, _ = CASES[case]
  net = models.abstract(lambda: make(name, **settings))
  assert set(net.kinds) <= {'param', 'stat'}


@each
def test_batch_stays_sharded(case):
  if jax.device_count() < 2:
    pytest.skip('one device: XLA_FLAGS simulates eight in conftest')
  mesh = jax.make_mesh((2,), ('data',), devices=jax.devices()[:2],
                       axis_types=(jax.sharding.AxisType.Auto,))
  call, params, stats = pure(case)
  def place(name, v):
    spec = {'key': P(), 'teachers_logits': P(None, 'data')}.get(
        name, P('data'))
    return jax.device_put(v, NamedSharding(mesh, spec))
  placed = {n: place(n, v) for n, v in pool().items()}
  compiled = call.lower(params, stats, placed).compile()
  out, _ = compiled(params, stats, placed)
  want, _ = call(params, stats, pool())
  for name, v in out.items():
    close(v, want[name])
  if case != 'ratio':  # its class means add up over the devices
    text = compiled.as_text()
    assert 'all-gather' not in text and 'all-reduce' not in text


@pytest.mark.parametrize('case', [c for c in CASES if c != 'augmentor'])
def test_padding(case):
  """Padded rows change no valid row, gradient or state."""
  call, params, stats = pure(case)
  params = {n: v + 0.1 for n, v in params.items()}  # not at a start of zeros
  def pad(name, v):
    if name in ('key', 'inputs'):
      return v
    junk = -1 if jnp.issubdtype(v.dtype, jnp.integer) else jnp.nan
    axis = int(name == 'teachers_logits')
    width = [(0, 2 * (i == axis)) for i in range(v.ndim)]
    return jnp.pad(v, width, constant_values=junk)
  padded = {n: pad(n, v) for n, v in pool().items()}
  where = jnp.arange(B + 2) < B
  def loss(params, pool):
    out, after = call(params, stats, pool)
    rows = sum((v.T if n == 'teacher_weights' else v.reshape(v.shape[0], -1)
               ).sum(-1)**2 for n, v in out.items())
    # What follows a module, such as `kd`, has the padded rows in it too.
    return core.masked_mean(rows, pool.get('where')), (rows, after)
  grad = jax.jit(jax.grad(loss, has_aux=True))
  want, (rows, after) = grad(params, pool())
  got, (padded_rows, padded_after) = grad(params, padded | {'where': where})
  assert jnp.isfinite(padded_rows).all()
  close(padded_rows[:B], rows)
  for n in want:
    close(got[n], want[n], 1e-4, 1e-5)
  for n in after:
    close(padded_after[n], after[n])
  none = padded | {'where': jnp.zeros(B + 2, bool)}
  for n, v in grad(params, none)[1][1].items():
    np.testing.assert_array_equal(v, stats[n])


# TeacherAdapter


def test_adapter_starts_at_the_teacher_and_learns():
  call, params, stats = pure('adapter')
  out, _ = call(params, stats, pool())
  np.testing.assert_array_equal(out['teacher_logits'], POOL['teacher_logits'])
  def loss(params):
    z = call(params, stats, pool())[0]['teacher_logits']
    return losses.cross_entropy(z, pool()['labels']).mean()
  grad = jax.jit(jax.value_and_grad(loss))
  before, grads = grad(params)
  assert {n for n, g in grads.items() if jnp.abs(g).max() > 0} == {
      'third/kernel', 'third/bias'}
  params = jax.tree.map(lambda p, g: p - 0.1 * g, params, grads)
  after, grads = grad(params)
  assert after < before
  assert all(jnp.abs(g).max() > 0 for g in grads.values())


def test_adapter_numbers():
  call, params, stats = pure('adapter')
  params = {n: jnp.asarray(normal(*v.shape)) for n, v in params.items()}
  p = {n: np.asarray(v, np.float64) for n, v in params.items()}
  assert p['first/kernel'].shape == (8, 7)
  assert p['third/kernel'].shape == (6, K)
  usual = nnx.eval_shape(lambda: make('TeacherAdapter'))
  assert usual.first.kernel.shape == (8, K)
  assert usual.third.kernel.shape == (32, K)
  want = np.empty((B, K))
  for i in range(B):
    f = np.mean([POOL['teacher_features'][i, y, x]
                 for y in range(3) for x in range(3)], axis=0)
    h = (f @ p['first/kernel'] + p['first/bias']) @ p['second/kernel']
    h = np.maximum(h + p['second/bias'], 0)
    want[i] = POOL['teacher_logits'][i] - (
        h @ p['third/kernel'] + p['third/bias'])
  close(call(params, stats, pool())[0]['teacher_logits'], want, 1e-4, 1e-4)


def test_adapter_stops_no_gradient():
  module = make('TeacherAdapter')
  for name in ('teacher_logits', 'teacher_features'):
    module.third.kernel[...] = jnp.ones((32, K))
    grad = jax.grad(lambda v: core.bind(nnx.clone(module), pool() | {name: v})[
        'teacher_logits'][:, 0].sum())(pool()[name])
    assert jnp.abs(grad).max() > 0


# AspectHead


def test_aspect_numbers():
  call, params, stats = pure('aspects')
  params |= {'head/bias': jnp.arange(Q, dtype=jnp.float32)}
  out, _ = call(params, stats, pool())
  f = POOL['student_features'].reshape(B, 16, 7).sum(1) / 16
  close(out['student_aspects'],
        f @ np.asarray(params['head/kernel']) + np.asarray(params['head/bias']))
  one, _ = call(params, stats, pool() | {
      'student_features': [pool()['student_features']]})
  close(one['student_aspects'], out['student_aspects'])


# SampleRatio


def ratio_by_hand(params, seen, i, p):
  """alpha of example i of `p` where `seen` is [(teacher logits, label)]."""
  softmax = lambda z: special.softmax(np.float64(z) / 2.5)
  s, t = (softmax(p[f'{n}_logits'][i]) for n in ('student', 'teacher'))
  g = np.eye(K)[p['labels'][i]]
  m = np.mean([softmax(z) for z, y in seen if y == p['labels'][i]], axis=0)
  x = np.concatenate([s, t, g, m, (m - s)**2, (g - s)**2, (t - s)**2,
                      (t - g)**2, (m - g)**2])
  for layer in range(3):
    x = x @ np.float64(params[f'layers/{layer}/kernel'])
    x += np.float64(params[f'layers/{layer}/bias'])
    if layer < 2:
      x = np.where(x > 0, x, 0.01 * x)
  return special.expit(x[0])


def test_ratio_numbers_over_two_batches():
  """The class means are over all examples so far."""
  call, params, stats = pure('ratio')
  assert params['layers/1/kernel'].shape == (9, 4)
  usual = nnx.eval_shape(lambda: make('SampleRatio'))
  assert [layer.kernel.shape for layer in usual.layers] == [
      (9 * K, 32), (32, 16), (16, 1)]
  seen = []
  for _ in range(2):
    p = POOL | {'teacher_logits': normal(B, K), 'labels': r.integers(K, size=B)}
    seen += list(zip(p['teacher_logits'], p['labels']))
    out, stats = call(params, stats, p | {'key': jax.random.key(3)})
    want = [ratio_by_hand(params, seen, i, p) for i in range(B)]
    close(out['teacher_share'], want)
    close(out['label_share'], 1 - np.array(want))
  assert stats['count'].sum() == 2 * B


def test_ratio_reads_without_gradient():
  module = make('SampleRatio')
  for name in ('student_logits', 'teacher_logits'):
    grad = jax.grad(lambda v: core.bind(nnx.clone(module), pool() | {name: v})[
        'teacher_share'].sum())(pool()[name])
    np.testing.assert_array_equal(grad, 0)


def test_ratio_soft_labels_are_hard_ones_at_a_corner():
  call, params, stats = pure('ratio')
  hard = call(params, stats, pool())
  soft = call(params, stats, pool() | {'labels': jnp.eye(K)[POOL['labels']]})
  for got, want in zip(jax.tree.leaves(soft), jax.tree.leaves(hard)):
    close(got, want)


def test_ratio_bad_label_shows_and_is_not_kept():
  call, params, stats = pure('ratio')
  p = pool() | {'labels': pool()['labels'].at[2].set(K)}
  out, after = call(params, stats, p)
  assert jnp.isnan(out['teacher_share'][2])
  assert jnp.isfinite(jnp.delete(out['teacher_share'], 2)).all()
  assert after['count'].sum() == B - 1
  assert jnp.isfinite(after['total']).all()


# TeacherMixture


def weights_by_hand(how, i, weights):
  p = [special.softmax(np.float64(z[i])) for z in POOL['teachers_logits']]
  g = SOFT[i] if how.endswith('soft') else np.eye(K)[POOL['labels'][i]]
  if how == 'fixed':
    return np.array(weights) / np.sum(weights)
  if how == 'learned':
    return np.exp(weights) / np.sum(np.exp(weights))
  if how.startswith('best'):
    return np.eye(T)[np.argmax([q @ g for q in p])]
  cost = np.array([-np.log(q) @ g for q in p])
  share = np.exp(cost) / np.exp(cost).sum()
  return (1 - share) / (T - 1)


SOFT = r.dirichlet(np.ones(K), B).astype(np.float32)


@pytest.mark.parametrize('how', ['fixed', 'learned', 'confidence', 'best',
                                 'confidence soft', 'best soft'])
def test_mixture_numbers(how):
  weights = dict(fixed=(1, 0, 3), learned=(0.3, -1.2, 0.7)).get(how, ())
  temperature, arrays = 4.0, pool()
  if how.endswith('soft'):
    arrays['labels'] = jnp.asarray(SOFT)
  module = make('TeacherMixture', how=how.split()[0],
                weights=weights if how == 'fixed' else (),
                temperature=temperature)
  if how == 'learned':
    module.scores[...] = jnp.asarray(weights)
  out = core.bind(module, arrays)
  for i in range(B):
    w = weights_by_hand(how, i, weights)
    close(out['teacher_weights'][:, i], w)
    mean = sum(w[t] * special.softmax(
        np.float64(POOL['teachers_logits'][t, i]) / temperature)
               for t in range(T))
    close(jax.nn.softmax(out['teacher_logits'][i] / temperature), mean)
  close(out['teacher_weights'].sum(0), 1)


@pytest.mark.parametrize('how', ['fixed', 'confidence'])
def test_mixture_is_the_weighted_loss(how):
  """kd to the mixture has the gradient of the weighted sum of divergences."""
  out = core.bind(make('TeacherMixture', how=how, temperature=3.0), pool())
  to_mean = lambda z: losses.kd(z, out['teacher_logits'], temperature=3.0).sum()
  each_one = lambda z: sum(
      (w * losses.kd(z, teacher, temperature=3.0)).sum()
      for w, teacher in zip(out['teacher_weights'], pool()['teachers_logits']))
  z = pool()['student_logits']
  close(jax.grad(to_mean)(z), jax.grad(each_one)(z), 1e-4, 1e-6)


def test_learned_mixture_starts_uniform_and_moves_to_the_better():
  call, params, stats = pure('learned')
  close(call(params, stats, pool())[0]['teacher_weights'], 1 / T)
  good = 20 * jnp.eye(K)[POOL['labels']]
  p = pool() | {'teachers_logits': pool()['teachers_logits'].at[1].set(good)}
  grads = jax.grad(lambda params: losses.cross_entropy(
      call(params, stats, p)[0]['teacher_logits'], p['labels']).mean())(params)
  assert jnp.argmin(grads['scores']) == 1 and grads['scores'][1] < 0
  close(grads['scores'].sum(), 0, atol=1e-6)


@pytest.mark.parametrize('how', ['fixed', 'learned', 'confidence', 'best'])
def test_mixture_of_masked_classes(how):
  """-inf in all is -inf, in one is the others'; large logits stay finite."""
  p = pool()
  z = p['teachers_logits'].at[:, :, 2].set(-jnp.inf)
  z = z.at[1, :, 3].set(-jnp.inf) * 1e3
  labels = jnp.array([0, 1, 3, 1, 0, 3])
  call, params, stats = pure(how)
  def loss(params, z):
    out = call(params, stats, {'teachers_logits': z, 'labels': labels})[0]
    return losses.kd(p['student_logits'], out['teacher_logits']).sum(), out
  grads, out = jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True))(params, z)
  np.testing.assert_array_equal(out['teacher_logits'][:, 2], -jnp.inf)
  assert jnp.isfinite(out['teacher_weights']).all()
  if how in ('fixed', 'learned'):
    assert jnp.isfinite(out['teacher_logits'][:, 3]).all()
  for g in jax.tree.leaves(grads):
    assert jnp.isfinite(g).all()
  if how in ('best', 'confidence'):  # the label is excluded by teacher 1
    close(out['teacher_weights'][1, jnp.array([2, 5])], 0)


@pytest.mark.parametrize('how', ['confidence', 'best'])
def test_mixture_bad_label_shows(how):
  p = pool() | {'labels': pool()['labels'].at[2].set(-1)}
  out = core.bind(make('TeacherMixture', how=how), p)
  assert jnp.isnan(out['teacher_logits'][2]).all()
  assert jnp.isfinite(jnp.delete(out['teacher_logits'], 2, 0)).all()


@pytest.mark.parametrize('how', ['fixed', 'learned', 'confidence', 'best'])
def test_mixture_of_one_is_that_one(how):
  arrays = POOL | {'teachers_logits': POOL['teachers_logits'][:1]}
  out = core.bind(make('TeacherMixture', arrays=arrays, how=how), arrays)
  close(out['teacher_logits'],
        special.log_softmax(POOL['teachers_logits'][0], -1))


# AffineAugmentor


def fixed(matrix, images, **kw):
  matrix = jnp.broadcast_to(jnp.float32(matrix), (len(images), 2, 3))
  return affine_sample(jnp.asarray(images), matrix, **kw)


@pytest.mark.parametrize('fill', ['edge', -1.5])
def test_whole_pixels_are_a_roll(fill):
  x = POOL['inputs']
  for down, right in ((2, 0), (0, -1), (-3, 2)):
    got = fixed([[1, 0, -down], [0, 1, -right]], x, fill=fill)
    pad = ((0, 0), (4, 4), (4, 4), (0, 0))
    padded = np.pad(x, pad, 'edge') if fill == 'edge' else np.pad(
        x, pad, constant_values=fill)
    close(got, np.roll(padded, (down, right), (1, 2))[:, 4:-4, 4:-4])


def test_quarter_turn():
  x = normal(B, 7, 7, 2)
  close(fixed([[0, 1, 0], [-1, 0, 0]], x), np.rot90(x, axes=(1, 2)))
  module = make('AffineAugmentor', arrays={'inputs': x}, shift=0., rotate=90.)
  module.log_sigma[...] = jnp.full(1, 20.)  # tanh is 1: a quarter to a side
  eps = np.array([jax.random.normal(jax.random.fold_in(
      jax.random.key(3), i), 5)[2] for i in range(B)])
  assert (eps > 0).any() and (eps < 0).any()
  got = module(jnp.asarray(x), jax.random.key(3))['inputs']
  for i in range(B):
    close(got[i], np.rot90(x[i], 1 if eps[i] > 0 else -1), 1e-4, 1e-4)


@pytest.mark.parametrize('fill,mode', [('edge', 'nearest'),
                                       (0.7, 'grid-constant'),
                                       ((0.7, -0.2, 1.1), 'grid-constant')])
def test_any_map_is_that_of_scipy(fill, mode):
  x = POOL['inputs'].astype(np.float64)
  center = (np.array(x.shape[1:3]) - 1) / 2
  cval = np.broadcast_to(0 if fill == 'edge' else fill, 3)
  matrix = np.array([[1.1, 0.3, 0.4], [-0.2, 0.8, -1.3]])
  got = fixed(matrix, POOL['inputs'], fill=fill)
  a, b = matrix[:, :2], matrix[:, 2]
  for i in range(B):
    for c in range(3):
      close(got[i, ..., c], ndimage.affine_transform(
          x[i, ..., c], a, center + b - a @ center, order=1, mode=mode,
          cval=cval[c]), 1e-4, 1e-5)


def test_content_is_sheared_scaled_turned_shifted():
  """The matrix undoes the product of the four, in this order."""
  module = make('AffineAugmentor', shift=.3, rotate=40., scale=.4, shear=.5,
                initial=.7)
  close(jnp.exp(module.log_sigma[...]), np.full(5, .7))
  key, sigma = jax.random.key(1), np.array([.5, .2, .9, .3, .7])
  module.log_sigma[...] = jnp.log(jnp.asarray(sigma, jnp.float32))
  got = module(jnp.asarray(POOL['inputs']), key)['inputs']
  for i in range(B):
    eps = np.asarray(jax.random.normal(jax.random.fold_in(key, i), 5))
    u = np.tanh(sigma * eps) * [.3 * 8, .3 * 6, np.radians(40), .4, .5]
    turn = np.array([[np.cos(u[2]), -np.sin(u[2])],
                     [np.sin(u[2]), np.cos(u[2])]])
    to = turn @ (np.exp(u[3]) * np.eye(2)) @ np.array([[1, 0], [u[4], 1]])
    back = np.linalg.inv(to)
    want = fixed(np.c_[back, -back @ u[:2]], POOL['inputs'][i:i + 1])
    close(got[i], want[0], 1e-4, 1e-5)


def test_no_spread_is_the_identity():
  for fill in ('edge', 0.5):
    module = make('AffineAugmentor', rotate=30., scale=.2, shear=.2, fill=fill)
    module.log_sigma[...] = jnp.full(5, -jnp.inf)
    out = module(jnp.asarray(POOL['inputs']), jax.random.key(0))['inputs']
    np.testing.assert_array_equal(out, POOL['inputs'])


def test_draws_depend_on_key_and_row_only():
  x = jnp.broadcast_to(pool()['inputs'][:1], (B, 8, 6, 3))
  module = make('AffineAugmentor')
  draw = jax.jit(lambda x, seed: module(x, jax.random.key(seed))['inputs'])
  close(draw(x[:3], 0), draw(x, 0)[:3])
  assert len(np.unique(np.asarray(draw(x, 0)).reshape(B, -1), axis=0)) == B
  assert np.abs(draw(x, 0) - draw(x, 1)).max() > 0.1
  # Allowing another transform, however little, changes nothing else.
  turned = make('AffineAugmentor', rotate=1e-6)(x, jax.random.key(0))['inputs']
  close(turned, draw(x, 0), 1e-3, 1e-4)


def test_shift_stays_in_range_and_spreads_with_sigma():
  """Read off a ramp: the value in the middle is the shift."""
  n = 64
  ramp = np.broadcast_to(np.arange(33., dtype=np.float32)[:, None, None],
                         (n, 33, 33, 1))
  spread = []
  module = make('AffineAugmentor', arrays={'inputs': ramp}, shift=0.25)
  net, params, stats = models.split(module)
  run = jax.jit(lambda params: models.call(net, params, stats, lambda m: m(
      jnp.asarray(ramp), jax.random.key(0)))[0]['inputs'])
  for initial in (0.1, 1 / 3, 100.0):
    out = run({'log_sigma': jnp.full_like(params['log_sigma'],
                                          np.log(initial))})
    moved = np.abs(np.asarray(out[:, 16, 16, 0]) - 16)
    assert moved.max() <= 33 / 4 + 1e-4
    spread.append(moved.mean())
  assert spread[0] < spread[1] < spread[2]
  close(spread[2], 33 / 4, 0.05)


def test_spread_follows_the_gradient():
  """Autodiff by log_sigma is the difference quotient on smooth images."""
  y, x = np.mgrid[:16, :16] / 15
  image = np.sin(3 * y + 2 * x).astype(np.float32)[None, ..., None]
  images = jnp.asarray(np.repeat(image, 4, 0))
  module = make('AffineAugmentor', arrays={'inputs': images}, shift=.2,
                rotate=20., scale=.2, shear=.2)
  net, params, stats = models.split(module)
  assert params['log_sigma'].shape == (5,)
  def loss(v):
    out, _ = models.call(net, {'log_sigma': v}, stats, lambda m: m(
        images, jax.random.key(2)))
    return jnp.mean((out['inputs'] - images)**2)
  grad, loss = jax.jit(jax.grad(loss))(params['log_sigma']), jax.jit(loss)
  for i in range(5):
    step = 0.02 * jnp.eye(5)[i]
    slope = (loss(params['log_sigma'] + step)
             - loss(params['log_sigma'] - step)) / 0.04
    close(grad[i], slope, 0.05, 1e-5)
    assert grad[i] != 0


def test_dtype_is_kept():
  module = make('AffineAugmentor')
  out = module(pool()['inputs'].astype(jnp.bfloat16), jax.random.key(0))
  assert out['inputs'].dtype == jnp.bfloat16


# TaidSchedule


def taid(losses_, **kw):
  """The share before each update, and after the last."""
  net, params, stats = models.split(modules.TaidSchedule(**kw))
  step = jax.jit(lambda stats, loss: models.call(
      net, params, stats, lambda m: m.update(loss), train=True)[1])
  shares = [stats['share']]
  for loss in losses_:
    stats = step(stats, loss)
    shares.append(stats['share'])
  return np.array(shares)


def test_taid_schedule_skips_undefined_changes():
  """Without a loss before, or with 0 there, momentum and share stay."""
  start, end, steps, alpha, beta = 0.2, 0.9, 400, 0.3, 0.8
  seen = [np.nan, 1.3, 0.9, 0.0, 1.1, np.nan, 0.8, 0.7, 0.75]
  t, m, last, want = start, 0.0, 0.0, [start]
  for n, loss in enumerate(seen):
    if np.isfinite(loss):
      if last:
        m = beta * m + (1 - beta) * (last - loss) / last
        t += alpha * special.expit(m) * (1 - t)
      last = loss
    t = min(end, max(t, start + (end - start) * n / steps))
    want.append(t)
  close(taid(seen, start=start, end=end, steps=steps, alpha=alpha, beta=beta),
        want)


# SoftPrompt


def test_soft_prompt_starts_normal():
  prompt = modules.SoftPrompt(rngs=nnx.Rngs(0), width=300, count=9)
  embedding = np.asarray(prompt.embedding[...])
  assert embedding.shape == (9, 300)
  close([embedding.mean(), embedding.std()], [0, 0.02], 0.05, 2e-3)


# Bad input


def bad(name, change, **kw):
  return lambda: make(name, arrays=POOL | change, **kw)


@pytest.mark.parametrize('call,message', [
    (bad('TeacherAdapter', {'teacher_features': normal(B + 1, 8)}),
     r'\(6, 5\) and \(7, 8\)'),
    (bad('TeacherAdapter', {'teacher_features': normal(B)}), r'\(6,\)'),
    (bad('TeacherAdapter', {}, hidden=0), 'hidden must be >= 1, got 0'),
    (bad('TeacherAdapter', {}, width=-1), 'width must be >= 0, got -1'),
    (bad('AspectHead', {'teacher_aspects': normal(B + 1, Q)}),
     r'\(7, 4\) and \(6, 4, 4, 7\)'),
    (bad('AspectHead', {'teacher_aspects': normal(B)}), r'\(6,\)'),
    (bad('SampleRatio', {'teacher_logits': normal(B, K + 1)}),
     r'\(6, 5\) and \(6, 6\)'),
    (bad('SampleRatio', {'labels': normal(B, 2)}), r'\(6, 5\).*got \(6, 2\)'),
    (bad('SampleRatio', {}, temperature=0.0), 'temperature must be > 0'),
    (bad('SampleRatio', {}, hidden=(0,)), 'hidden must be widths'),
    (bad('TeacherMixture', {'teachers_logits': normal(B, K)}),
     r'\[T, B, K\].*\(6, 5\)'),
    (bad('TeacherMixture', {'labels': normal(T)}),
     r'\(3, 6, 5\); got \(3,\)'),
    (bad('TeacherMixture', {}, how='bets'), "Did you mean 'best'"),
    (bad('TeacherMixture', {}, temperature=-1.0), 'temperature must be > 0'),
    (bad('TeacherMixture', {}, weights=(1, 2)), 'must be 3 numbers'),
    (bad('TeacherMixture', {}, weights=(1, -2, 1)), 'must be 3 numbers'),
    (bad('TeacherMixture', {}, weights=(0, 0, 0)), 'must be 3 numbers'),
    (bad('TeacherMixture', {}, weights=(1, float('nan'), 1)),
     'must be 3 numbers'),
    (bad('TeacherMixture', {}, weights=(1, 1, 1), how='best'), "how='fixed'"),
    (lambda: modules.TeacherMixture(POOL['teachers_logits'], how='best',
                                    rngs=nnx.Rngs(0)), 'labels are needed'),
    (bad('AffineAugmentor', {'inputs': normal(B, 8)}), r'\(6, 8\)'),
    (bad('AffineAugmentor', {}, shift=0.0), 'every range is 0'),
    (bad('AffineAugmentor', {}, rotate=-1.0), 'rotate must be >= 0'),
    (bad('AffineAugmentor', {}, initial=0.0), 'initial must be > 0'),
    (bad('AffineAugmentor', {}, fill='zero'), "fill must be 'edge'"),
    (bad('AffineAugmentor', {}, fill=(0.0, 1.0)), 'each channel'),
    (lambda: affine_sample(jnp.zeros((2, 4, 4, 1)), jnp.zeros((3, 2, 3))),
     r'\(2, 4, 4, 1\); got \(3, 2, 3\)')])
def test_bad_input(call, message):
  with pytest.raises(ValueError, match=message):
    call()
