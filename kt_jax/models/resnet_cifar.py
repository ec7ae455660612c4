"""ResNets for small images, and the four times wider ones of distillation.

He et al. 2016, section 4.2: a 3x3 stem and three stages of basic blocks. Where
a block changes shape its shortcut is a 1x1 convolution with BatchNorm (their
option B), as in the distillation literature; the parameter counts agree.
"""
from flax import nnx

from kt_jax.models import _layers as layers


class Block(nnx.Module):
  """Two 3x3 convolutions. Taps: `add` before the last ReLU, `act` after."""

  def __init__(self, inputs, outputs, stride, *, rngs):
    self.conv1 = layers.ConvNorm(inputs, outputs, stride=stride, rngs=rngs)
    self.conv2 = layers.ConvNorm(outputs, outputs, act=None, rngs=rngs)
    self.shortcut = layers.ConvNorm(
        inputs, outputs, kernel=1, stride=stride, act=None, rngs=rngs
    ) if stride != 1 or inputs != outputs else None
    self.add = layers.Add()
    self.act = layers.Relu()

  def __call__(self, x):
    y = self.conv2(self.conv1(x))
    return self.act(self.add(self.shortcut(x) if self.shortcut else x, y))


class ResNetCifar(nnx.Module):
  """`depth = 6 n + 2`: three stages of n blocks.

  Taps: `stem`, `stages/i`, `stages/i/blocks/j`, `.../add`, `pool`, `head`.
  """

  def __init__(self, classes, input_shape, *, depth, widths=(16, 32, 64),
               stem=None, rngs):
    channels = layers.check_image('cifar resnet', classes, input_shape)
    if depth < 8 or depth % 6 != 2:
      raise ValueError(f'cifar resnet: depth must be 6n+2 with n >= 1 (8, 14, '
                       f'20, ...), got {depth}.')
    stem = widths[0] if stem is None else stem
    self.stem = layers.ConvNorm(channels, stem, rngs=rngs)
    sizes = [stem, *widths]
    self.stages = nnx.List([
        layers.Stage([
            Block(o if j else i, o, 2 if n and not j else 1, rngs=rngs)
            for j in range((depth - 2) // 6)])
        for n, (i, o) in enumerate(zip(sizes, sizes[1:]))])
    self.pool = layers.MeanPool()
    self.head = nnx.Linear(sizes[-1], classes, rngs=rngs)

  def __call__(self, x):
    x = self.stem(x)
    for stage in self.stages:
      x = stage(x)
    return self.head(self.pool(x))


def _resnet(classes, input_shape, kw, **default) -> ResNetCifar:
  return ResNetCifar(classes, input_shape, **(default | kw))


def resnet8(classes, input_shape, **kw) -> ResNetCifar:
  """`depth=8`, `widths=(16, 32, 64)`, `stem`: the first width."""
  return _resnet(classes, input_shape, kw, depth=8)


def resnet14(classes, input_shape, **kw) -> ResNetCifar:
  """`depth=14`, sizes as `resnet8`."""
  return _resnet(classes, input_shape, kw, depth=14)


def resnet20(classes, input_shape, **kw) -> ResNetCifar:
  """`depth=20`, sizes as `resnet8`."""
  return _resnet(classes, input_shape, kw, depth=20)


def resnet32(classes, input_shape, **kw) -> ResNetCifar:
  """`depth=32`, sizes as `resnet8`."""
  return _resnet(classes, input_shape, kw, depth=32)


def resnet44(classes, input_shape, **kw) -> ResNetCifar:
  """`depth=44`, sizes as `resnet8`."""
  return _resnet(classes, input_shape, kw, depth=44)


def resnet56(classes, input_shape, **kw) -> ResNetCifar:
  """`depth=56`, sizes as `resnet8`."""
  return _resnet(classes, input_shape, kw, depth=56)


def resnet110(classes, input_shape, **kw) -> ResNetCifar:
  """`depth=110`, sizes as `resnet8`."""
  return _resnet(classes, input_shape, kw, depth=110)


def resnet8x4(classes, input_shape, **kw) -> ResNetCifar:
  """`depth=8`, `widths=(64, 128, 256)`, `stem=32`."""
  return _resnet(classes, input_shape, kw, depth=8, widths=(64, 128, 256),
                 stem=32)


def resnet32x4(classes, input_shape, **kw) -> ResNetCifar:
  """`depth=32`, `widths=(64, 128, 256)`, `stem=32`."""
  return _resnet(classes, input_shape, kw, depth=32, widths=(64, 128, 256),
                 stem=32)
