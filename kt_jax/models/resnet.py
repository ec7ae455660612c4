"""ResNets for ImageNet, v1.5: the stride sits in the 3x3 convolution.

He et al. 2016, as torchvision and Hugging Face build it; the options are those
of a Hugging Face ResNet, so that its weights can be read.
"""
from flax import nnx

from kt_jax.models import _layers as layers

_KINDS = ('basic', 'bottleneck')


class Stem(nnx.Module):
  """A 7x7 convolution and a 3x3 maximum, each at stride 2."""

  def __init__(self, channels, width, *, rngs):
    self.unit = layers.ConvNorm(
        channels, width, kernel=7, stride=2, rngs=rngs)
    self.pool = layers.MaxPool(3, 2, pad=1)

  def __call__(self, x):
    return self.pool(self.unit(x))


class Block(nnx.Module):
  """Taps: `units/i`, `shortcut`, `add` (before the last ReLU), `act`."""

  def __init__(self, inputs, outputs, stride, kind, stride_first, *, rngs):
    inner = outputs if kind == 'basic' else outputs // 4
    if kind == 'basic':
      plan = [(inputs, inner, 3, stride), (inner, outputs, 3, 1)]
    else:
      first, second = (stride, 1) if stride_first else (1, stride)
      plan = [(inputs, inner, 1, first), (inner, inner, 3, second),
              (inner, outputs, 1, 1)]
    last = len(plan) - 1
    self.units = nnx.List([
        layers.ConvNorm(i, o, kernel=k, stride=s, rngs=rngs,
                        act=None if n == last else layers.Relu)
        for n, (i, o, k, s) in enumerate(plan)])
    self.shortcut = layers.ConvNorm(
        inputs, outputs, kernel=1, stride=stride, act=None, rngs=rngs
    ) if stride != 1 or inputs != outputs else None
    self.add = layers.Add()
    self.act = layers.Relu()

  def __call__(self, x):
    y = x
    for unit in self.units:
      y = unit(y)
    return self.act(self.add(self.shortcut(x) if self.shortcut else x, y))


class ResNet(nnx.Module):
  """Taps: `stem`, `stages/i`, `stages/i/blocks/j`, `.../add`, `pool`, `head`.

  Args:
    classes: outputs.
    input_shape: `(H, W, C)`.
    depths: blocks of each stage.
    widths: outputs of each stage; a bottleneck is a quarter of that.
    stem: width of the stem.
    kind: 'basic' or 'bottleneck'.
    stride_first: put a bottleneck's stride in its 1x1 convolution (v1).
    first_stride: stride of the first stage.
    rngs: random streams.
  """

  def __init__(self, classes, input_shape, *, depths, widths, kind, stem=64,
               stride_first=False, first_stride=1, rngs):
    channels = layers.check_image('resnet', classes, input_shape)
    if kind not in _KINDS:
      raise ValueError(f'resnet: kind must be one of {_KINDS}, got {kind!r}.')
    if len(depths) != len(widths) or not depths or min(depths) < 1:
      raise ValueError(f'resnet: depths {tuple(depths)} and widths '
                       f'{tuple(widths)} must have one entry per stage, '
                       'depths at least 1.')
    if kind == 'bottleneck' and min(widths) < 4:
      raise ValueError(f'resnet: bottleneck widths must be at least 4, got '
                       f'{tuple(widths)}.')
    self.stem = Stem(channels, stem, rngs=rngs)
    sizes = [stem, *widths]
    self.stages = nnx.List([
        layers.Stage([
            Block(sizes[n + (j > 0)], width,
                  1 if j else 2 if n else first_stride, kind, stride_first,
                  rngs=rngs) for j in range(depth)])
        for n, (depth, width) in enumerate(zip(depths, widths))])
    self.pool = layers.MeanPool()
    self.head = nnx.Linear(sizes[-1], classes, rngs=rngs)

  def __call__(self, x):
    x = self.stem(x)
    for stage in self.stages:
      x = stage(x)
    return self.head(self.pool(x))


_NARROW, _WIDE = (64, 128, 256, 512), (256, 512, 1024, 2048)


def _resnet(classes, input_shape, kw, **default) -> ResNet:
  return ResNet(classes, input_shape, **(default | kw))


def resnet18(classes, input_shape, **kw) -> ResNet:
  """`depths=(2, 2, 2, 2)`, `widths=(64, 128, 256, 512)`, `kind='basic'`."""
  return _resnet(classes, input_shape, kw, depths=(2, 2, 2, 2),
                 widths=_NARROW, kind='basic')


def resnet34(classes, input_shape, **kw) -> ResNet:
  """`depths=(3, 4, 6, 3)`, the rest as `resnet18`."""
  return _resnet(classes, input_shape, kw, depths=(3, 4, 6, 3),
                 widths=_NARROW, kind='basic')


def resnet50(classes, input_shape, **kw) -> ResNet:
  """`resnet34` in bottlenecks, `widths=(256, 512, 1024, 2048)`."""
  return _resnet(classes, input_shape, kw, depths=(3, 4, 6, 3), widths=_WIDE,
                 kind='bottleneck')
