"""MLP-Mixer (Tolstikhin et al. 2021)."""
from flax import nnx

from kt_jax.models import _layers as layers


class MlpBlock(nnx.Module):
  """Taps: `fc1`, `act`, `fc2`."""

  def __init__(self, width, hidden, dropout, *, rngs):
    self.fc1 = nnx.Linear(width, hidden, rngs=rngs)
    self.act = layers.Gelu()
    self.fc2 = nnx.Linear(hidden, width, rngs=rngs)
    self.dropout = nnx.Dropout(dropout, rngs=rngs)

  def __call__(self, x):
    return self.dropout(self.fc2(self.act(self.fc1(x))))


class Block(nnx.Module):
  """Mixes tokens, then channels. Taps: `add1`, `add2` and both MLPs."""

  def __init__(self, tokens, width, token_hidden, hidden, eps, dropout, *,
               rngs):
    self.norm1 = nnx.LayerNorm(width, epsilon=eps, rngs=rngs)
    self.token_mlp = MlpBlock(tokens, token_hidden, dropout, rngs=rngs)
    self.add1 = layers.Add()
    self.norm2 = nnx.LayerNorm(width, epsilon=eps, rngs=rngs)
    self.channel_mlp = MlpBlock(width, hidden, dropout, rngs=rngs)
    self.add2 = layers.Add()

  def __call__(self, x):
    y = self.token_mlp(self.norm1(x).swapaxes(1, 2)).swapaxes(1, 2)
    x = self.add1(x, y)
    return self.add2(x, self.channel_mlp(self.norm2(x)))


class Mixer(nnx.Module):
  """Taps: `stem`, `blocks/i` and what is in it, `norm`, `pool`, `head`.

  Args:
    classes: outputs.
    input_shape: `(H, W, C)`, divisible by `patch`.
    patch: side of a patch, or `(height, width)`.
    depth: blocks.
    width: size of a token.
    token_hidden: width inside the token MLPs; None is half of `width`.
    hidden: width inside the channel MLPs; None is four times `width`.
    eps: of the LayerNorms.
    dropout: rate after each MLP.
    rngs: random streams.
  """

  def __init__(self, classes, input_shape, *, depth, width, patch=16,
               token_hidden=None, hidden=None, eps=1e-6, dropout=0.0, rngs):
    channels = layers.check_image('mixer', classes, input_shape)
    patch = layers.check_patch('mixer', input_shape, patch)
    tokens = input_shape[0] // patch[0] * (input_shape[1] // patch[1])
    token_hidden = width // 2 if token_hidden is None else token_hidden
    hidden = 4 * width if hidden is None else hidden
    self.stem = layers.Patches(channels, width, patch, rngs=rngs)
    self.blocks = nnx.List([
        Block(tokens, width, token_hidden, hidden, eps, dropout, rngs=rngs)
        for _ in range(depth)])
    self.norm = nnx.LayerNorm(width, epsilon=eps, rngs=rngs)
    self.pool = layers.MeanPool()
    self.head = nnx.Linear(width, classes, rngs=rngs)

  def __call__(self, x):
    x = self.stem(x)
    for block in self.blocks:
      x = block(x)
    return self.head(self.pool(self.norm(x)))


def mixer_small(classes, input_shape, **kw) -> Mixer:
  """`width=512`, `depth=8`, `patch=16`."""
  return Mixer(classes, input_shape, **({'depth': 8, 'width': 512} | kw))


def mixer_base(classes, input_shape, **kw) -> Mixer:
  """`width=768`, `depth=12`, `patch=16`."""
  return Mixer(classes, input_shape, **({'depth': 12, 'width': 768} | kw))
