"""Architectures: shapes, sizes, taps, modes, numbers."""
import inspect
import math

from flax import nnx
import jax
from jax import numpy as jnp
import numpy as np
import pytest
from scipy import special

from kt_jax import core
from kt_jax import models

CLASSES = 3
DIGITS, MNIST, CIFAR = (8, 8, 1), (28, 28, 1), (32, 32, 3)
_CIFAR_RESNET = {'depth': 8, 'widths': [4, 6, 8]}  # a list, as configs give it
_WRN = {'depth': 10, 'widths': (4, 6, 8), 'stem': 4}
_RESNET = {'depths': (1, 1), 'widths': (8, 12), 'stem': 4}
_VGG = {'widths': (4, 4, 6, 6, 8)}
_MOBILE = {'width': 0.1, 'stages': ((1, 16, 1, 1), (6, 24, 2, 2)),
           'strides': (1, 1, 2), 'last': 16}
_VIT = {'depth': 1, 'width': 8, 'heads': 2, 'patch': 4}
_MIXER = {'depth': 1, 'width': 8, 'patch': 4}

# Constructor -> sizes that make it tiny, and a shape to try them on.
TINY = {
    'mlp': ({'width': 4}, DIGITS),
    'residual_mlp': ({'width': 6, 'depth': 2}, DIGITS),
    'convnet': ({'widths': (4, 6, 8)}, DIGITS),
    'resnet8': (_CIFAR_RESNET, DIGITS), 'resnet14': (_CIFAR_RESNET, MNIST),
    'resnet20': (_CIFAR_RESNET, CIFAR), 'resnet32': (_CIFAR_RESNET, DIGITS),
    'resnet44': (_CIFAR_RESNET, MNIST), 'resnet56': (_CIFAR_RESNET, CIFAR),
    'resnet110': (_CIFAR_RESNET, DIGITS),
    'resnet8x4': (_CIFAR_RESNET | {'stem': 3}, DIGITS),
    'resnet32x4': (_CIFAR_RESNET, DIGITS),
    'wrn_16_1': (_WRN, DIGITS), 'wrn_16_2': (_WRN, MNIST),
    'wrn_40_1': (_WRN, CIFAR), 'wrn_40_2': (_WRN, DIGITS),
    'wrn_28_10': (_WRN, DIGITS),
    'resnet18': (_RESNET, CIFAR), 'resnet34': (_RESNET, DIGITS),
    'resnet50': (_RESNET, (17, 33, 2)),
    'vgg8': (_VGG, DIGITS), 'vgg11': (_VGG, MNIST), 'vgg13': (_VGG, CIFAR),
    'vgg16': (_VGG, DIGITS), 'vgg19': (_VGG, (64, 64, 3)),
    'mobilenet_v2': (_MOBILE, DIGITS),
    'mobilenet_v2_half': (_MOBILE, DIGITS),
    'vit_tiny': (_VIT, DIGITS), 'vit_small': (_VIT, MNIST),
    'vit_base': (_VIT, (8, 12, 3)),
    'mixer_small': (_MIXER, DIGITS), 'mixer_base': (_MIXER, (8, 12, 3)),
}

# One constructor of each family -> taps that methods compare.
BLOCK = 'stages/1/blocks/0'
FAMILIES = {
    'mlp': ['blocks/1', 'blocks/1/linear'],
    'residual_mlp': ['stem', 'blocks/1', 'blocks/1/up', 'norm'],
    'convnet': ['blocks/0', 'blocks/2/norm', 'blocks/2/act'],
    'resnet8': ['stem', 'stem/norm', 'stages/2', f'{BLOCK}/add', f'{BLOCK}/act',
                f'{BLOCK}/shortcut', f'{BLOCK}/conv1/act'],
    'wrn_16_2': ['stem', 'stages/2', f'{BLOCK}/add', f'{BLOCK}/norm1',
                 f'{BLOCK}/act2', 'norm', 'act'],
    'resnet18': ['stem', 'stages/1', f'{BLOCK}/add', f'{BLOCK}/units/0/norm'],
    'vgg8': ['stages/4', 'stages/4/blocks/0', 'stages/4/blocks/0/norm'],
    'mobilenet_v2': ['stem', 'stages/0', f'{BLOCK}/units/2/norm',
                     'stages/1/blocks/1/add', 'last'],
    'vit_tiny': ['stem', 'blocks/0', 'blocks/0/attention/query',
                 'blocks/0/attention/weights', 'blocks/0/attention/context',
                 'blocks/0/add1', 'blocks/0/norm2', 'blocks/0/act',
                 'blocks/0/add2', 'norm'],
    'mixer_small': ['stem', 'blocks/0/add1', 'blocks/0/token_mlp/act',
                    'blocks/0/add2', 'norm'],
}


def _build(name, classes, shape, **kw):
  return models.builder(name, classes=classes, input_shape=shape, **kw)


def _shapes(build):
  """`(net, params, stats)`, the arrays as shapes."""
  net = models.abstract(build)
  return net, *jax.eval_shape(lambda: models.arrays(net, build()))


def _taps(build, shape):
  x = jax.ShapeDtypeStruct((2, *shape), jnp.float32)
  return models.taps(*_shapes(build), x)


def _filled(name, shape, **kw):
  """`(net, params, stats, x)`: random everywhere, without compiling."""
  net, *trees = _shapes(_build(name, CLASSES, shape, **kw))
  r = np.random.default_rng(0)
  def fill(path, v):
    if path.endswith(('/var', '/scale')):
      return (0.5 + r.random(v.shape)).astype(np.float32)
    fan = np.prod(v.shape[:-1]) if len(v.shape) > 1 else 4
    return (r.normal(size=v.shape) / np.sqrt(fan)).astype(np.float32)
  params, stats = ({p: jnp.asarray(fill(p, v)) for p, v in tree.items()}
                   for tree in trees)
  return net, params, stats, r.normal(size=(4, *shape)).astype(np.float32)


def _tiny(name, **kw):
  sizes, shape = TINY[name]
  return _filled(name, shape, **sizes, **kw)


# Forward passes by hand, in float64.


def linear(p, path, x):
  return x @ p[f'{path}/kernel'] + p.get(f'{path}/bias', 0)


def relu(x):
  return np.maximum(x, 0)


def relu6(x):
  return np.clip(x, 0, 6)


def gelu(x):
  return x * special.ndtr(x)


def conv(p, path, x, stride=1):
  kernel = p[f'{path}/kernel']
  k = len(kernel)
  x = np.pad(x, [(0, 0), (k // 2,) * 2, (k // 2,) * 2, (0, 0)])
  x = np.lib.stride_tricks.sliding_window_view(x, (k, k), (1, 2))
  x = x[:, ::stride, ::stride]
  depthwise = kernel.shape[2] == 1 and x.shape[3] > 1
  x = np.einsum('bhwcij,ijc->bhwc', x, kernel[:, :, 0]) if depthwise else (
      np.einsum('bhwcij,ijcd->bhwd', x, kernel))
  return x + p.get(f'{path}/bias', 0)


def batch_norm(p, path, x):
  scale, bias, mean, var = (p[f'{path}/{n}'] for n in (
      'scale', 'bias', 'mean', 'var'))
  return (x - mean) / np.sqrt(var + 1e-5) * scale + bias


def layer_norm(p, path, x, eps):
  x = x - x.mean(-1, keepdims=True)
  x /= np.sqrt((x**2).mean(-1, keepdims=True) + eps)
  return x * p[f'{path}/scale'] + p[f'{path}/bias']


def conv_norm(p, path, x, stride=1, act=lambda x: x):
  return act(batch_norm(p, f'{path}/norm', conv(p, f'{path}/conv', x, stride)))


def head(p, x):
  return linear(p, 'head', x.reshape(len(x), -1, x.shape[-1]).mean(1))


def mlp(p, x):
  x = x.reshape(len(x), -1)
  for i in range(3):
    x = relu(linear(p, f'blocks/{i}/linear', x))
  return linear(p, 'head', x)


def residual_mlp(p, x):
  x = linear(p, 'stem', x.reshape(len(x), -1))
  for i in range(2):
    y = relu(linear(p, f'blocks/{i}/up', layer_norm(
        p, f'blocks/{i}/norm', x, 1e-6)))
    x = x + linear(p, f'blocks/{i}/down', y)
  return linear(p, 'head', layer_norm(p, 'norm', x, 1e-6))


def convnet(p, x):
  for i, stride in enumerate((1, 2)):
    x = conv_norm(p, f'blocks/{i}', x, stride, relu)
  return head(p, x)


def resnet8(p, x):
  x = conv_norm(p, 'stem', x, act=relu)
  for i, stride in enumerate((1, 2, 2)):
    path = f'stages/{i}/blocks/0'
    y = conv_norm(p, f'{path}/conv2', conv_norm(
        p, f'{path}/conv1', x, stride, relu))
    x = relu(y + conv_norm(p, f'{path}/shortcut', x, stride))
  return head(p, x)


def wrn(p, x):
  x = conv(p, 'stem', x)
  for i, j, stride in ((0, 0, 1), (0, 1, 1), (1, 0, 2), (1, 1, 1), (2, 0, 2),
                       (2, 1, 1)):
    path = f'stages/{i}/blocks/{j}'
    y = relu(batch_norm(p, f'{path}/norm1', x))
    if j == 0:
      x = conv(p, f'{path}/shortcut', y, stride)
    y = conv(p, f'{path}/conv1', y, stride)
    x = x + conv(p, f'{path}/conv2', relu(batch_norm(p, f'{path}/norm2', y)))
  return head(p, relu(batch_norm(p, 'norm', x)))


def vgg(p, x):
  for i, depth in enumerate((1, 2)):
    for j in range(depth):
      x = conv_norm(p, f'stages/{i}/blocks/{j}', x, act=relu)
    if i == 1:
      x = x.reshape(len(x), x.shape[1] // 2, 2, -1, 2, x.shape[3]).max((2, 4))
  return head(p, x)


def mobilenet_v2(act):
  def forward(p, x):
    x = conv_norm(p, 'stem', x, 2, act)
    for path, stride, units in (('stages/0/blocks/0', 1, 3),
                                ('stages/1/blocks/0', 2, 3),
                                ('stages/1/blocks/1', 1, 3)):
      y = x
      for k in range(units):
        y = conv_norm(p, f'{path}/units/{k}', y, stride if k == 1 else 1,
                      act if k < units - 1 else lambda x: x)
      x = x + y if x.shape == y.shape else y
    return head(p, conv_norm(p, 'last', x, act=act))
  return forward


def mixer(p, x):
  b, h, w, c = x.shape
  patches = x.reshape(b, h // 4, 4, w // 2, 2, c).transpose(0, 1, 3, 2, 4, 5)
  x = patches.reshape(b, -1, 8 * c) @ p['stem/conv/kernel'].reshape(8 * c, -1)
  x = x + p['stem/conv/bias']
  for i in range(2):
    path = f'blocks/{i}'
    branch = lambda name, y: linear(p, f'{path}/{name}/fc2', gelu(
        linear(p, f'{path}/{name}/fc1', y)))
    y = layer_norm(p, f'{path}/norm1', x, 0.3).swapaxes(1, 2)
    x = x + branch('token_mlp', y).swapaxes(1, 2)
    x = x + branch('channel_mlp', layer_norm(p, f'{path}/norm2', x, 0.3))
  return head(p, layer_norm(p, 'norm', x, 0.3))


# Those without reference numbers in tests/golden: sizes, shape, forward pass.
NUMBERS = {
    'mlp': (dict(width=7, depth=3), (3, 2, 2), mlp),
    'residual_mlp': (dict(width=6, depth=2), (3, 2, 2), residual_mlp),
    'convnet': (dict(widths=(4, 6)), (5, 6, 2), convnet),
    'resnet8': (dict(widths=(4, 6, 8), stem=3), (6, 7, 2), resnet8),
    'wrn_16_2': (dict(widths=(4, 6, 8), stem=3), (6, 7, 2), wrn),
    'vgg8': (dict(depths=(1, 2), widths=(4, 6), pools=(False, True)), (4, 6, 2),
             vgg),
    'mobilenet_v2': (dict(width=0.5, stages=((2, 8, 1, 1), (3, 12, 2, 2)),
                          stem=6, last=10, divisor=2), (8, 6, 2),
                     mobilenet_v2(relu6)),
    'mobilenet_v2_half': (dict(stages=((1, 8, 1, 1), (3, 12, 2, 2)),
                               strides=(2, 1, 2), stem=6, last=10), (8, 6, 2),
                          mobilenet_v2(relu)),
    'mixer_small': (dict(width=6, depth=2, patch=(4, 2), token_hidden=5,
                         hidden=7, eps=0.3), (8, 6, 2), mixer),
}


@pytest.mark.parametrize('name', NUMBERS)
def test_numbers(name):
  kw, shape, by_hand = NUMBERS[name]
  net, params, stats, x = _filled(name, shape, **kw)
  got = jax.jit(lambda p, s, x: models.apply(net, p, s, x).logits)(
      params, stats, x)
  p = {n: np.float64(v) for n, v in (params | stats).items()}
  want = by_hand(p, np.float64(x))
  assert np.ptp(want, axis=0).max() > 5e-3
  np.testing.assert_allclose(got, want, 1e-4, 1e-4)


# Everything dropped: a tap is then the other one, or zero.
DROPPED = [
    ('mlp', {'dropout': 1.0}, 'head', 'head/bias'),
    ('convnet', {'dropout': 1.0}, 'head', 'head/bias'),
    ('mobilenet_v2', {'dropout': 1.0}, 'head', 'head/bias'),
    ('wrn_16_1', {'dropout': 1.0}, f'{BLOCK}/add', f'{BLOCK}/shortcut'),
    ('mixer_small', {'dropout': 1.0}, 'blocks/0/add2', 'stem'),
    ('vit_tiny', {'dropout': 1.0}, 'blocks/0/add2', ''),
    ('vit_tiny', {'attention_dropout': 1.0}, 'blocks/0/attention/context', ''),
]


@pytest.mark.parametrize('name,kw,tap,other', DROPPED)
def test_dropout(name, kw, tap, other):
  net, params, stats, x = _tiny(name, **kw)
  taps = [tap] + [other] * (other not in ('', 'head/bias'))
  out = jax.jit(lambda p, s, x: models.apply(
      net, p, s, x, train=True, key=jax.random.key(0), taps=taps).features)(
          params, stats, x)
  want = out.get(other, params.get(other, 0.0))
  assert not other or np.abs(want).max() > 0
  np.testing.assert_array_equal(out[tap], np.broadcast_to(want, out[tap].shape))


def test_intercept_sees_inputs_for_as_long_as_it_lasts():
  net, params, stats, x = _filled('mlp', (3, 2, 2), width=5, depth=2)
  model = models.join(net, params, stats)
  want, calls = model(x), []
  def handler(path, module, call, inputs):
    calls.append((path, inputs))
    return 2 * call(inputs)
  with models.intercept(model, nnx.Linear, handler):
    got = model(x)
  assert [path for path, _ in calls] == [
      'blocks/0/linear', 'blocks/1/linear', 'head']
  np.testing.assert_array_equal(calls[0][1], x.reshape(4, -1))
  hidden = np.maximum(2 * linear(params, 'blocks/0/linear', calls[0][1]), 0)
  np.testing.assert_allclose(calls[1][1], hidden, 1e-5, 1e-6)
  np.testing.assert_allclose(
      got, 2 * linear(params, 'head', calls[2][1]), 1e-5, 1e-6)
  np.testing.assert_array_equal(model(x), want)
  assert len(calls) == 3


def test_table_has_every_model():
  public = {name for name, value in vars(models).items()
            if inspect.isfunction(value)
            and list(inspect.signature(value).parameters)[:2]
            == ['classes', 'input_shape']}
  assert public == {*TINY, 'decoder'}  # which has tests of its own


@pytest.mark.parametrize('name', TINY)
def test_tiny_shapes(name):
  sizes, shape = TINY[name]
  seen = _taps(_build(name, CLASSES, shape, **sizes), shape)
  assert seen[''].shape == seen['head'].shape == (2, CLASSES)
  assert seen['head'].dtype == jnp.float32
  assert len(seen['pool'].shape) == 2 and seen['pool'].shape[0] == 2


@pytest.mark.parametrize('shape', [DIGITS, MNIST, CIFAR], ids=str)
@pytest.mark.parametrize('name', FAMILIES)
def test_families_take_small_images_and_have_taps(name, shape):
  seen = _taps(_build(name, CLASSES, shape, **TINY[name][0]), shape)
  for tap in ['pool', 'head', *FAMILIES[name]]:
    assert min(seen[tap].shape) >= 1, tap


# Parameters of the full-size models. Small images: the counts of CRD's code
# (HobbitLong/RepDistiller), which papers round to millions; ImageNet:
# torchvision, timm. Option B shortcuts put resnet20 2,752 above option A.
COUNTS = [
    ('resnet20', 10, CIFAR, 272_474),
    ('resnet20', 100, CIFAR, 278_324),
    ('resnet56', 100, CIFAR, 861_620),
    ('resnet110', 100, CIFAR, 1_736_564),
    ('resnet8x4', 100, CIFAR, 1_233_540),
    ('resnet32x4', 100, CIFAR, 7_433_860),
    ('wrn_16_2', 100, CIFAR, 703_284),
    ('wrn_40_1', 100, CIFAR, 569_780),
    ('wrn_40_2', 100, CIFAR, 2_255_156),
    ('wrn_28_10', 10, CIFAR, 36_479_194),
    ('vgg8', 100, CIFAR, 3_965_028),
    ('vgg13', 100, CIFAR, 9_462_180),
    ('mobilenet_v2_half', 100, CIFAR, 812_836),
    ('mobilenet_v2', 1000, (224, 224, 3), 3_504_872),
    ('resnet18', 1000, (224, 224, 3), 11_689_512),
    ('resnet34', 1000, (224, 224, 3), 21_797_672),
    ('resnet50', 1000, (224, 224, 3), 25_557_032),
    ('vit_tiny', 1000, (224, 224, 3), 5_717_416),
    ('vit_small', 1000, (224, 224, 3), 22_050_664),
    ('vit_base', 1000, (224, 224, 3), 86_567_656),
    ('mixer_small', 1000, (224, 224, 3), 18_528_264),
    ('mixer_base', 1000, (224, 224, 3), 59_880_472),
]


@pytest.mark.parametrize('name,classes,shape,count', COUNTS)
def test_parameter_count(name, classes, shape, count):
  model = nnx.eval_shape(_build(name, classes, shape))
  leaves = jax.tree.leaves(nnx.state(model, nnx.Param))
  assert sum(math.prod(leaf.shape) for leaf in leaves) == count


def test_published_resolutions():
  """Where the maps end up on the images that the papers use."""
  for name, shape, tap, size in [
      ('resnet8x4', CIFAR, 'stages/2', (8, 8, 256)),
      ('wrn_16_2', CIFAR, 'stages/2', (8, 8, 128)),
      ('vgg8', CIFAR, 'stages/4', (4, 4, 512)),
      ('mobilenet_v2_half', CIFAR, 'stages/6', (2, 2, 160)),
      ('mobilenet_v2', (224, 224, 3), 'stages/6', (7, 7, 320)),
      ('resnet18', (224, 224, 3), 'stages/3', (7, 7, 512)),
      ('vit_tiny', (224, 224, 3), 'norm', (197, 192))]:
    kw = {'vit_tiny': {'depth': 1}, 'wrn_16_2': {'depth': 10},
          'resnet18': {'depths': (1, 1, 1, 1)}}.get(name, {})
    seen = _taps(_build(name, 10, shape, **kw), shape)
    assert seen[tap].shape == (2, *size), name


@pytest.mark.parametrize('name,shape,kw,words', [
    ('resnet20', CIFAR, {'depth': 21}, ['6n+2', '21']),
    ('resnet20', CIFAR, {'depth': 2}, ['6n+2', 'got 2']),
    ('wrn_16_2', CIFAR, {'depth': 17}, ['6n+4', '17']),
    ('resnet18', CIFAR, {'kind': 'v3'}, ['kind', 'basic', 'v3']),
    ('resnet18', CIFAR, {'depths': (1, 1)}, ['depths', '(1, 1)']),
    ('resnet50', CIFAR, {'widths': (2, 2, 2, 2)}, ['widths', 'at least 4']),
    ('vgg8', (4, 8, 3), {}, ['(4, 8, 3)', 'at least 8']),
    ('vgg8', CIFAR, {'pools': (True,)}, ['pools']),
    ('vgg8', CIFAR, {'depths': (1, 1)}, ['depths', '(1, 1)']),
    ('mobilenet_v2', CIFAR, {'strides': (1, 2)}, ['strides', '8 entries']),
    ('mobilenet_v2', CIFAR, {'width': 0}, ['width', 'positive']),
    ('vit_tiny', MNIST, {}, ['patch 16', '28x28', '1, 2, 4, 7, 14, 28']),
    ('vit_tiny', CIFAR, {'heads': 5}, ['192', 'heads 5']),
    ('mixer_small', DIGITS, {'patch': 3}, ['patch 3', '8x8']),
    ('mixer_small', DIGITS, {'patch': 0}, ['patch 0']),
    ('convnet', (64,), {}, ['(H, W, C)', '(64,)']),
    ('wrn_16_1', (0, 8, 1), {}, ['at least 1', '(0, 8, 1)']),
])
def test_refuses(name, shape, kw, words):
  with pytest.raises(ValueError) as e:
    models.abstract(_build(name, CLASSES, shape, **kw))
  for word in words:
    assert word in str(e.value)


def test_refuses_no_classes_and_unknown_names():
  with pytest.raises(ValueError, match='classes must be at least 1, got 0'):
    models.abstract(_build('convnet', 0, DIGITS))
  with pytest.raises(core.UserError, match="mean 'resnet8x4'"):
    _build('resnet_8x4', 3, DIGITS)


def test_batch_norm_moves_in_training_only():
  net, params, stats, x = _tiny('convnet')
  evaluate = jax.jit(lambda p, s, x: models.apply(net, p, s, x))
  train = jax.jit(lambda p, s, x: models.apply(
      net, p, s, x, train=True, taps=['blocks/0/conv']))
  after = evaluate(params, stats, x)
  for name, value in stats.items():
    np.testing.assert_array_equal(after.stats[name], value)
  out = train(params, stats, x)
  assert set(out.stats) == set(stats)
  for name, value in out.stats.items():
    assert np.isfinite(value).all()
    assert not np.allclose(value, stats[name]), name
  for name in ('mean', 'var'):
    new = getattr(np.asarray(out.features['blocks/0/conv']), name)((0, 1, 2))
    np.testing.assert_allclose(
        out.stats[f'blocks/0/norm/{name}'],
        0.9 * stats[f'blocks/0/norm/{name}'] + 0.1 * new, 1e-5, 1e-6)
  grads = jax.jit(jax.grad(lambda p: models.apply(
      net, p, stats, x, train=True).logits.std()))(params)
  assert all(np.abs(grad).max() > 0 for grad in grads.values())


def test_taps_are_outputs_of_their_modules():
  net, params, stats, x = _tiny('resnet8')
  block, head = 'stages/1/blocks/0', 'head'
  names = [block, f'{block}/add', f'{block}/conv2', f'{block}/shortcut',
           'stages/1', 'stages/2', 'pool', head]
  seen = jax.jit(lambda p, s, x: models.apply(
      net, p, s, x, taps=names))(params, stats, x)
  f = seen.features
  np.testing.assert_array_equal(
      f[f'{block}/add'], f[f'{block}/conv2'] + f[f'{block}/shortcut'])
  np.testing.assert_array_equal(f[block], np.maximum(f[f'{block}/add'], 0))
  np.testing.assert_array_equal(f['stages/1'], f[block])
  assert (np.asarray(f[f'{block}/add']) < 0).any()
  np.testing.assert_allclose(f['pool'], f['stages/2'].mean((1, 2)), 1e-5, 1e-6)
  np.testing.assert_allclose(
      f['pool'] @ params['head/kernel'] + params['head/bias'], seen.logits,
      1e-4, 1e-5)
  np.testing.assert_array_equal(f[head], seen.logits)
  with pytest.raises(ValueError, match="mean 'stages/1/blocks/0/add'"):
    models.apply(net, params, stats, x, taps=['stages/1/blocks/0/addd'])


def test_dropout_depends_on_the_key():
  net, params, stats, x = _tiny('vit_tiny', dropout=0.5)
  run = jax.jit(lambda key, train: models.apply(
      net, params, stats, x, train=train, key=key).logits, static_argnums=1)
  keys = jax.random.split(jax.random.key(0))
  np.testing.assert_array_equal(run(keys[0], True), run(keys[0], True))
  assert not np.allclose(run(keys[0], True), run(keys[1], True))
  np.testing.assert_array_equal(run(keys[0], False), run(keys[1], False))
  assert not np.allclose(run(keys[0], True), run(keys[0], False))


def test_attention_weights_are_distributions():
  net, params, stats, x = _tiny('vit_tiny', dropout=0.5)
  weights = jax.jit(lambda p: models.apply(
      net, p, stats, x, taps=['blocks/0/attention/weights']
  ).features['blocks/0/attention/weights'])(params)
  assert weights.shape == (4, 2, 5, 5)
  np.testing.assert_allclose(weights.sum(-1), 1, 1e-5)
