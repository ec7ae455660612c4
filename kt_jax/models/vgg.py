"""VGGs with BatchNorm for small images, as distillation papers use them.

Five stages of 3x3 convolutions; one linear layer on the mean of the last map
instead of three on a grid. The first three stages end in a maximum over 2x2,
the fourth only from 64x64 on. The convolutions have biases, though the
BatchNorm behind them cancels these: the published parameter counts have them.
"""
from flax import nnx

from kt_jax.models import _layers as layers


class Stage(nnx.Module):
  """Taps: `blocks/j` (activation), `blocks/j/norm` (pre-activation)."""

  def __init__(self, inputs, width, depth, bias, pool, *, rngs):
    self.blocks = nnx.List([
        layers.ConvNorm(width if j else inputs, width, bias=bias, rngs=rngs)
        for j in range(depth)])
    self.pool = layers.MaxPool(2, 2) if pool else None

  def __call__(self, x):
    for block in self.blocks:
      x = block(x)
    return self.pool(x) if self.pool else x


class Vgg(nnx.Module):
  """Taps: `stages/i` (pooled), `stages/i/blocks/j`, `pool`, `head`.

  Args:
    classes: outputs.
    input_shape: `(H, W, C)`, H and W at least 8.
    depths: convolutions of each stage.
    widths: channels of each stage.
    pools: whether each stage ends in a maximum; None is the rule above.
    bias: give the convolutions biases.
    rngs: random streams.
  """

  def __init__(self, classes, input_shape, *, depths,
               widths=(64, 128, 256, 512, 512), pools=None, bias=True, rngs):
    if len(depths) != len(widths) or not depths or min(depths) < 1:
      raise ValueError(f'vgg: depths {tuple(depths)} and widths '
                       f'{tuple(widths)} must have one entry per stage, '
                       'depths at least 1.')
    if pools is None:
      large = min(input_shape[:2]) >= 64
      pools = [n < 3 or (n == 3 and large) for n in range(len(depths))]
    if len(pools) != len(depths):
      raise ValueError(f'vgg: pools {tuple(pools)} must have one entry per '
                       f'stage of depths {tuple(depths)}.')
    channels = layers.check_image(
        'vgg', classes, input_shape, least=2 ** sum(map(bool, pools)))
    sizes = [channels, *widths]
    self.stages = nnx.List([
        Stage(i, o, depth, bias, pool, rngs=rngs)
        for i, o, depth, pool in zip(sizes, sizes[1:], depths, pools)])
    self.pool = layers.MeanPool()
    self.head = nnx.Linear(sizes[-1], classes, rngs=rngs)

  def __call__(self, x):
    for stage in self.stages:
      x = stage(x)
    return self.head(self.pool(x))


def _vgg(classes, input_shape, kw, *depths) -> Vgg:
  return Vgg(classes, input_shape, **({'depths': depths} | kw))


def vgg8(classes, input_shape, **kw) -> Vgg:
  """`depths=(1, 1, 1, 1, 1)`, `widths=(64, 128, 256, 512, 512)`."""
  return _vgg(classes, input_shape, kw, 1, 1, 1, 1, 1)


def vgg11(classes, input_shape, **kw) -> Vgg:
  """`depths=(1, 1, 2, 2, 2)`, widths as `vgg8`."""
  return _vgg(classes, input_shape, kw, 1, 1, 2, 2, 2)


def vgg13(classes, input_shape, **kw) -> Vgg:
  """`depths=(2, 2, 2, 2, 2)`, widths as `vgg8`."""
  return _vgg(classes, input_shape, kw, 2, 2, 2, 2, 2)


def vgg16(classes, input_shape, **kw) -> Vgg:
  """`depths=(2, 2, 3, 3, 3)`, widths as `vgg8`."""
  return _vgg(classes, input_shape, kw, 2, 2, 3, 3, 3)


def vgg19(classes, input_shape, **kw) -> Vgg:
  """`depths=(2, 2, 4, 4, 4)`, widths as `vgg8`."""
  return _vgg(classes, input_shape, kw, 2, 2, 4, 4, 4)
