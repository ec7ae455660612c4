"""A small plain convnet: the cheapest thing that learns images."""
from flax import nnx

from kt_jax.models import _layers as layers


class ConvNet(nnx.Module):
  """Convolution, BatchNorm and ReLU per width, at stride 2 after the first.

  Taps: `blocks/i` (activation), `blocks/i/norm` (pre-activation), `pool`,
  `head`.
  """

  def __init__(self, classes, input_shape, *, widths=(16, 32, 64), dropout=0.0,
               rngs):
    sizes = [layers.check_image('convnet', classes, input_shape), *widths]
    self.blocks = nnx.List([
        layers.ConvNorm(i, o, stride=2 if n else 1, rngs=rngs)
        for n, (i, o) in enumerate(zip(sizes, sizes[1:]))])
    self.pool = layers.MeanPool()
    self.dropout = nnx.Dropout(dropout, rngs=rngs)
    self.head = nnx.Linear(sizes[-1], classes, rngs=rngs)

  def __call__(self, x):
    for block in self.blocks:
      x = block(x)
    return self.head(self.dropout(self.pool(x)))


def convnet(classes, input_shape, **kw) -> ConvNet:
  """Three stages of `widths=(16, 32, 64)`."""
  return ConvNet(classes, input_shape, **kw)
