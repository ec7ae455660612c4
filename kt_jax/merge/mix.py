"""The one sum: every operator chooses coefficients, this adds up."""
from collections.abc import Sequence
import functools
import operator

import jax
from jax import numpy as jnp

from kt_jax import core


def mix(
    base: jax.Array,
    models: jax.Array,
    coefficients: jax.Array | Sequence[jax.Array],
) -> jax.Array:
  r"""Sums a base and models so that what has factor 1 alone comes out exact.

    (1 - sum_t c_t) base + sum_t c_t m_t

  Args:
    base: `[...]` leaf of the base model; also gives the dtype.
    models: `[T, ...]` the same leaf of T models.
    coefficients: `[T]`, or one a leaf entry: `[T, ...]`, or T arrays `[...]`,
      which compilers fuse into one pass over the leaves.

  Returns:
    `[...]` in base's dtype; the arithmetic is in at least float32. Where one
    coefficient is 1 and the others are 0 it is that model bit for bit, where
    all are 0 the base: signed zeros, subnormals and infinities too. What has
    factor 0 is not read. Gradients flow to base, models and coefficients. A
    leaf that is not floating is copied from the base.

  Departures: a factor of the base within T rounding errors of 0 is 0, for ten
  times 0.1 is not 1 in floats and a soup must not depend on its base.

  References: none.
  """
  if not jnp.issubdtype(base.dtype, jnp.inexact):
    return base
  flat = not isinstance(coefficients, Sequence) and jnp.ndim(coefficients) == 1
  if flat:
    coefficients = core.to_float(coefficients)
    rest = 1 - jnp.sum(coefficients)
  else:
    coefficients = [core.to_float(jnp.asarray(c)) for c in coefficients]
    rest = 1 - add(coefficients)
  noise = len(models) * jnp.finfo(rest.dtype).eps
  # Subtracted rather than selected, so that coefficients keep their gradient.
  rest -= jax.lax.stop_gradient(jnp.where(jnp.abs(rest) <= noise, rest, 0))

  total = _times(rest, base)
  for t in range(len(models)):  # in this order, on any mesh
    total += _times(coefficients[t], models[t])

  # A product flushes subnormals and a sum loses -0.0: one factor 1 among zeros
  # takes the leaf as it is.
  if flat:
    alone = (jnp.sum(coefficients != 0) + (rest != 0) == 1) & (
        jnp.any(coefficients == 1) | (rest == 1))
  else:
    factors = [*coefficients, rest]
    read = add([(c != 0).astype(jnp.int32) for c in factors])
    one = functools.reduce(operator.or_, [c == 1 for c in factors])
    alone = (read == 1) & one
  only = base
  for t in range(len(models)):  # no gather: loops fuse, models are not stacked
    only = jnp.where(coefficients[t] == 1, models[t], only)
  return _value_of(alone, only.astype(base.dtype), total.astype(base.dtype))


def add(terms: Sequence[jax.Array]) -> jax.Array:
  """The sum, in order: no compiler may choose another."""
  return functools.reduce(operator.add, terms)


def check_stack(fn: str, base: jax.Array, models: jax.Array,
                weight: jax.Array) -> None:
  """Refuses models that are not `[T, ...]` and weights that are not `[T]`.

  Raises:
    UserError: names the argument and its shape.
  """
  if models.ndim < 1 or not len(models) or models.shape[1:] != base.shape:
    raise core.UserError(
        f'{fn}: models has shape {models.shape}; base asks for (T,) + '
        f'{base.shape}, T >= 1.')
  if weight.shape != models.shape[:1]:
    raise core.UserError(f'{fn}: weight has shape {weight.shape}; models asks '
                         f'for {models.shape[:1]}.')


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
