"""The sum of all operators: they choose coefficients, `mix` adds."""
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
  r"""Sums a base and models; a single factor 1 among zeros is exact.

    (1 - sum_t c_t) base + sum_t c_t m_t

  Args:
    base: `[...]` leaf of the base model; also gives the dtype.
    models: `[T, ...]` the same leaf of T models.
    coefficients: `[T]`, or one per entry: `[T, ...]`, or T arrays `[...]`,
      which compilers fuse into one pass over the leaves.

  Returns:
    `[...]` in base's dtype; the arithmetic is in at least float32. Where one
    coefficient is 1 and the others are 0 it is that model bit for bit, where
    all are 0 the base: signed zeros, subnormals and infinities too. A leaf with
    factor 0 is not read. Gradients flow to base, models and coefficients. A
    leaf that is not floating is copied from the base.

  Departures: a factor of the base within T rounding errors of 0 is 0, because
  ten times 0.1 is not 1 in floats and a soup must not depend on its base.
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

  # A product flushes subnormals and a sum loses -0.0: with one factor 1 among
  # zeros the leaf is copied.
  if flat:
    copied = (jnp.sum(coefficients != 0) + (rest != 0) == 1) & (
        jnp.any(coefficients == 1) | (rest == 1))
  else:
    factors = [*coefficients, rest]
    nonzero = add([(c != 0).astype(jnp.int32) for c in factors])
    one = functools.reduce(operator.or_, [c == 1 for c in factors])
    copied = (nonzero == 1) & one
  copy = base
  for t in range(len(models)):  # no gather: loops fuse, models are not stacked
    copy = jnp.where(coefficients[t] == 1, models[t], copy)
  return _copy_where(copied, copy.astype(base.dtype), total.astype(base.dtype))


def add(terms: Sequence[jax.Array]) -> jax.Array:
  """The sum in the given order, which no compiler may change."""
  return functools.reduce(operator.add, terms)


def _times(factor: jax.Array, leaf: jax.Array) -> jax.Array:
  """`factor * leaf` in at least float32, with 0 * inf = 0 * nan = 0."""
  unread = (factor == 0) & ~jnp.isfinite(leaf)
  return factor * jnp.where(unread, 0, core.to_float(leaf))


@jax.custom_jvp
def _copy_where(copied, copy, total):
  """`copy` where `copied`, else `total`; the gradient is always `total`'s."""
  return jnp.where(copied, copy, total)


@_copy_where.defjvp
def _copy_where_jvp(primals, tangents):
  return _copy_where(*primals), tangents[2]
