"""Divergences between a distribution and its shift."""
import jax
from jax import numpy as jnp


def divergences(
    log_p: jax.Array, move: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array]:
  r"""KL(q || p) and KL(p || q) of `q = softmax(log p + move)`.

  With r = log q - log p, sums of terms that are >= 0:

    KL(p || q) = sum p (e^r - 1 - r),   KL(q || p) = sum p (r e^r - e^r + 1).

  Where language models are confident, divergences are tiny: the usual sums
  cancel down to rounding, these do not.

  Args:
    log_p: `[..., V]` log-probabilities, -inf where masked.
    move: `[..., V]`, finite.

  Returns:
    KL(q || p) and KL(p || q) `[...]` in nats, and q `[..., V]`.
  """
  z = log_p + move
  level = jax.nn.logsumexp(z, axis=-1, keepdims=True)
  p, q, r = jnp.exp(log_p), jnp.exp(z - level), move - level
  # e^r can overflow where p is almost 0.
  gap = jnp.where(r < 1, p * jnp.expm1(r), q - p)
  return jnp.sum(q * r - gap, axis=-1), jnp.sum(gap - p * r, axis=-1), q
