"""Argument checks that leaf operators share."""
import jax
from jax import numpy as jnp
import numpy as np

from kt_jax import core


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


def check_one_model(fn: str, models: jax.Array) -> None:
  """Refuses more than one model.

  Raises:
    UserError: names the number of models.
  """
  if len(models) != 1:
    raise core.UserError(f'{fn}: takes one model beside the base, got '
                         f'{len(models)}.')


def normalized(fn: str, weight: jax.Array, least: float = -np.inf
               ) -> jax.Array:
  """Weights over their sum.

  Raises:
    UserError: they sum to 0, or one is below `least`.
  """
  if not isinstance(weight, jax.core.Tracer):
    values = np.asarray(weight)
    if (values < least).any():
      raise core.UserError(f'{fn}: weight must be >= {least}, got {values}.')
    if values.sum() == 0:
      raise core.UserError(f'{fn}: weight must not sum to 0, got {values}.')
  weight = core.to_float(weight)
  total = jnp.sum(weight)
  return weight / jnp.where(total == 0, 1, total)
