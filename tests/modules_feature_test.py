"""Modules beside feature losses, and the knowledge token of the ViT."""
import functools
import inspect
import pathlib

from flax import nnx
import jax
from jax import numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest

from kt_jax import core
from kt_jax import losses
from kt_jax import models
from kt_jax import modules
from kt_jax.modules import review_fusion

GOLDEN = np.load(pathlib.Path(__file__).parent / 'golden/losses/feature.npz')
B = 4
MAPS = ([(6, 3, 3), (4, 4, 5)], [(3, 6, 4), (4, 4, 6)])
# Module, settings, (student's, teacher's) shapes, loss on its output.
CASES = {
    'projector': ('Projector', dict(depth=3, width=9, relu=True), MAPS, 'hint'),
    'projector_conv': ('Projector', dict(kernel=2, depth=2, norm=True),
                       ([(4, 4, 5)], [(4, 4, 6)]), 'hint'),
    'projector_tokens': ('Projector', dict(norm=True, relu=True),
                         ([(5, 3)], [(5, 4)]), 'activation_boundary'),
    'overhaul': ('OverhaulConnector', dict(momentum=0.8),
                 ([(4, 4, 3), (3,)], [(3, 6, 5), (4,)]), 'overhaul'),
    'factors': ('FactorEncoder', {}, ([(4, 4, 3)], [(6, 5, 4)]),
                'factor_transfer'),
    'factors_norm': ('FactorEncoder', dict(norm=True, rate=0.75),
                     ([(7, 3)], [(7, 4)]), 'factor_transfer'),
    'vid': ('VariationalRegressor', dict(width=8, variance=2.5, floor=0.3),
            ([(6, 3, 3), (5,)], [(3, 6, 4), (6,)]), 'vid'),
    'review': ('ReviewFusion', {}, ([(4, 4, 5), (6,)], [(2, 4, 7), (5,)]),
               'review_kd'),
}
each = pytest.mark.parametrize('name', CASES)


def one_or_list(features):
  return features if len(features) > 1 else features[0]


def arrays(name, seed=0):
  """A case's features, one layer as an array."""
  r = np.random.default_rng(seed)
  draw = lambda shapes: one_or_list([
      jnp.asarray(r.normal(size=(B, *s)), jnp.float32) for s in shapes])
  student, teacher = CASES[name][2]
  return {'student_features': draw(student), 'teacher_features': draw(teacher)}


def struct(*shapes):
  return one_or_list(
      [jax.ShapeDtypeStruct((B, *s), jnp.float32) for s in shapes])


def make(name, seed=0):
  cls, settings, (student, teacher), _ = CASES[name]
  return getattr(modules, cls)(struct(*student), struct(*teacher),
                               rngs=nnx.Rngs(seed), **settings)


def pure(name):
  """`(params, stats, pool) -> (arrays of the loss, stats)` and its arrays."""
  net, params, stats = models.split(make(name))
  def call(params, stats, pool):
    out, stats = models.call(net, params, stats,
                             lambda m: core.bind(m, pool), train=True)
    return pool | out, stats
  return call, params, stats


def total(name, pool):
  """The loss, and the second term of a paraphraser."""
  where = pool.get('where')
  loss = core.masked_mean(
      core.bind(getattr(losses, CASES[name][3]), pool), where)
  if 'reconstruction' in pool:
    loss += core.masked_mean(
        losses.hint(pool['reconstruction'], pool['original']), where)
  return loss


def close(got, want, rtol=1e-5, atol=1e-5):
  jax.tree.map(lambda g, w: np.testing.assert_allclose(
      np.asarray(g), np.asarray(w), rtol=rtol, atol=atol), got, want)


@functools.cache
def run(name):
  """Jitted `(params, stats, pool) -> (loss, out, stats, gradients)`."""
  call, params, stats = pure(name)
  def loss(params, pool, stats):
    out, after = call(params, stats, pool)
    return total(name, out), (out, after)
  @jax.jit
  def both(params, stats, pool):
    features = {n: v for n, v in pool.items() if n != 'where'}
    grad = jax.value_and_grad(
        lambda p, f: loss(p, pool | f, stats), (0, 1), has_aux=True)
    (value, (out, after)), grads = grad(params, features)
    return value, out, after, grads
  return both, params, stats


@each
def test_construction_reads_shapes_only(name):
  net = models.abstract(lambda: make(name))
  assert set(net.kinds) <= {'param', 'stat'}
  parameters = inspect.signature(
      getattr(modules, CASES[name][0]).__init__).parameters
  assert list(parameters)[:3] == ['self', 'student_features',
                                  'teacher_features']
  assert all(p.kind is p.KEYWORD_ONLY for p in list(parameters.values())[3:])


@each
def test_output_feeds_the_loss_and_every_parameter_learns(name):
  both, params, stats = run(name)
  p = arrays(name)
  value, out, after, (grads, to_features) = both(params, stats, p)
  assert jnp.isfinite(value)
  if CASES[name][0] != 'FactorEncoder':
    got, want = (jax.tree.map(jnp.shape, q) for q in (
        out['student_features'], p['teacher_features']))
    if name == 'vid':  # on the coarser grid, and so will be the teacher
      assert [s[-1] for s in got] == [s[-1] for s in want]
    else:
      assert got == want
  assert set(grads) == set(params) and params
  for path, g in grads.items():
    assert jnp.isfinite(g).all() and (jnp.abs(g).max() > 1e-7), path
  for g in jax.tree.leaves(to_features['student_features']):
    assert jnp.isfinite(g).all() and (jnp.abs(g).max() > 0)
  assert set(after) == set(stats)
  for path in stats:
    assert (after[path] != stats[path]).any(), path


@each
def test_bfloat16_features_come_back_in_float32(name):
  call, params, stats = pure(name)
  narrow = jax.tree.map(lambda v: v.astype(jnp.bfloat16), arrays(name))
  out, after = jax.eval_shape(call, params, stats, narrow)
  if CASES[name][0] != 'FactorEncoder':
    del out['teacher_features']  # unchanged
  for leaf in jax.tree.leaves((out, after)):
    assert leaf.dtype == jnp.float32


def padded(p):
  """With three more rows, of NaN."""
  return jax.tree.map(lambda v: jnp.concatenate(
      [v, jnp.full((3, *v.shape[1:]), jnp.nan)]), p)


@each
def test_padding(name):
  """Padded rows change no valid row, gradient or state."""
  both, params, stats = run(name)
  p = arrays(name)
  more = padded(p) | {'where': jnp.arange(B + 3) < B}
  _, want, want_after, want_grads = both(params, stats, p)
  _, got, after, grads = both(params, stats, more)
  fixed = lambda v: v[:B] if v.ndim > 1 or len(v) == B + 3 else v
  for n in want:
    if n != 'teacher_features':
      close(jax.tree.map(fixed, got[n]), want[n])
  close(after, want_after)
  close(grads[0], want_grads[0])
  close(jax.tree.map(fixed, grads[1]['student_features']),
        want_grads[1]['student_features'])
  for g in jax.tree.leaves(grads[1]['student_features']):
    np.testing.assert_array_equal(g[B:], 0)


@each
def test_no_valid_row_leaves_the_state(name):
  both, params, stats = run(name)
  p = padded(arrays(name)) | {'where': jnp.zeros(B + 3, bool)}
  _, out, after, (grads, _) = both(params, stats, p)
  close(after, stats, rtol=0, atol=0)
  assert all(jnp.isfinite(v).all() for v in jax.tree.leaves(grads))
  for v in jax.tree.leaves({n: v for n, v in out.items()
                            if n != 'teacher_features'}):
    assert jnp.isfinite(v).all()


@pytest.mark.parametrize('name', ['overhaul', 'review'])
def test_sharded_batch_has_the_statistics_of_the_whole(name):
  if jax.device_count() < 2:
    pytest.skip('one device: XLA_FLAGS simulates eight in conftest')
  mesh = jax.make_mesh((2,), ('data',), devices=jax.devices()[:2],
                       axis_types=(jax.sharding.AxisType.Auto,))
  call, params, stats = pure(name)
  p = arrays(name)
  placed = jax.device_put(p, NamedSharding(mesh, P('data')))
  call = jax.jit(call)
  close(call(params, stats, placed), call(params, stats, p))


def layer(params, path, x, activation=lambda x: x):
  """`(x, {name: statistic})` of one block, by hand and in float64."""
  get = lambda n: params.get(f'{path}/{n}')
  kernel, bias = (get(f'linear/{n}') for n in ('kernel', 'bias'))
  if kernel.ndim == 4:
    k = len(kernel)
    pad = (k // 2, k - 1 - k // 2)
    x = np.pad(x, [(0, 0), pad, pad, (0, 0)])
    x = np.lib.stride_tricks.sliding_window_view(x, (k, k), (1, 2))
    x = np.einsum('bhwcij,ijcd->bhwd', x, kernel)
  else:
    x = x @ np.float64(kernel)
  x = x if bias is None else x + bias
  stats = {}
  if get('norm/scale') is not None:
    axes = tuple(range(x.ndim - 1))
    mean, var = x.mean(axes), x.var(axes)
    stats = {f'{path}/norm/mean': 0.1 * mean,
             f'{path}/norm/var': 0.9 + 0.1 * var}
    x = (x - mean) / np.sqrt(var + 1e-5) * get('norm/scale') + get('norm/bias')
  return activation(x), stats


def relu(x):
  return np.maximum(x, 0)


def leaky(x):
  return np.where(x > 0, x, 0.1 * x)


def moved(params):
  """Parameters with no bias of 0 and no scale of 1."""
  r = np.random.default_rng(1)
  return {n: v + jnp.asarray(0.2 * r.normal(size=v.shape), v.dtype)
          for n, v in params.items()}


@pytest.mark.parametrize('name,blocks', [
    ('projector', [('1/0', relu), ('1/1', relu), ('1/2', relu)]),
    ('projector_conv', [('0/0', relu), ('0/1', None)]),
    ('projector_tokens', [('0/0', relu)])])
def test_projector_numbers(name, blocks):
  """Of the last layer, whose grid stays."""
  both, params, stats = run(name)
  params, p = moved(params), arrays(name)
  _, out, after, _ = both(params, stats, p)
  last = lambda v: v[-1] if isinstance(v, list) else v
  x = np.float64(last(p['student_features']))
  for path, activation in blocks:
    x, want = layer(params, f'layers/{path}', x, activation or (lambda x: x))
    close({n: after[n] for n in want}, want)
  close(last(out['student_features']), x, 1e-4, 1e-4)


def test_factor_encoder_numbers():
  both, params, stats = run('factors_norm')
  params, p = moved(params), arrays('factors_norm')
  _, out, after, _ = both(params, stats, p)
  statistics = {}
  def stack(name, x):
    for i in range(3):
      x, more = layer(params, f'{name}/{i}', x, leaky)
      statistics.update(more)
    return x
  s, t = (np.float64(p[f'{n}_features']) for n in ('student', 'teacher'))
  factors = stack('encoder', t)
  assert factors.shape == (B, 7, 3)  # 0.75 times 4
  close(out['teacher_features'], factors, 1e-4, 1e-4)
  close(out['student_features'], stack('translator', s), 1e-4, 1e-4)
  close(out['reconstruction'], stack('decoder', factors), 1e-4, 1e-4)
  close(out['original'], t)
  close(after, statistics, 1e-4, 1e-4)


def test_projector_keeps_lists_and_single_layers():
  single = modules.Projector(struct((3,)), struct((4,)), rngs=nnx.Rngs(0))
  x = jnp.ones((B, 3))
  assert single(x)['student_features'].shape == (B, 4)
  assert isinstance(single([x])['student_features'], list)


@pytest.mark.parametrize('grid', ['9/14', '7/10', '3/4'])
def test_projector_resizes_as_torch(grid):
  """Finer: bilinear, behind the map; coarser: adaptive means, before it."""
  x = jnp.asarray(GOLDEN['pool/x'])
  h, w = map(int, grid.split('/'))
  net = modules.Projector(
      x, jax.ShapeDtypeStruct((2, h, w, 3), jnp.float32), rngs=nnx.Rngs(0))
  net.layers[0][0].linear.kernel[...] = jnp.eye(3)
  key = f'resize/bilinear/{grid}'
  want = GOLDEN[key] if key in GOLDEN else (
      GOLDEN[f'pool/{grid}'] if grid == '3/4' else x)
  close(net(x)['student_features'], want)


@pytest.mark.parametrize('grid', ['3/9', '10/4', '9/14'])
def test_nearest_is_torchs(grid):
  x = jnp.asarray(GOLDEN['pool/x'])
  np.testing.assert_array_equal(
      review_fusion.nearest(x, tuple(map(int, grid.split('/')))),
      GOLDEN[f'resize/nearest/{grid}'])


def load(name, params):
  """The stored parameters, in place of `params`."""
  start = f'{name}/param/'
  stored = {n.removeprefix(start): jnp.asarray(GOLDEN[n], jnp.float32)
            for n in GOLDEN.files if n.startswith(start)}
  assert jax.tree.map(jnp.shape, stored) == jax.tree.map(jnp.shape, params)
  return stored


def test_review_fusion_is_torchs():
  features = lambda side: [jnp.asarray(GOLDEN[f'review/{side}/{i}'])
                           for i in range(3)]
  s, t = features('student'), features('teacher')
  net, params, stats = models.split(
      modules.ReviewFusion(s, t, width=4, rngs=nnx.Rngs(0)))
  out, after = jax.jit(lambda params: models.call(
      net, params, stats, lambda m: m(s), train=True))(load('review', params))
  for i, got in enumerate(out['student_features']):
    assert got.shape == t[i].shape
    if i < 2:
      close(got, GOLDEN[f'review/out/{i}'], rtol=1e-4)
  # The deepest has two rows of one cell: BatchNorm leaves little but signs.
  close(out['student_features'][2], GOLDEN['review/out/2'], rtol=2e-3,
        atol=2e-3)
  for path in after:
    if path.endswith('mean'):
      close(after[path], GOLDEN[f'review/stat/{path}'])


def test_review_fusion_width():
  """The deepest layer's, at most 512; two attentions for three layers."""
  net = models.abstract(lambda: modules.ReviewFusion(
      struct((4, 4, 8), (2, 2, 16), (7,)), struct((4, 4, 8), (2, 2, 16), (9,)),
      rngs=nnx.Rngs(0)))
  assert sum('attention/linear/kernel' in n for n in net.names) == 2
  model = nnx.eval_shape(lambda: modules.ReviewFusion(
      struct((4, 4, 8), (700,)), struct((4, 4, 8), (9,)), rngs=nnx.Rngs(0)))
  assert model.fusions[1].conv1.linear.kernel.shape == (700, 512)
  assert model.fusions[0].conv2.linear.kernel.shape == (3, 3, 512, 8)


def test_factor_encoder_is_torchs():
  s = jnp.asarray(GOLDEN['same/student/0'])
  t = jnp.asarray(GOLDEN['grids/teacher/0'])
  net, params, stats = models.split(
      modules.FactorEncoder(s, t, rngs=nnx.Rngs(0)))
  out, _ = jax.jit(lambda params: models.call(
      net, params, stats, lambda m: m(s, t)))(load('factor', params))
  for ours, theirs in (('student_features', 'translator'),
                       ('teacher_features', 'encoder'),
                       ('reconstruction', 'decoder')):
    close(out[ours], GOLDEN[f'factor/out/{theirs}'])
  np.testing.assert_array_equal(out['original'], t)


def test_factor_transfer_does_not_move_the_paraphraser():
  call, params, stats = pure('factors')
  p = arrays('factors')
  def loss(params, second):
    out, _ = call(params, stats, p)
    if second:
      return losses.hint(out['reconstruction'], out['original']).sum()
    return core.bind(losses.factor_transfer, out).sum()
  for second in (False, True):
    grads = jax.jit(jax.grad(loss), static_argnums=1)(params, second)
    for path, g in grads.items():
      assert (jnp.abs(g).max() > 0) == (
          path.startswith('translator') != second), path


def test_variational_regressor_numbers():
  both, params, stats = run('vid')
  p = arrays('vid')
  _, out, _, _ = both(params, stats, p)
  close(out['variance'], [np.full(4, 2.5), np.full(6, 2.5)])
  w = [params[f'layers/1/{i}/linear/kernel'] for i in range(3)]
  assert [x.shape for x in w] == [(5, 8), (8, 8), (8, 6)]
  mean = relu(relu(p['student_features'][1] @ w[0]) @ w[1]) @ w[2]
  close(out['student_features'][1], mean)
  low = both(params | {'raw/0': jnp.full(4, -1e4), 'raw/1': jnp.ones(6)}, stats,
             p)[1]
  close(low['variance'], [np.full(4, 0.3), np.full(6, 0.3 + np.log1p(np.e))])


def test_margin_is_the_mean_of_negatives():
  both, params, stats = run('overhaul')
  p, q = arrays('overhaul'), arrays('overhaul', seed=1)
  t, u = (np.array(x['teacher_features'][1]) for x in (p, q))
  t[:, 0], u[:, 0] = np.abs(t[:, 0]), np.abs(u[:, 0])  # never negative
  p['teacher_features'][1], q['teacher_features'][1] = map(jnp.asarray, (t, u))
  _, out, stats, _ = both(params, stats, p)
  mean = lambda x: np.minimum(x, 0).sum(0) / np.maximum((x < 0).sum(0), 1)
  close(out['margin'][1], mean(t))
  _, out, _, _ = both(params, stats, q)
  weigh = lambda f: 0.8 * f(t).sum(0) + f(u).sum(0)
  count = weigh(lambda x: (x < 0).astype(float))
  close(out['margin'][1],
        weigh(lambda x: np.minimum(x, 0)) / np.maximum(count, 1), rtol=1e-4)


def test_margin_tends_to_the_closed_form():
  """E[x | x < 0] of a Gaussian, which the authors compute from BatchNorm."""
  from scipy import stats as st
  mean, std = np.array([0.5, -0.3, 1.0]), np.array([1.0, 0.5, 2.0])
  x = st.norm.rvs(mean, std, size=(100_000, 3), random_state=0)
  net = modules.OverhaulConnector(
      jax.ShapeDtypeStruct((1, 2), jnp.float32),
      jax.ShapeDtypeStruct((1, 3), jnp.float32), rngs=nnx.Rngs(0))
  out = net(jnp.zeros((len(x), 2)), jnp.asarray(x, jnp.float32))
  want = mean - std * st.norm.pdf(mean / std) / st.norm.cdf(-mean / std)
  close(out['margin'], want, rtol=1e-2)


def module(cls, student, teacher, **kw):
  return lambda: getattr(modules, cls)(student, teacher, rngs=nnx.Rngs(0), **kw)


V, M, N = struct((3,)), struct((4, 4, 3)), struct((5, 3))
BAD = {
    'projector rank': (module('Projector', M, V),
                       r'Projector: layer 0.*\(4, 4, 4, 3\).*\(4, 3\)'),
    'projector layers': (module('Projector', [M, M], [M]), 'Projector: .*2.*1'),
    'projector tokens': (module('Projector', N, struct((6, 3))),
                         r'\(4, 5, 3\).*\(4, 6, 3\)'),
    'projector kernel': (module('Projector', V, V, kernel=3), 'must be 4'),
    'projector depth': (module('Projector', V, V, depth=0),
                        'depth must be > 0, got 0'),
    'overhaul momentum': (module('OverhaulConnector', V, V, momentum=1),
                          r'momentum must be in \[0, 1\), got 1'),
    'overhaul rank': (module('OverhaulConnector', M, V), 'OverhaulConnector'),
    'factor layers': (module('FactorEncoder', [M, M], [M, M]),
                      'must be one layer, got 2'),
    'factor rate': (module('FactorEncoder', M, M, rate=0), 'rate.*got 0'),
    'factor tokens': (module('FactorEncoder', N, struct((6, 3))),
                      r'FactorEncoder: layer 0.*\(4, 6, 3\)'),
    'vid variance': (module('VariationalRegressor', V, V, variance=0),
                     'variance must be > floor.*got 0'),
    'vid floor': (module('VariationalRegressor', V, V, floor=0), 'floor'),
    'vid rank': (module('VariationalRegressor', V, M), 'VariationalRegressor'),
    'review tokens': (module('ReviewFusion', N, N), '2 or 4'),
    'review width': (module('ReviewFusion', M, M, width=-1), 'width.*-1'),
}


@pytest.mark.parametrize('name', BAD)
def test_bad_input_fails_at_the_door(name):
  call, message = BAD[name]
  with pytest.raises(ValueError, match=message):
    call()


@functools.cache
def vit(tokens):
  return models.init(models.builder(
      'vit_tiny', classes=3, input_shape=(8, 8, 1), depth=1, width=8, heads=2,
      patch=4, knowledge_tokens=tokens))


def test_knowledge_token_is_one_more_parameter():
  x = np.random.default_rng(0).normal(size=(4, 8, 8, 1)).astype(np.float32)
  plain, with_token = vit(0), vit(2)
  assert set(with_token[1]) - set(plain[1]) == {'knowledge_token'}
  assert with_token[1]['knowledge_token'].shape == (1, 2, 8)
  for path, v in plain[1].items():
    np.testing.assert_array_equal(v, with_token[1][path], err_msg=path)
  taps = ['stem', 'blocks/0', 'blocks/0/attention/weights']
  shapes = lambda net, params, stats: {
      n: v.shape for n, v in jax.eval_shape(lambda: models.apply(
          net, params, stats, x, taps=taps)).features.items()}
  assert shapes(*plain) == {'stem': (4, 5, 8), 'blocks/0': (4, 5, 8),
                            'blocks/0/attention/weights': (4, 2, 5, 5)}
  assert shapes(*with_token) == {'stem': (4, 5, 8), 'blocks/0': (4, 7, 8),
                                 'blocks/0/attention/weights': (4, 2, 7, 7)}


def test_knowledge_tokens_have_no_position():
  """Their order changes nothing; what they hold does."""
  net, params, stats = vit(2)
  x = np.random.default_rng(0).normal(size=(4, 8, 8, 1)).astype(np.float32)
  logits = jax.jit(lambda token: models.apply(
      net, params | {'knowledge_token': token}, stats, x).logits)
  token = 5 * params['knowledge_token']
  close(logits(token[:, ::-1]), logits(token))
  assert jnp.abs(logits(token) - logits(-token)).max() > 1e-4


def test_knowledge_token_learns_alone():
  net, params, stats = vit(2)
  x = np.random.default_rng(0).normal(size=(4, 8, 8, 1)).astype(np.float32)
  goal = jnp.eye(4, 3)
  def loss(token):
    logits = models.apply(
        net, params | {'knowledge_token': token}, stats, x).logits
    return losses.knowledge_token(logits, goal, goal).mean()
  step = jax.jit(jax.value_and_grad(loss))
  token = params['knowledge_token']
  first, grad = step(token)
  for _ in range(20):
    token -= 0.3 * grad
    last, grad = step(token)
  assert last < first


def test_knowledge_tokens_cannot_be_negative():
  with pytest.raises(ValueError, match='knowledge_tokens must be >= 0, got -1'):
    vit(-1)
