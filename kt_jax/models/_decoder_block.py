"""Blocks of a decoder: norms, linear maps with LoRA, attention, MLP.

Axes: B rows, S positions, C places that are looked at, H heads, G groups of
heads that share keys and values, D width of a head, W width.
"""
from flax import nnx
import jax
from jax import numpy as jnp

from kt_jax import core
from kt_jax.models import _layers as layers
from kt_jax.models import _rotary as rotary

normal = nnx.initializers.normal(0.02)

ACTIVATIONS = {
    'silu': nnx.silu,
    'gelu': lambda x: nnx.gelu(x, approximate=False),
    'gelu_tanh': lambda x: nnx.gelu(x, approximate=True),
    'relu': nnx.relu,
}


class RmsNorm(nnx.Module):
  """`x / rms(x) * (offset + scale)`, in float32; Gemma's offset is 1."""

  def __init__(self, width, eps, offset, *, rngs):
    del rngs
    self.eps, self.offset = eps, offset
    self.scale = nnx.Param(jnp.full((width,), 1.0 - offset))

  def __call__(self, x):
    wide = core.to_float(x)
    wide *= jax.lax.rsqrt(jnp.mean(wide**2, -1, keepdims=True) + self.eps)
    return (wide * (self.offset + core.to_float(self.scale[...]))
            ).astype(x.dtype)


class Linear(nnx.Linear):
  """`x W + b`, and `scale (x A) B` beside it if `rank` is not 0 (LoRA)."""

  def __init__(self, inputs, outputs, bias, lora, *, rngs):
    super().__init__(inputs, outputs, use_bias=bias, kernel_init=normal,
                     rngs=rngs)
    rank, self.lora_scale = lora
    init = nnx.initializers.variance_scaling(1 / 3, 'fan_in', 'uniform')
    self.lora_a = nnx.Param(
        init(rngs.params(), (inputs, rank))) if rank else None
    self.lora_b = nnx.Param(jnp.zeros((rank, outputs))) if rank else None

  def __call__(self, x):
    y = super().__call__(x)
    if self.lora_a is None or self.lora_b is None:
      return y
    a, b = (v[...].astype(x.dtype) for v in (self.lora_a, self.lora_b))
    return y + self.lora_scale * ((x @ a) @ b)


class Attention(nnx.Module):
  """Taps: `query`, `key`, `value`, `context` (what `out` reads) and `out`."""

  def __init__(self, spec, window, *, rngs):
    self.heads, self.groups = spec['heads'], spec['groups']
    self.size = spec['head_width']
    self.window, self.softcap = window, spec['attention_softcap']
    self.scale = spec['query_scale'] or self.size ** -0.5
    self.rope = spec['rope']
    width, bias, lora = spec['width'], spec['qkv_bias'], spec['lora']
    self.query = Linear(width, self.heads * self.size, bias, lora, rngs=rngs)
    self.key = Linear(width, self.groups * self.size, bias, lora, rngs=rngs)
    self.value = Linear(width, self.groups * self.size, bias, lora, rngs=rngs)
    norm = lambda: RmsNorm(self.size, spec['eps'], spec['norm_offset'],
                           rngs=rngs) if spec['query_key_norm'] else None
    self.query_norm, self.key_norm = norm(), norm()
    self.context = layers.Feature()
    self.out = Linear(self.heads * self.size, width, spec['out_bias'], lora,
                      rngs=rngs)

  def __call__(self, x, at, mask, cache=None):
    """`[B, S, W]`, and the keys and values that were attended to.

    Args:
      x: `[B, S, W]`.
      at: positions `[B, S]`.
      mask: `window -> bool [B, S, C]`, see `visible`.
      cache: `(keys, values, length)`.
    """
    split = lambda y, n: y.reshape(*y.shape[:-1], n, self.size)
    query = split(self.query(x), self.heads)
    key, value = (split(f(x), self.groups) for f in (self.key, self.value))
    if self.query_norm is not None and self.key_norm is not None:
      query, key = self.query_norm(query), self.key_norm(key)
    if self.rope:
      base, scaling = self.rope
      freq, factor = rotary.frequencies(self.size, base, dict(scaling))
      query, key = (rotary.rotate(v, at, freq, factor) for v in (query, key))
    if cache:
      keys, values, length = cache
      write = lambda old, new: jax.lax.dynamic_update_slice(
          old, new.astype(old.dtype), (0, length, 0, 0))
      key, value = write(keys, key), write(values, value)
    grouped = query.reshape(*query.shape[:2], self.groups, -1, self.size)
    scores = jnp.einsum('bsghd,bcgd->bghsc', grouped, key,
                        preferred_element_type=jnp.float32) * self.scale
    scores = cap(scores, self.softcap)
    # A finite bound: a position that sees none is padding, and must not be NaN.
    scores = jnp.where(mask(self.window)[:, None, None], scores, -1e30)
    weights = jax.nn.softmax(scores).astype(value.dtype)
    y = jnp.einsum('bghsc,bcgd->bsghd', weights, value)
    return self.out(self.context(y.reshape(*x.shape[:2], -1))), (key, value)


class Mlp(nnx.Module):
  """Taps: `gate` (if it has one), `up`, `act` (what `down` reads), `down`."""

  def __init__(self, spec, *, rngs):
    width, hidden, bias, lora = (spec[k] for k in (
        'width', 'hidden', 'mlp_bias', 'lora'))
    self.activation = spec['activation']
    self.gate = Linear(width, hidden, bias, lora, rngs=rngs) if spec[
        'gated'] else None
    self.up = Linear(width, hidden, bias, lora, rngs=rngs)
    self.act = layers.Feature()
    self.down = Linear(hidden, width, bias, lora, rngs=rngs)

  def __call__(self, x):
    act = ACTIVATIONS[self.activation]
    up = self.up(x)
    return self.down(self.act(
        act(up) if self.gate is None else act(self.gate(x)) * up))


class Block(nnx.Module):
  """Taps: `norm1`, `add1`, `norm2`, `mlp`, `add2` and what is in them."""

  def __init__(self, spec, window, *, rngs):
    norm = lambda: make_norm(spec, rngs=rngs)
    self.norm1 = norm()
    self.attention = Attention(spec, window, rngs=rngs)
    self.post1 = norm() if spec['post_norms'] else None
    self.dropout1 = nnx.Dropout(spec['dropout'], rngs=rngs)
    self.add1 = layers.Add()
    self.norm2 = norm()
    self.mlp = Mlp(spec, rngs=rngs)
    self.post2 = norm() if spec['post_norms'] else None
    self.dropout2 = nnx.Dropout(spec['dropout'], rngs=rngs)
    self.add2 = layers.Add()

  def __call__(self, x, at, mask, cache=None):
    y, cached = self.attention(self.norm1(x), at, mask, cache)
    y = y if self.post1 is None else self.post1(y)
    x = self.add1(x, self.dropout1(y))
    y = self.mlp(self.norm2(x))
    y = y if self.post2 is None else self.post2(y)
    return self.add2(x, self.dropout2(y)), cached


def make_embed(count, width, *, rngs):
  """An embedding with outputs of the dtype that its table has at the call."""
  embed = nnx.Embed(count, width, embedding_init=normal, rngs=rngs)
  embed.dtype = None  # not the dtype of the initial table
  return embed


def make_norm(spec, *, rngs):
  if spec['norm'] == 'layer':
    return nnx.LayerNorm(spec['width'], epsilon=spec['eps'], rngs=rngs)
  return RmsNorm(spec['width'], spec['eps'], spec['norm_offset'], rngs=rngs)


def cap(x: jax.Array, softcap: float) -> jax.Array:
  """`c tanh(x / c)`; 0: no cap."""
  return softcap * jnp.tanh(x / softcap) if softcap else x


def visible(at, of, same):
  """`window -> bool [B, S, C]`: the places that each position attends to.

  Args:
    at: int `[B, S]`, positions of the queries; -1 is padding.
    of: int `[B, C]`, positions of the keys; -1 is padding.
    same: bool `[B, S, C]`, or True: whether they are in one segment.
  """
  gap = at[:, :, None] - of[:, None, :]
  causal = (gap >= 0) & (of[:, None, :] >= 0) & same
  return lambda window: causal & (gap < window) if window else causal


def positions_of(segments: jax.Array) -> jax.Array:
  """Positions `[B, S]` that start at 0 in each segment; -1 in padding."""
  place = jnp.arange(segments.shape[1], dtype=jnp.int32)
  begins = jnp.diff(segments, axis=1, prepend=-1) != 0
  first = jax.lax.cummax(jnp.where(begins, place, 0), axis=1)
  return jnp.where(segments > 0, place - first, -1).astype(jnp.int32)
