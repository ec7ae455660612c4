"""Wide residual networks (Zagoruyko and Komodakis 2016), pre-activation."""
from flax import nnx

from kt_jax.models import _layers as layers


class Block(nnx.Module):
  """BatchNorm, ReLU and a 3x3 convolution, twice. Tap `add` is the sum."""

  def __init__(self, inputs, outputs, stride, dropout, *, rngs):
    self.norm1 = layers.batch_norm(inputs, rngs=rngs)
    self.act1 = layers.Relu()
    self.conv1 = layers.conv(inputs, outputs, stride=stride, rngs=rngs)
    self.norm2 = layers.batch_norm(outputs, rngs=rngs)
    self.act2 = layers.Relu()
    self.dropout = nnx.Dropout(dropout, rngs=rngs)
    self.conv2 = layers.conv(outputs, outputs, rngs=rngs)
    self.shortcut = layers.conv(
        inputs, outputs, kernel=1, stride=stride, rngs=rngs
    ) if stride != 1 or inputs != outputs else None
    self.add = layers.Add()

  def __call__(self, x):
    y = self.act1(self.norm1(x))
    # A projection reads the activated input, an identity the raw one.
    x = self.shortcut(y) if self.shortcut else x
    y = self.dropout(self.act2(self.norm2(self.conv1(y))))
    return self.add(x, self.conv2(y))


class Wrn(nnx.Module):
  """`depth = 6 n + 4`: three stages of n blocks.

  Taps: `stem`, `stages/i`, `stages/i/blocks/j` (sums), `norm` and `act` (the
  last pre-activation and activation), `pool`, `head`.
  """

  def __init__(self, classes, input_shape, *, depth, widths, stem=16,
               dropout=0.0, rngs):
    channels = layers.check_image('wrn', classes, input_shape)
    if depth < 10 or depth % 6 != 4:
      raise ValueError(f'wrn: depth must be 6n+4 with n >= 1 (10, 16, 22, '
                       f'...), got {depth}.')
    self.stem = layers.conv(channels, stem, rngs=rngs)
    sizes = [stem, *widths]
    self.stages = nnx.List([
        layers.Stage([
            Block(o if j else i, o, 2 if n and not j else 1, dropout,
                  rngs=rngs) for j in range((depth - 4) // 6)])
        for n, (i, o) in enumerate(zip(sizes, sizes[1:]))])
    self.norm = layers.batch_norm(sizes[-1], rngs=rngs)
    self.act = layers.Relu()
    self.pool = layers.MeanPool()
    self.head = nnx.Linear(sizes[-1], classes, rngs=rngs)

  def __call__(self, x):
    x = self.stem(x)
    for stage in self.stages:
      x = stage(x)
    return self.head(self.pool(self.act(self.norm(x))))


def _wrn(classes, input_shape, kw, depth, factor) -> Wrn:
  widths = tuple(factor * width for width in (16, 32, 64))
  return Wrn(classes, input_shape, **({'depth': depth, 'widths': widths} | kw))


def wrn_16_1(classes, input_shape, **kw) -> Wrn:
  """`depth=16`, `widths=(16, 32, 64)`, `stem=16`, `dropout=0`."""
  return _wrn(classes, input_shape, kw, 16, 1)


def wrn_16_2(classes, input_shape, **kw) -> Wrn:
  """`depth=16`, `widths=(32, 64, 128)`, `stem=16`, `dropout=0`."""
  return _wrn(classes, input_shape, kw, 16, 2)


def wrn_40_1(classes, input_shape, **kw) -> Wrn:
  """`depth=40`, `widths=(16, 32, 64)`, `stem=16`, `dropout=0`."""
  return _wrn(classes, input_shape, kw, 40, 1)


def wrn_40_2(classes, input_shape, **kw) -> Wrn:
  """`depth=40`, `widths=(32, 64, 128)`, `stem=16`, `dropout=0`."""
  return _wrn(classes, input_shape, kw, 40, 2)


def wrn_28_10(classes, input_shape, **kw) -> Wrn:
  """`depth=28`, `widths=(160, 320, 640)`, `stem=16`, `dropout=0`."""
  return _wrn(classes, input_shape, kw, 28, 10)
