"""MobileNetV2 (Sandler et al. 2018), for 224x224 and for 32x32."""
from flax import nnx

from kt_jax.models import _layers as layers

# Expansion, channels, blocks and stride of each stage: the paper's table 2.
STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2),
          (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))


class Block(nnx.Module):
  """Inverted residual: expand, depthwise 3x3, project without activation.

  Taps: `units/i`, the last of them linear, and `add` where the shapes agree.
  """

  def __init__(self, inputs, outputs, expansion, stride, act, expand_always, *,
               rngs):
    inner = inputs * expansion
    units = []
    if expansion != 1 or expand_always:
      units.append(
          layers.ConvNorm(inputs, inner, kernel=1, act=act, rngs=rngs))
    units.append(layers.ConvNorm(
        inner, inner, stride=stride, groups=inner, act=act, rngs=rngs))
    units.append(
        layers.ConvNorm(inner, outputs, kernel=1, act=None, rngs=rngs))
    self.units = nnx.List(units)
    self.add = layers.Add() if stride == 1 and inputs == outputs else None

  def __call__(self, x):
    y = x
    for unit in self.units:
      y = unit(y)
    return self.add(x, y) if self.add else y


class MobileNetV2(nnx.Module):
  """Taps: `stem`, `stages/i`, `stages/i/blocks/j`, `last`, `pool`, `head`.

  Args:
    classes: outputs.
    input_shape: `(H, W, C)`.
    width: factor on every width; on the last only where above 1.
    strides: of the stem and of each stage; None is the paper's.
    stages: `(expansion, channels, blocks, stride)` of each.
    stem: width of the stem.
    last: width of the last convolution.
    divisor: widths are rounded to multiples of it, down by at most 10 %.
    relu6: clip activations at 6.
    expand_always: an expanding convolution also where the factor is 1.
    dropout: rate before the head.
    rngs: random streams.
  """

  def __init__(self, classes, input_shape, *, width=1.0, strides=None,
               stages=STAGES, stem=32, last=1280, divisor=8, relu6=True,
               expand_always=False, dropout=0.0, rngs):
    channels = layers.check_image('mobilenet_v2', classes, input_shape)
    if width <= 0:
      raise ValueError(f'mobilenet_v2: width must be positive, got {width}.')
    if strides is None:
      strides = (2, *(stride for *_, stride in stages))
    if len(strides) != len(stages) + 1:
      raise ValueError(f'mobilenet_v2: strides {tuple(strides)} must have '
                       f'{len(stages) + 1} entries, the stem\'s and one per '
                       'stage.')
    act = layers.Relu6 if relu6 else layers.Relu
    size = _round(stem * width, divisor)
    self.stem = layers.ConvNorm(
        channels, size, stride=strides[0], act=act, rngs=rngs)
    blocks = []
    for (expansion, outputs, depth, _), stride in zip(stages, strides[1:]):
      outputs = _round(outputs * width, divisor)
      blocks.append(layers.Stage([
          Block(outputs if j else size, outputs, expansion,
                1 if j else stride, act, expand_always, rngs=rngs)
          for j in range(depth)]))
      size = outputs
    self.stages = nnx.List(blocks)
    last = _round(last * max(1.0, width), divisor)
    self.last = layers.ConvNorm(size, last, kernel=1, act=act, rngs=rngs)
    self.pool = layers.MeanPool()
    self.dropout = nnx.Dropout(dropout, rngs=rngs)
    self.head = nnx.Linear(last, classes, rngs=rngs)

  def __call__(self, x):
    x = self.stem(x)
    for stage in self.stages:
      x = stage(x)
    return self.head(self.dropout(self.pool(self.last(x))))


def _round(value: float, divisor: int) -> int:
  """The multiple of `divisor` next to `value`, at least 0.9 of it."""
  near = max(divisor, int(value + divisor / 2) // divisor * divisor)
  return near + divisor if near < 0.9 * value else near


def mobilenet_v2(classes, input_shape, **kw) -> MobileNetV2:
  """The paper's at `width=1`; for 32x32 give `strides`."""
  return MobileNetV2(classes, input_shape, **kw)


def mobilenet_v2_half(classes, input_shape, **kw) -> MobileNetV2:
  """The student of the distillation literature on 32x32.

  Half as wide, the second stage at stride 1, plain ReLU, and an expanding
  convolution in the first block too.
  """
  default = {'width': 0.5, 'strides': (2, 1, 1, 2, 2, 1, 2, 1), 'divisor': 1,
             'relu6': False, 'expand_always': True}
  return MobileNetV2(classes, input_shape, **(default | kw))
