"""Tokens after a prompt, by one decoder or several, one token at a time.

Axes: B rows, P positions of the prompt, R new positions, V vocabulary.
"""
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
from jax import numpy as jnp

from kt_jax import core
from kt_jax.models import _decoder_block as decoder_block
from kt_jax.models import net as net_lib


class DecodeModel(NamedTuple):
  """A decoder that takes part in generation."""
  net: net_lib.Net
  params: net_lib.Arrays
  stats: net_lib.Arrays


class Generated(NamedTuple):
  tokens: jax.Array  # int32 [B, R]; padding after the end
  where: jax.Array  # bool [B, R]; up to the end token, which counts
  info: Any  # what `choose` returns beside each token, [B, R, ...]


# `(logits of each decoder [B, V], key) -> (tokens [B], {name: [B, ...]})`
SampleFn = Callable[[Sequence[jax.Array], jax.Array],
                    tuple[jax.Array, dict[str, jax.Array]]]


def sampler(*, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0
           ) -> SampleFn:
  """Samples from the first decoder.

  Args:
    temperature: of the softmax; 0 takes the token with the largest logit.
    top_k: number of tokens with the largest logits that remain; 0 all. Ties
      remain.
    top_p: of what top_k leaves, the smallest set of the most probable tokens
      with at least this probability remains.
  """
  if temperature < 0 or top_k < 0 or not 0 < top_p <= 1:
    raise core.UserError(
        'sampler: temperature and top_k must be >= 0 and top_p in (0, 1], got '
        f'{temperature}, {top_k}, {top_p}.')

  def choose(logits, key):
    return sample_token(logits[0], key, temperature=temperature, top_k=top_k,
                        top_p=top_p), {}
  return choose


def sample_token(logits: jax.Array, key: jax.Array, *,
                 temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0
                ) -> jax.Array:
  """Tokens `[B]` from logits `[B, V]`; settings as `sampler`."""
  z = core.to_float(logits)
  if temperature == 0:
    return jnp.argmax(z, -1).astype(jnp.int32)
  z = filter_top_k_top_p(z / temperature, top_k=top_k, top_p=top_p)
  return jax.random.categorical(key, z).astype(jnp.int32)


def filter_top_k_top_p(logits: jax.Array, *, top_k: int = 0,
                       top_p: float = 1.0) -> jax.Array:
  """Logits `[..., V]`, -inf where top_k or top_p (see `sampler`) leave out."""
  if top_k and top_k < logits.shape[-1]:
    least = jax.lax.top_k(logits, top_k)[0][..., -1:]
    logits = jnp.where(logits < least, -jnp.inf, logits)
  if top_p < 1:
    falling = -jnp.sort(-logits)
    p = jax.nn.softmax(falling)
    # A token remains while those before it have less than top_p.
    remains = jnp.cumsum(p, -1) - p < top_p
    least = jnp.min(jnp.where(remains, falling, jnp.inf), -1, keepdims=True)
    logits = jnp.where(logits < least, -jnp.inf, logits)
  return logits


def generate(decoders: DecodeModel | Sequence[DecodeModel],
             prompts: jax.Array, *, steps: int, where: jax.Array | None = None,
             key: jax.Array | None = None, choose: SampleFn | None = None,
             stop: int = -1, pad: int = 0) -> Generated:
  """Continues every row until its end token, or for `steps` tokens.

  Each decoder caches keys and values of the tokens so far; to be jitted. The
  random numbers of a row depend on its place among the rows and on the step
  only, not on the width of the padding.

  Args:
    decoders: one, or several that share a vocabulary.
    prompts: int `[B, P]`, padded on the left.
    steps: R, at most.
    where: bool `[B, P]`, False for padding; None: no padding.
    key: of the random numbers; None where `choose` uses none.
    choose: from the logits of the decoders to tokens; None: the largest logit
      of the first decoder.
    stop: the end token; -1 for none.
    pad: token after the end.

  Returns:
    `Generated(tokens, where, info)`.

  Raises:
    UserError: prompt and steps exceed a context.
  """
  if isinstance(decoders, DecodeModel):
    decoders = [decoders]
  choose = choose or sampler(temperature=0)
  key = jax.random.key(0) if key is None else key
  rows, count = prompts.shape
  if where is None:
    where = jnp.ones(prompts.shape, bool)
  at = decoder_block.positions_of(where.astype(jnp.int32))

  def call(decoder, fn):
    return net_lib.call(decoder.net, decoder.params, decoder.stats, fn)[0]

  def extend(decoder, tokens, positions, cache):
    """Logits of the token that follows `tokens`, and the longer cache."""
    def run(model):
      hidden, longer = model.extend(tokens, positions, cache)
      return model.logits(hidden[:, -1]), longer
    return call(decoder, run)

  logits, caches = [], []
  for decoder in decoders:
    cache = call(decoder, lambda m: m.empty_cache(rows, count + steps))
    following, cache = extend(decoder, prompts, at, cache)
    logits.append(following)
    caches.append(cache)

  first = where.sum(1).astype(jnp.int32)
  step_key = lambda step: jax.random.fold_in(key, step)
  shapes = jax.eval_shape(choose, tuple(logits), step_key(0))[1]
  empty = lambda x: jnp.zeros((steps, *x.shape), x.dtype)
  begin = (jnp.int32(0), tuple(logits), tuple(caches), jnp.zeros(rows, bool),
           jnp.full((steps, rows), pad, jnp.int32),
           jnp.zeros((steps, rows), bool), jax.tree.map(empty, shapes))

  def unfinished(carry):
    return (carry[0] < steps) & ~jnp.all(carry[3])

  def one_step(carry):
    step, logits, caches, ended, tokens, valid, info = carry
    token, more = choose(logits, step_key(step))
    token = jnp.where(ended, pad, token)
    tokens, valid = tokens.at[step].set(token), valid.at[step].set(~ended)
    info = jax.tree.map(lambda rows, x: rows.at[step].set(x), info, more)
    ended |= token == stop
    positions = jnp.where(ended, -1, first + step)[:, None]
    outputs = [extend(d, token[:, None], positions, c)
               for d, c in zip(decoders, caches)]
    logits, caches = (tuple(x) for x in zip(*outputs))
    return step + 1, logits, caches, ended, tokens, valid, info

  _, _, _, _, tokens, valid, info = jax.lax.while_loop(
      unfinished, one_step, begin)
  return Generated(tokens.T, valid.T,
                   jax.tree.map(lambda x: x.swapaxes(0, 1), info))
