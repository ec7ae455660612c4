"""A residual MLP: a stack of equal blocks between two linear layers."""
import math

from flax import nnx

from kt_jax.models import _layers as layers


class Block(nnx.Module):
  """`x + Linear(ReLU(Linear(LayerNorm(x))))`. Taps: `norm`, `up`, `down`."""

  def __init__(self, width, *, rngs):
    self.norm = nnx.LayerNorm(width, rngs=rngs)
    self.up = nnx.Linear(width, width, rngs=rngs)
    self.down = nnx.Linear(width, width, rngs=rngs)

  def __call__(self, x):
    return x + self.down(nnx.relu(self.up(self.norm(x))))


class ResidualMlp(nnx.Module):
  """`depth` blocks of `width` on a linear map of the flattened input.

  Taps: `stem`, `blocks/i` and what is in it, `norm`, `pool`, `head`.
  """

  def __init__(self, classes, input_shape, *, width=64, depth=4, rngs):
    self.stem = nnx.Linear(math.prod(input_shape), width, rngs=rngs)
    self.blocks = nnx.List([Block(width, rngs=rngs) for _ in range(depth)])
    self.norm = nnx.LayerNorm(width, rngs=rngs)
    self.pool = layers.Feature()
    self.head = nnx.Linear(width, classes, rngs=rngs)

  def __call__(self, x):
    x = self.stem(x.reshape(x.shape[0], -1))
    for block in self.blocks:
      x = block(x)
    return self.head(self.pool(self.norm(x)))


def residual_mlp(classes, input_shape, **kw) -> ResidualMlp:
  """`depth=4` blocks of `width=64`."""
  return ResidualMlp(classes, input_shape, **kw)
