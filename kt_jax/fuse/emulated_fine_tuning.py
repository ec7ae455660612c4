"""Emulated fine-tuning, proxy tuning, up-scaling, down-scaling."""
import jax
from jax import numpy as jnp

from kt_jax import core
from kt_jax.fuse._shift import shift


def emulated_fine_tuning(
    base_logits: jax.Array,
    expert_logits: jax.Array,
    anti_expert_logits: jax.Array,
    *,
    scale: float | jax.Array = 1.0,
    top_p: float = 1.0,
) -> jax.Array:
  r"""Shifts a model as tuning shifted others.

    log p = log p_base + sum_t b_t (log p_t - log p_anti,t) - log Z.

  Up-scaling is a large base and small experts, down-scaling the reverse, with
  the same formula. Proxy tuning writes it with logits in place of
  log-probabilities; normalized, they are one.

  Args:
    base_logits: `[..., V]` raw logits of the model that was not tuned.
    expert_logits: `[..., V]`, or `[T, ..., V]` for several tuned models.
    anti_expert_logits: `[..., V]` or as the expert's: the experts before
      they were tuned.
    scale: b, a scalar, one per expert `[T]`, or one per expert and token,
      `[...]` or `[T, ...]`; possibly traced. Several at 1 add up: for a blend
      of behaviors let them sum to 1.
    top_p: in [0, 1]; not traced. Only words in the base's nucleus are shifted:
      the most probable ones until their sum reaches `top_p`, ties included; the
      others keep the base's odds to one another. 1: all are shifted.

  Returns:
    `[..., V]` log-probabilities, at least float32. A word that the base masks
    (a logit of -inf) stays masked; one that would be shifted and that only an
    expert with b > 0 masks is masked; one that an anti-expert masks is not
    shifted.

  Raises:
    UserError: another vocabulary or T, or `top_p` outside [0, 1].

  Departures: the paper has no code; it limits the weights of words of low
  probability, without a formula that we could check: the nucleus is our
  reading, and off by default. The code of proxy tuning cuts an expert's longer
  vocabulary to the base's; here that is left to the caller, as which words
  agree is not known here.

  References: mitchell2023eft, Sec. 3; liu2024proxy, Sec. 2, at scale 1.
  """
  fn = 'emulated_fine_tuning'
  core.check_fraction(fn, top_p=top_p)
  delta, masked, _ = shift(fn, base_logits, expert_logits, anti_expert_logits)
  b = _per_expert(fn, scale, delta, expert_logits)
  log_base = jax.nn.log_softmax(core.to_float(base_logits))
  if top_p < 1:
    inside = _nucleus(log_base, top_p)
    delta, masked = jnp.where(inside, delta, 0), masked & inside
  shifted = log_base + jnp.sum(b * delta, axis=0)
  return jax.nn.log_softmax(
      jnp.where(jnp.any(masked & (b > 0), axis=0), -jnp.inf, shifted))


def _per_expert(fn: str, scale: float | jax.Array, delta: jax.Array,
                expert_logits: jax.Array) -> jax.Array:
  """`scale` with the axes of `delta` `[T, ..., V]`."""
  scale = jnp.asarray(scale, delta.dtype)
  lead = expert_logits.shape[:-1]
  several = expert_logits.ndim == delta.ndim
  if scale.shape not in ((), lead) and not (
      several and scale.shape == lead[:1]):
    raise core.UserError(
        f'{fn}: scale has shape {scale.shape}; allowed are a scalar, '
        f'{f"{lead[:1]}, one per expert, " if several else ""}and {lead}, one '
        'for each distribution of expert_logits.')
  if scale.ndim and not several:
    scale = scale[None]
  return scale.reshape(scale.shape + (1,) * (delta.ndim - scale.ndim))


def _nucleus(log_p: jax.Array, top_p: float) -> jax.Array:
  """Mask `[..., V]` of the most probable words, until they sum to `top_p`."""
  p = jnp.exp(log_p)
  descending = -jnp.sort(-p, axis=-1)
  before = jnp.cumsum(descending, axis=-1) - descending
  least = jnp.min(jnp.where(before < top_p, descending, jnp.inf), axis=-1)
  return p >= least[..., None]
