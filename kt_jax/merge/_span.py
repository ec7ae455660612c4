"""Sums in which the base is one vector among the others."""
import jax
from jax import numpy as jnp

from kt_jax import core
from kt_jax.merge.mix import mix


def span(base: jax.Array, models: jax.Array, coefficients: jax.Array,
         origin: str = 'base', share: jax.Array | float | None = None
         ) -> jax.Array:
  """`mix`, or a sum whose coefficients need not add up to one.

    origin 'base':  base + sum_t c_t (m_t - base)
    origin 'zero':  share base + sum_t c_t m_t

  Args:
    base: `[...]` leaf of the base model; also gives the dtype.
    models: `[T, ...]`.
    coefficients: `[T]` or `[T, ...]`.
    origin: as above.
    share: factor of the base with origin 'zero'; None leaves it out.

  Returns:
    `[...]` in base's dtype, exact where one factor is 1 and the rest 0.
  """
  factors = lambda c: list(c) if c.ndim > 1 else c
  if origin == 'base':
    return mix(base, models, factors(coefficients))
  # mix gives its base, which is zero here, what the factors lack of 1.
  if share is not None:
    models = jnp.concatenate([core.to_float(base)[None],
                              core.to_float(models)])
    coefficients = jnp.concatenate([jnp.reshape(share, (1,)), coefficients])
  return mix(jnp.zeros_like(base), models, factors(coefficients))
