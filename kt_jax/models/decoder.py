"""Decoder-only transformers: GPT-2, Llama, Mistral, Qwen and Gemma by settings.

Axes: B rows, S positions, C places of a cache, G heads of keys and values, D
width of a head, W width, V vocabulary.
"""
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from flax import nnx
import jax
from jax import numpy as jnp

from kt_jax import core
from kt_jax.models import _decoder_block as block_lib
from kt_jax.models import _rotary as rotary

# Rules for `config.sharding` on a (data, model) mesh.
SHARDING = (
    (r'embed/embedding$', ('model', None)),
    (r'(query|key|value|gate|up)/kernel$', (None, 'model')),
    (r'(out|down)/kernel$', ('model', None)),
    (r'(^|/)head/kernel$', (None, 'model')),
)


class Cache(NamedTuple):
  """Keys and values of the tokens so far."""
  keys: tuple[jax.Array, ...]  # of each block, [B, C, G, D]
  values: tuple[jax.Array, ...]
  positions: jax.Array  # int32 [B, C]; -1 is empty or padding
  length: jax.Array  # int32, places in use


class Decoder(nnx.Module):
  """A causal language model.

  Taps: `embed`, `blocks/i` and what is in it, `norm`. `hf` is the config.json
  of an imported decoder, as text.

  Args:
    classes: V.
    input_shape: `(context,)`, the most positions.
    depth: blocks.
    width: W.
    heads: of each attention.
    kv_heads: heads of keys and values, a divisor of `heads`; 0: `heads`.
    head_width: D; 0: W / heads.
    hidden: width inside the MLPs; 0: 4 W, gated 8/3 W.
    positions: 'rotary' or 'learned'.
    rope_base: of rotary positions.
    rope_scaling: of rotary positions, see `rotary.frequencies`.
    norm: 'rms' or 'layer'.
    norm_offset: added to the scale of RMSNorm; Gemma has 1.
    eps: of the norms.
    qkv_bias: biases in query, key and value.
    out_bias: a bias in the attention's output.
    mlp_bias: biases in the MLPs.
    query_key_norm: RMSNorm of each head's queries and keys.
    gated: whether the MLP multiplies `up` by the activation of `gate`.
    activation: of the MLP: 'silu', 'gelu', 'gelu_tanh' or 'relu'.
    post_norms: norms also after attention and MLP.
    embed_scale: factor on the embeddings; Gemma has sqrt(W).
    tied: whether the head is the transposed embedding.
    window: number of the last positions that a position attends to, itself
      included; 0: all. One number, or one per block.
    attention_softcap: of attention scores, 0: none.
    logit_softcap: of logits, 0: none.
    query_scale: factor on scores; 0: D^-1/2.
    dropout: rate after embedding, attentions and MLPs.
    lora_rank: of the low-rank update beside every linear layer, 0: none.
    lora_scale: of that update.
    rngs: random streams.
  """

  def __init__(self, classes, input_shape, *, depth, width, heads, kv_heads=0,
               head_width=0, hidden=0, positions='rotary', rope_base=10000.0,
               rope_scaling: Mapping[str, Any] | None = None, norm='rms',
               norm_offset=0.0, eps=1e-6, qkv_bias=False, out_bias=False,
               mlp_bias=False, query_key_norm=False, gated=True,
               activation='silu', post_norms=False, embed_scale=1.0, tied=True,
               window: int | Sequence[int] = 0, attention_softcap=0.0,
               logit_softcap=0.0, query_scale=0.0, dropout=0.0, lora_rank=0,
               lora_scale=2.0, rngs):
    groups, size = kv_heads or heads, head_width or width // heads
    _check(classes, input_shape, depth, width, heads, groups, head_width,
           positions, norm, activation, size)
    windows = ((window,) * depth if isinstance(window, int)
               else tuple(window))
    if len(windows) != depth:
      raise core.UserError(f'decoder: window has {len(windows)} entries for '
                           f'{depth} blocks.')
    rope = ()
    if positions == 'rotary':
      rotary.frequencies(size, rope_base, rope_scaling)  # checks the settings
      rope = rope_base, tuple(sorted((rope_scaling or {}).items()))
    spec = dict(
        width=width, heads=heads, groups=groups, head_width=size,
        hidden=hidden or (8 * width // 3 if gated else 4 * width),
        rope=rope, norm=norm, norm_offset=norm_offset, eps=eps,
        qkv_bias=qkv_bias, out_bias=out_bias, mlp_bias=mlp_bias,
        query_key_norm=query_key_norm, gated=gated, activation=activation,
        post_norms=post_norms, attention_softcap=attention_softcap,
        query_scale=query_scale, dropout=dropout, lora=(lora_rank, lora_scale))
    self.hf = ''
    self.context, self.embed_scale = input_shape[0], embed_scale
    self.logit_softcap = logit_softcap
    embed = lambda count: block_lib.make_embed(count, width, rngs=rngs)
    self.embed = embed(classes)
    self.position = embed(self.context) if positions == 'learned' else None
    self.dropout = nnx.Dropout(dropout, rngs=rngs)
    self.blocks = nnx.List([block_lib.Block(spec, w, rngs=rngs)
                            for w in windows])
    self.norm = block_lib.make_norm(spec, rngs=rngs)
    self.head = None if tied else nnx.Linear(
        width, classes, use_bias=False, kernel_init=block_lib.normal, rngs=rngs)

  def __call__(self, tokens, segments=None, positions=None):
    """Logits `[B, S, V]` of each next token; arguments as `hidden`."""
    return self.logits(self.hidden(tokens, segments, positions))

  def hidden(self, tokens, segments=None, positions=None, prefix=None):
    """States `[B, S, W]` after the last norm.

    Args:
      tokens: int `[B, S]`.
      segments: int `[B, S]`; 0 is padding, on either side. A token attends to
        its own segment only, and positions start at 0 in each.
      positions: int `[B, S]`, -1 for padding; None: by segments.
      prefix: `[P, W]` embeddings before each row, which then has one segment;
        their states are left out.
    """
    self._check_tokens(tokens)
    if segments is None:
      segments = jnp.ones(tokens.shape, jnp.int32)
    if positions is None:
      positions = block_lib.positions_of(segments)
    count = 0 if prefix is None else len(prefix)
    x = self._embed(tokens, positions, count)
    if prefix is not None:
      x, segments, positions = self._prefixed(x, segments, positions, prefix)
    same = segments[:, :, None] == segments[:, None, :]
    mask = block_lib.visible(positions, positions, same)
    for block in self.blocks:
      x, _ = block(x, positions, mask)
    return self.norm(x)[:, count:]

  def extend(self, tokens, positions, cache: Cache):
    """States of tokens that follow those in a cache, and the longer cache.

    Args:
      tokens: int `[B, S]`, one document per row.
      positions: int `[B, S]`, -1 for padding.
      cache: from `empty_cache` or `extend`, with at least S free places.
    """
    self._check_tokens(tokens)
    x = self._embed(tokens, positions, 0)
    cached = jax.lax.dynamic_update_slice(
        cache.positions, positions, (0, cache.length))
    mask = block_lib.visible(positions, cached, True)
    keys, values = [], []
    for block, key, value in zip(self.blocks, cache.keys, cache.values):
      x, (key, value) = block(x, positions, mask, (key, value, cache.length))
      keys.append(key)
      values.append(value)
    return self.norm(x), Cache(tuple(keys), tuple(values), cached,
                               cache.length + tokens.shape[1])

  def empty_cache(self, rows: int, places: int) -> Cache:
    """A cache of `places` tokens in `rows` rows, in the embedding's dtype."""
    if places > self.context:
      raise core.UserError(
          f'decoder: prompt and new tokens take {places} positions; the '
          f'context has {self.context}. Shorten them.')
    shape = lambda b: (rows, places, b.attention.groups, b.attention.size)
    empty = lambda: tuple(jnp.zeros(shape(b), self.embed.embedding.dtype)
                          for b in self.blocks)
    return Cache(empty(), empty(), jnp.full((rows, places), -1, jnp.int32),
                 jnp.zeros((), jnp.int32))

  def head_kernel(self) -> jax.Array:
    """Kernel `[W, V]` of the last linear map."""
    return self.embed.embedding[...].T if self.head is None else (
        self.head.kernel[...])

  def logits(self, hidden) -> jax.Array:
    """Logits `[..., V]` of states `[..., W]`."""
    out = self.embed.attend(hidden) if self.head is None else self.head(hidden)
    return block_lib.cap(out, self.logit_softcap)

  def _check_tokens(self, tokens):
    if tokens.ndim != 2 or not jnp.issubdtype(tokens.dtype, jnp.integer):
      raise core.UserError('decoder: tokens must be integers [B, S], got '
                           f'{tokens.dtype} {tuple(tokens.shape)}.')
    if tokens.shape[1] > self.context:
      raise core.UserError(f'decoder: rows have {tokens.shape[1]} tokens, the '
                           f'context {self.context}. Shorten them.')

  def _embed(self, tokens, positions, shift):
    x = self.embed(tokens)
    if self.embed_scale != 1:
      x *= jnp.asarray(self.embed_scale, x.dtype)
    if self.position is not None:
      x += self.position(jnp.maximum(positions, 0) + shift)
    return self.dropout(x)

  def _prefixed(self, x, segments, positions, prefix):
    """Inputs, segments and positions of the blocks with a prefix before."""
    rows, count = len(x), len(prefix)
    at = jnp.broadcast_to(jnp.arange(count), (rows, count))
    before = prefix.astype(x.dtype)
    if self.position is not None:
      before += self.position(jnp.arange(count))
    before = jnp.broadcast_to(before, (rows, *before.shape))
    return (jnp.concatenate([before, x], 1),
            jnp.concatenate([jnp.ones_like(at), segments], 1),
            jnp.concatenate([at, jnp.where(positions < 0, -1,
                                           positions + count)], 1))


def _check(classes, input_shape, depth, width, heads, groups, head_width,
           positions, norm, activation, size):
  if len(input_shape) != 1 or min(classes, depth, width, heads,
                                  *input_shape) < 1:
    raise core.UserError(
        'decoder: vocabulary, input_shape (context,), depth, width and heads '
        f'must be at least 1, got {classes}, {tuple(input_shape)}, {depth}, '
        f'{width}, {heads}.')
  if heads % groups or not head_width and width % heads:
    raise core.UserError(
        f'decoder: heads {heads} must be a multiple of kv_heads {groups}, and '
        f'width {width} of heads unless head_width is given.')
  if positions == 'rotary' and size % 2:
    raise core.UserError(f'decoder: rotary positions need an even head width, '
                         f'got {size}.')
  for name, value, choices in (
      ('positions', positions, ('rotary', 'learned')),
      ('norm', norm, ('rms', 'layer')),
      ('activation', activation, block_lib.ACTIVATIONS)):
    if value not in choices:
      raise core.UserError(core.nearest(f'{name} of a decoder', value, choices))


def decoder(classes, input_shape, *, depth, width, heads, **kw) -> Decoder:
  """A `Decoder`, a model by name."""
  return Decoder(classes, input_shape, depth=depth, width=width, heads=heads,
                 **kw)
