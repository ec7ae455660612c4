"""Tokens after a prompt, by one decoder or several, one token at a time.

Axes: B rows, P positions of the prompt, R new positions, V vocabulary.
"""
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
from jax import numpy as jnp

from kt_jax import core
from kt_jax.models import decoder_block
from kt_jax.models import net as net_lib


class Member(NamedTuple):
  """A decoder that takes part."""
  net: net_lib.Net
  params: net_lib.Arrays
  stats: net_lib.Arrays


class Generated(NamedTuple):
  tokens: jax.Array  # int32 [B, R]; padding after the end
  where: jax.Array  # bool [B, R]; up to the end token, which counts
  info: Any  # what `choose` said of each token, [B, R, ...]


# `(logits of each member [B, V], key) -> (tokens [B], {name: [B, ...]})`
Choose = Callable[[Sequence[jax.Array], jax.Array],
                  tuple[jax.Array, dict[str, jax.Array]]]


def sampler(*, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0
           ) -> Choose:
  """Draws from the first member.

  Args:
    temperature: of the draw; 0 takes the likeliest token.
    top_k: how many of the likeliest are left; 0 all. Ties stay.
    top_p: the fewest that have so much of the probability are left.
  """
  if temperature < 0 or top_k < 0 or not 0 < top_p <= 1:
    raise core.UserError(
        'sampler: temperature and top_k must be 0 or more and top_p in (0, 1], '
        f'got {temperature}, {top_k}, {top_p}.')

  def choose(logits, key):
    return draw(logits[0], key, temperature=temperature, top_k=top_k,
                top_p=top_p), {}
  return choose


def draw(logits: jax.Array, key: jax.Array, *, temperature: float = 1.0,
         top_k: int = 0, top_p: float = 1.0) -> jax.Array:
  """Tokens `[B]` from logits `[B, V]`; see `sampler`."""
  z = core.to_float(logits)
  if temperature == 0:
    return jnp.argmax(z, -1).astype(jnp.int32)
  z = keep_likeliest(z / temperature, top_k=top_k, top_p=top_p)
  return jax.random.categorical(key, z).astype(jnp.int32)


def keep_likeliest(logits: jax.Array, *, top_k: int = 0, top_p: float = 1.0
                  ) -> jax.Array:
  """Logits `[..., V]`, -inf where a token is not among the likeliest."""
  if top_k and top_k < logits.shape[-1]:
    least = jax.lax.top_k(logits, top_k)[0][..., -1:]
    logits = jnp.where(logits < least, -jnp.inf, logits)
  if top_p < 1:
    falling = -jnp.sort(-logits)
    p = jax.nn.softmax(falling)
    # A token stays while those before it have less than top_p.
    stays = jnp.cumsum(p, -1) - p < top_p
    least = jnp.min(jnp.where(stays, falling, jnp.inf), -1, keepdims=True)
    logits = jnp.where(logits < least, -jnp.inf, logits)
  return logits


def generate(members: Member | Sequence[Member], prompts: jax.Array, *,
             steps: int, where: jax.Array | None = None,
             key: jax.Array | None = None, choose: Choose | None = None,
             stop: int = -1, pad: int = 0) -> Generated:
  """Continues every row until its end token, or for `steps` tokens.

  Each member keeps the keys and values of what it has seen; to be jitted. The
  draw of a row hangs on its place among the rows and on the step alone, not on
  the width of the padding.

  Args:
    members: one, or several that share a vocabulary.
    prompts: int `[B, P]`, padded on the left.
    steps: R, at most.
    where: bool `[B, P]`, what of them is no padding; None all.
    key: of the draws; None where `choose` draws nothing.
    choose: how a token comes of the members' logits; None is the likeliest of
      the first.
    stop: the end token; -1 for none.
    pad: what stands after it.

  Returns:
    `Generated(tokens, where, info)`.

  Raises:
    UserError: prompt and steps exceed a context.
  """
  if isinstance(members, Member):
    members = [members]
  choose = choose or sampler(temperature=0)
  key = jax.random.key(0) if key is None else key
  rows, count = prompts.shape
  if where is None:
    where = jnp.ones(prompts.shape, bool)
  at = decoder_block.positions_of(where.astype(jnp.int32))

  def extend(member, tokens, positions, cache):
    def run(model):
      hidden, new = model.extend(tokens, positions, cache)
      return model.logits(hidden[:, -1]), new
    return net_lib.call(*member, run)[0]

  logits, caches = [], []
  for member in members:
    cache = net_lib.call(
        *member, lambda m: m.empty_cache(rows, count + steps))[0]
    found, cache = extend(member, prompts, at, cache)
    logits.append(found)
    caches.append(cache)

  first = where.sum(1).astype(jnp.int32)
  draw_key = lambda step: jax.random.fold_in(key, step)
  shapes = jax.eval_shape(choose, tuple(logits), draw_key(0))[1]
  room = lambda x: jnp.zeros((steps, *x.shape), x.dtype)
  begin = (jnp.int32(0), tuple(logits), tuple(caches), jnp.zeros(rows, bool),
           jnp.full((steps, rows), pad, jnp.int32),
           jnp.zeros((steps, rows), bool), jax.tree.map(room, shapes))

  def more(carry):
    return (carry[0] < steps) & ~jnp.all(carry[3])

  def one(carry):
    step, logits, caches, ended, tokens, valid, info = carry
    token, said = choose(logits, draw_key(step))
    token = jnp.where(ended, pad, token)
    tokens, valid = tokens.at[step].set(token), valid.at[step].set(~ended)
    info = jax.tree.map(lambda all_, x: all_.at[step].set(x), info, said)
    ended |= token == stop
    positions = jnp.where(ended, -1, first + step)[:, None]
    found = [extend(m, token[:, None], positions, c)
             for m, c in zip(members, caches)]
    return (step + 1, tuple(f[0] for f in found), tuple(f[1] for f in found),
            ended, tokens, valid, info)

  _, _, _, _, tokens, valid, info = jax.lax.while_loop(more, one, begin)
  return Generated(tokens.T, valid.T,
                   jax.tree.map(lambda x: x.swapaxes(0, 1), info))
