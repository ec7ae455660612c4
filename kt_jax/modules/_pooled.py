"""Features as one vector per example."""
from collections.abc import Sequence

import jax
from jax import numpy as jnp

from kt_jax import core


def single(fn: str, argument: str, features):
  """The array of one layer, also from a list of one.

  Raises:
    ValueError: several layers, or no axis of channels.
  """
  if isinstance(features, (list, tuple)):
    if len(features) != 1:
      raise ValueError(f'{fn}: {argument} must be one layer, got '
                       f'{len(features)}: {[f.shape for f in features]}.')
    features, = features
  if len(features.shape) < 2:
    raise ValueError(
        f'{fn}: {argument} must be [B, ..., C], got {features.shape}.')
  return features


def pooled(features: jax.Array | Sequence[jax.Array],
           where: jax.Array | None = None) -> jax.Array:
  """`[B, ..., C]` averaged to `[B, C]`, in at least float32.

  Rows that `where` `[B]` leaves out are 0: their values (possibly NaN) would
  reach the gradient of the weights that all rows share.
  """
  features = core.to_float(single('pooled', 'features', features))
  return valid(features.mean(tuple(range(1, features.ndim - 1))), where)


def valid(x: jax.Array, where: jax.Array | None) -> jax.Array:
  """`x` `[B, ...]` with 0 in the rows that `where` `[B]` leaves out."""
  if where is None:
    return x
  return jnp.where(where.reshape(where.shape + (1,) * (x.ndim - 1)), x, 0)
