"""Mixtures of distributions, as logarithms."""
import jax
from jax import numpy as jnp

from kt_jax import core


def log_mixture(log_p: jax.Array, log_q: jax.Array,
                weight: float | jax.Array) -> jax.Array:
  """`log(w p + (1 - w) q)` from log p and log q `[..., K]`, 0 < w < 1.

  A class that both mask stays at -inf and has gradient 0.
  """
  masked = jnp.isneginf(log_p) & jnp.isneginf(log_q)
  a, b = (jnp.where(masked, 0, x) for x in (log_p, log_q))
  mixed = jnp.logaddexp(a + jnp.log(weight), b + jnp.log1p(-weight))
  return jnp.where(masked, -jnp.inf, mixed)


def check_skew(fn: str, skew: float) -> None:
  """Refuses a share of the target that leaves nothing to learn."""
  if not 0 <= skew < 1:
    raise core.UserError(f'{fn}: skew must be in [0, 1), got {skew}.')
