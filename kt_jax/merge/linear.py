"""Weighted sums of models."""
import jax
from jax import numpy as jnp

from kt_jax import core


def linear(
    base: jax.Array, models: jax.Array, weight: jax.Array) -> jax.Array:
  r"""Moves a leaf from the base towards the models.

    (1 - sum_t w_t) base + sum_t w_t m_t

  Weights 1/T make a uniform soup (and FedAvg), in which the base has no part.
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
    signed zeros, subnormals and infinities too. What has factor 0 is not read,
    so that an infinity in it makes no NaN. A leaf that is not floating (counts,
    masks, PRNG keys) is copied from the base.

  Departures: a factor of the base within T rounding errors of 0 is 0, for ten
  times 0.1 is not 1 in floats and a soup must not depend on its base.

  References: wortsman2022soups, Sec. 2 (uniform soup); roth2024fantastic
  (momentum-based interpolation).
  """
  weight = core.to_float(jnp.asarray(weight))
  if models.ndim < 1 or not len(models) or models.shape[1:] != base.shape:
    raise ValueError(
        f'linear: models has shape {models.shape}; base asks for (T,) + '
        f'{base.shape}, T >= 1.')
  if weight.shape != models.shape[:1]:
    raise ValueError(f'linear: weight has shape {weight.shape}; models asks '
                     f'for {models.shape[:1]}.')
  if not jnp.issubdtype(base.dtype, jnp.inexact):
    return base

  rest = 1 - jnp.sum(weight)
  noise = len(models) * jnp.finfo(weight.dtype).eps
  # Subtracted rather than selected, so that the weights keep their gradient.
  rest -= jax.lax.stop_gradient(jnp.where(jnp.abs(rest) <= noise, rest, 0))

  total = _times(rest, base)
  for t in range(len(models)):  # in this order, on any mesh
    total += _times(weight[t], models[t])

  # A product flushes subnormals and a sum loses -0.0: one factor 1 among zeros
  # takes the leaf as it is.
  alone = (jnp.sum(weight != 0) + (rest != 0) == 1) & (
      jnp.any(weight == 1) | (rest == 1))
  only = jnp.where(rest == 1, base, models[jnp.argmax(weight == 1)])
  return _value_of(alone, only.astype(base.dtype), total.astype(base.dtype))


def _times(factor: jax.Array, leaf: jax.Array) -> jax.Array:
  """`factor * leaf` in at least float32, with 0 * inf = 0 * nan = 0."""
  unread = (factor == 0) & ~jnp.isfinite(leaf)
  return factor * jnp.where(unread, 0, core.to_float(leaf))


@jax.custom_jvp
def _value_of(alone, only, total):
  """`only` where `alone`, else `total`; the gradient is always `total`'s."""
  return jnp.where(alone, only, total)


@_value_of.defjvp
def _value_of_jvp(primals, tangents):
  return _value_of(*primals), tangents[2]
