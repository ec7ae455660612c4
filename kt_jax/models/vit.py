"""Vision transformers (Dosovitskiy et al. 2021), as Hugging Face builds them.

A class token, learned positions, LayerNorm before each branch, exact GELU.
Axes: B images, T tokens, H heads, W width.
"""
from flax import nnx
from jax import numpy as jnp

from kt_jax.models import _layers as layers

_normal = nnx.initializers.truncated_normal(0.02)


def _linear(inputs, outputs, *, bias=True, rngs):
  return nnx.Linear(
      inputs, outputs, use_bias=bias, kernel_init=_normal, rngs=rngs)


class Stem(nnx.Module):
  """Patches, the class token before them, and positions."""

  def __init__(self, input_shape, width, patch, dropout, *, rngs):
    tokens = input_shape[0] // patch[0] * (input_shape[1] // patch[1])
    self.patches = layers.Patches(input_shape[2], width, patch, rngs=rngs)
    self.token = nnx.Param(_normal(rngs.params(), (1, 1, width)))
    self.position = nnx.Param(_normal(rngs.params(), (1, tokens + 1, width)))
    self.dropout = nnx.Dropout(dropout, rngs=rngs)

  def __call__(self, x):
    x = self.patches(x)
    token = jnp.broadcast_to(self.token[...], (x.shape[0], 1, x.shape[2]))
    return self.dropout(
        jnp.concatenate([token, x], 1) + self.position[...])


class Attention(nnx.Module):
  """Taps: `query`, `key`, `value` [B, T, W], `weights` [B, H, T, T],
  `context` (the input of `out`) and `out` [B, T, W]."""

  def __init__(self, width, heads, bias, dropout, *, rngs):
    self.heads = heads
    self.query = _linear(width, width, bias=bias, rngs=rngs)
    self.key = _linear(width, width, bias=bias, rngs=rngs)
    self.value = _linear(width, width, bias=bias, rngs=rngs)
    self.weights = layers.Softmax()
    self.dropout = nnx.Dropout(dropout, rngs=rngs)
    self.context = layers.Feature()
    self.out = _linear(width, width, rngs=rngs)

  def __call__(self, x):
    split = lambda y: y.reshape(*y.shape[:-1], self.heads, -1)
    query, key = split(self.query(x)), split(self.key(x))
    scores = jnp.einsum('bqhd,bkhd->bhqk', query, key)
    weights = self.dropout(self.weights(scores / query.shape[-1] ** 0.5))
    y = jnp.einsum('bhqk,bkhd->bqhd', weights, split(self.value(x)))
    return self.out(self.context(y.reshape(x.shape)))


class Block(nnx.Module):
  """Taps: `norm1`, `attention`, `add1`, `norm2`, `fc1`, `act`, `fc2`, `add2`.
  """

  def __init__(self, width, heads, hidden, bias, eps, dropout,
               attention_dropout, *, rngs):
    self.norm1 = nnx.LayerNorm(width, epsilon=eps, rngs=rngs)
    self.attention = Attention(
        width, heads, bias, attention_dropout, rngs=rngs)
    self.dropout1 = nnx.Dropout(dropout, rngs=rngs)
    self.add1 = layers.Add()
    self.norm2 = nnx.LayerNorm(width, epsilon=eps, rngs=rngs)
    self.fc1 = _linear(width, hidden, rngs=rngs)
    self.act = layers.Gelu()
    self.fc2 = _linear(hidden, width, rngs=rngs)
    self.dropout2 = nnx.Dropout(dropout, rngs=rngs)
    self.add2 = layers.Add()

  def __call__(self, x):
    x = self.add1(x, self.dropout1(self.attention(self.norm1(x))))
    y = self.fc2(self.act(self.fc1(self.norm2(x))))
    return self.add2(x, self.dropout2(y))


class Vit(nnx.Module):
  """Taps: `stem`, `blocks/i` and what is in it, `norm`, `pool`, `head`.

  Args:
    classes: outputs.
    input_shape: `(H, W, C)`, divisible by `patch`.
    patch: side of a patch, or `(height, width)`.
    depth: blocks.
    width: size of a token.
    heads: of each attention, a divisor of `width`.
    hidden: width inside the MLPs; None is four times `width`.
    qkv_bias: biases in query, key and value.
    eps: of the LayerNorms.
    dropout: rate after positions, attentions and MLPs.
    attention_dropout: rate on the attention weights.
    knowledge_tokens: number of learned tokens behind the others, without
      positions, in the parameter `knowledge_token` (Xu et al. 2022; see
      `losses.knowledge_token`). Initial values of other parameters do not
      depend on it.
    rngs: random streams.
  """

  def __init__(self, classes, input_shape, *, depth, width, heads, patch=16,
               hidden=None, qkv_bias=True, eps=1e-12, dropout=0.0,
               attention_dropout=0.0, knowledge_tokens=0, rngs):
    layers.check_image('vit', classes, input_shape)
    patch = layers.check_patch('vit', input_shape, patch)
    if heads < 1 or width % heads:
      raise ValueError(f'vit: width {width} must be a multiple of heads '
                       f'{heads}.')
    if knowledge_tokens < 0:
      raise ValueError('vit: knowledge_tokens must be >= 0, got '
                       f'{knowledge_tokens}.')
    self.stem = Stem(input_shape, width, patch, dropout, rngs=rngs)
    self.blocks = nnx.List([
        Block(width, heads, 4 * width if hidden is None else hidden, qkv_bias,
              eps, dropout, attention_dropout, rngs=rngs)
        for _ in range(depth)])
    self.norm = nnx.LayerNorm(width, epsilon=eps, rngs=rngs)
    self.pool = layers.Feature()
    self.head = _linear(width, classes, rngs=rngs)
    # Initialized last: the others do not depend on it.
    self.knowledge_token = nnx.Param(_normal(
        rngs.params(), (1, knowledge_tokens, width))
        ) if knowledge_tokens else None

  def __call__(self, x):
    x = self.stem(x)
    if self.knowledge_token is not None:
      token = self.knowledge_token[...].astype(x.dtype)
      x = jnp.concatenate([x, jnp.broadcast_to(
          token, (x.shape[0], *token.shape[1:]))], axis=1)
    for block in self.blocks:
      x = block(x)
    return self.head(self.pool(self.norm(x)[:, 0]))


def _vit(classes, input_shape, kw, **default) -> Vit:
  return Vit(classes, input_shape, **({'depth': 12} | default | kw))


def vit_tiny(classes, input_shape, **kw) -> Vit:
  """`width=192`, `heads=3`, `depth=12`, `patch=16`."""
  return _vit(classes, input_shape, kw, width=192, heads=3)


def vit_small(classes, input_shape, **kw) -> Vit:
  """`width=384`, `heads=6`, `depth=12`, `patch=16`."""
  return _vit(classes, input_shape, kw, width=384, heads=6)


def vit_base(classes, input_shape, **kw) -> Vit:
  """`width=768`, `heads=12`, `depth=12`, `patch=16`."""
  return _vit(classes, input_shape, kw, width=768, heads=12)
