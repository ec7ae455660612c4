"""Argument validation."""
import jax
import numpy as np

from kt_jax.core.names import UserError


def check_logits(fn: str, **logits) -> None:
  """Refuses logits `[..., K]` that cannot be compared with one another.

  Args:
    fn: name of the caller, for the message.
    **logits: argument name -> array; the first sets the shape.

  Raises:
    ValueError: no class axis, or shapes that differ.
  """
  (first, reference), *others = logits.items()
  if reference.ndim < 1:
    raise ValueError(f'{fn}: {first} must be [..., K], got a scalar.')
  for name, value in others:
    if value.shape != reference.shape:
      raise ValueError(
          f'{fn}: {name} has shape {value.shape}, {first} {reference.shape}; '
          'they must agree (the last axis is the classes).')


def check_positive(fn: str, **settings) -> None:
  """Refuses settings that are not above 0; traced ones pass.

  Raises:
    UserError: names the setting and its value.
  """
  for name, value in settings.items():
    if not isinstance(value, jax.core.Tracer) and not np.all(
        np.asarray(value) > 0):
      raise UserError(f'{fn}: {name} must be > 0, got {value}.')


def check_fraction(fn: str, **settings) -> None:
  """Refuses settings outside [0, 1]; traced ones pass.

  Raises:
    UserError: names the setting and its value.
  """
  for name, value in settings.items():
    if not isinstance(value, jax.core.Tracer) and not 0 <= value <= 1:
      raise UserError(f'{fn}: {name} must be in [0, 1], got {value}.')
