"""Shifts of log-probabilities by tuning."""
import jax
from jax import numpy as jnp

from kt_jax import core


def shift(
    fn: str,
    base_logits: jax.Array,
    expert_logits: jax.Array,
    anti_expert_logits: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """`log p_expert - log p_anti`, finite, for each expert.

  Both are over the words that expert and anti-expert have; a word that either
  masks by a logit of -inf has shift 0. Log-probabilities, not logits: where
  some words are not shifted, constants of the others would not cancel.

  Args:
    fn: name of the caller, for the message.
    base_logits: `[..., V]`; sets the shape.
    expert_logits: `[..., V]` or `[T, ..., V]`.
    anti_expert_logits: `[..., V]` or as the expert's.

  Returns:
    The shift `[T, ..., V]`, bool `[T, ..., V]` where only the expert masks a
    word, and log p_anti `[T, ..., V]`; T = 1 if there is one expert.

  Raises:
    UserError: shapes that do not agree.
  """
  _check(fn, base_logits, expert_logits, anti_expert_logits)
  lead = lambda z: core.to_float(z.reshape((-1,) + base_logits.shape))
  expert, anti = jnp.broadcast_arrays(*map(lead, (
      expert_logits, anti_expert_logits)))
  masked = jnp.isneginf(expert) | jnp.isneginf(anti)
  log_e, log_a = (jax.nn.log_softmax(jnp.where(masked, -jnp.inf, z))
                  for z in (expert, anti))
  delta = jnp.where(masked, 0, log_e) - jnp.where(masked, 0, log_a)
  return delta, masked & ~jnp.isneginf(anti), log_a


def _check(fn, base, expert, anti):
  if base.ndim < 1:
    raise core.UserError(f'{fn}: base_logits must be [..., V], got a scalar.')
  for name, z in (('expert_logits', expert), ('anti_expert_logits', anti)):
    if z.shape[-1:] != base.shape[-1:]:
      raise core.UserError(
          f'{fn}: {name} has {z.shape[-1] if z.ndim else "no"} words, '
          f'base_logits {base.shape[-1]}; all models must share one '
          'vocabulary.')
  if expert.shape != base.shape and (
      expert.shape[1:] != base.shape or not len(expert)):
    raise core.UserError(
        f'{fn}: expert_logits has shape {expert.shape}; allowed are '
        f'{base.shape}, that of base_logits, and T >= 1 of these.')
  if anti.shape not in (base.shape, expert.shape):
    raise core.UserError(
        f'{fn}: anti_expert_logits has shape {anti.shape}; allowed are '
        f'{base.shape}, that of base_logits, and {expert.shape}, that of '
        'expert_logits.')
