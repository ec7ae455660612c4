"""Logits at a temperature."""
import jax
from jax import numpy as jnp

from kt_jax import core


def temper(fn: str, temperature: float | jax.Array,
           *logits: jax.Array) -> list[jax.Array]:
  """Each of `logits` `[..., K]` over the temperature, in at least float32.

  Args:
    fn: name of the caller, for the message.
    temperature: > 0, a scalar or one per example, `[...]`; possibly traced.
    *logits: of one shape.

  Raises:
    ValueError: a temperature of 0 or less (unless traced), or another shape.
  """
  core.check_positive(fn, temperature=temperature)
  lead = logits[0].shape[:-1]
  if jnp.ndim(temperature):
    if jnp.shape(temperature) != lead:
      raise ValueError(
          f'{fn}: temperature has shape {jnp.shape(temperature)}; allowed are '
          f'a scalar and {lead}, one for each example of the logits.')
    temperature = jnp.asarray(temperature)[..., None]
  return [core.to_float(z) / temperature for z in logits]
