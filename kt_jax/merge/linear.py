"""Weighted sums of models."""
import jax
from jax import numpy as jnp

from kt_jax import core
from kt_jax.merge._check import check_stack
from kt_jax.merge.contract import declare
from kt_jax.merge.mix import mix


def linear(
    base: jax.Array, models: jax.Array, weight: jax.Array) -> jax.Array:
  r"""Moves a leaf from the base towards the models.

    (1 - sum_t w_t) base + sum_t w_t m_t

  Weights 1/T make a uniform soup (and FedAvg), in which the base has factor 0.
  One model at weight 1 - tau makes momentum-based interpolation, the MCL of
  roth2024fantastic: theta_slow <- tau theta_slow + (1 - tau) theta_fast is
  `over_tree(linear, slow, [fast], [1 - tau])`.

  Args:
    base: `[...]` leaf of the base model; also gives the dtype.
    models: `[T, ...]` the same leaf of T models.
    weight: `[T]`, any finite reals, possibly traced.

  Returns:
    `[...]` in base's dtype; the arithmetic is in at least float32. With one
    weight 1 and the others 0 it is that model bit for bit, with all 0 the base:
    signed zeros, subnormals and infinities too. A leaf with factor 0 is not
    read, so that an infinity in it makes no NaN. A leaf that is not floating
    (counts, masks, PRNG keys) is copied from the base.

  Departures: a factor of the base within T rounding errors of 0 is 0, because
  ten times 0.1 is not 1 in floats and a soup must not depend on its base.

  References: wortsman2022soups, Sec. 2 (uniform soup); roth2024fantastic
  (momentum-based interpolation).
  """
  weight = core.to_float(jnp.asarray(weight))
  check_stack('linear', base, models, weight)
  return mix(base, models, weight)


declare(linear, entrywise=True)
