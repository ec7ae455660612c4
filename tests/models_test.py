"""Architectures: shapes, sizes, taps, modes. Most of it computes nothing."""
import functools
import inspect
import math

from flax import nnx
import jax
from jax import numpy as jnp
import numpy as np
import pytest

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


def _taps(build, shape):
  params, stats = jax.eval_shape(lambda: models.init(build)[1:])
  x = jax.ShapeDtypeStruct((2, *shape), jnp.float32)
  return models.taps(models.abstract(build), params, stats, x)


@functools.cache
def _tiny(name, **kw):
  """`(net, params, stats, x)`, for real."""
  sizes, shape = TINY[name]
  x = np.random.default_rng(0).normal(size=(4, *shape)).astype(np.float32)
  return *models.init(_build(name, CLASSES, shape, **sizes, **kw)), x


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
    kw = {'depth': 1} if name == 'vit_tiny' else {}
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
  # Momentum 0.9: a tenth of the batch's mean joins.
  mean = out.features['blocks/0/conv'].mean((0, 1, 2))
  np.testing.assert_allclose(
      out.stats['blocks/0/norm/mean'], 0.1 * mean, 1e-5, 1e-6)
  grads = jax.jit(jax.grad(lambda p: models.apply(
      net, p, stats, x, train=True).logits.std()))(params)
  assert all(np.abs(grad).max() > 0 for grad in grads.values())


def test_taps_are_what_they_say():
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


def test_dropout_hangs_on_the_key():
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
  weights = models.apply(
      net, params, stats, x, taps=['blocks/0/attention/weights']
  ).features['blocks/0/attention/weights']
  assert weights.shape == (4, 2, 5, 5)
  np.testing.assert_allclose(weights.sum(-1), 1, 1e-5)
