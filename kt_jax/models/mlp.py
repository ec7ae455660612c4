"""A multilayer perceptron."""
import math

from flax import nnx

from kt_jax.models import _layers as layers


class Block(nnx.Module):
  """Linear and ReLU."""

  def __init__(self, inputs, width, *, rngs):
    self.linear = nnx.Linear(inputs, width, rngs=rngs)

  def __call__(self, x):
    return nnx.relu(self.linear(x))


class Mlp(nnx.Module):
  """`depth` hidden layers of `width` on the flattened input."""

  def __init__(self, classes, input_shape, *, width=256, depth=2, dropout=0.0,
               rngs):
    sizes = [math.prod(input_shape)] + [width] * depth
    self.blocks = nnx.List(
        [Block(i, o, rngs=rngs) for i, o in zip(sizes, sizes[1:])])
    self.pool = layers.Feature()
    self.dropout = nnx.Dropout(dropout, rngs=rngs)
    self.head = nnx.Linear(sizes[-1], classes, rngs=rngs)

  def __call__(self, x):
    x = x.reshape(x.shape[0], -1)
    for block in self.blocks:
      x = block(x)
    return self.head(self.dropout(self.pool(x)))


def mlp(classes, input_shape, **kw) -> Mlp:
  """`depth=2` hidden layers of `width=256`."""
  return Mlp(classes, input_shape, **kw)
