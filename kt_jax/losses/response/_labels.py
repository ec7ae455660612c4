"""Values per class at a label, hard or soft."""
import jax
from jax import numpy as jnp

from kt_jax import core


def is_true(fn: str, values: jax.Array, labels: jax.Array) -> jax.Array:
  """One-hot mask of the true class.

  Args:
    fn: name of the caller, for the message.
    values: `[..., K]`.
    labels: `[...]` integer ids.

  Returns:
    `[..., K]` bool; all False for an id outside 0..K-1.

  Raises:
    ValueError: labels of another shape, or not integer.
  """
  if not jnp.issubdtype(labels.dtype, jnp.integer):
    raise ValueError(f'{fn}: labels must be integer class ids; got '
                     f'{labels.dtype}.')
  if labels.shape != values.shape[:-1]:
    raise ValueError(
        f'{fn}: labels (class ids) must have shape {values.shape[:-1]}, that '
        f'of student_logits less the class axis; got {labels.shape}.')
  return labels[..., None] == jnp.arange(values.shape[-1])


def expected(fn: str, values: jax.Array, labels: jax.Array) -> jax.Array:
  """`sum_k y_k v_k`: the true class's value where labels are class ids.

  Args:
    fn: name of the caller, for the message.
    values: `[..., K]`, finite or -inf.
    labels: `[...]` integer ids, or `[..., K]` probabilities.

  Returns:
    `[...]`. A class of probability 0 counts 0, also where its value is -inf.
    An id outside 0..K-1 gives NaN: padding is for `where`, not for a label.

  Raises:
    ValueError: labels of another shape, or neither integer nor floating.
  """
  if jnp.issubdtype(labels.dtype, jnp.integer):
    true = is_true(fn, values, labels)
    in_range = jnp.any(true, axis=-1)
    return jnp.where(in_range, jnp.sum(values, axis=-1, where=true), jnp.nan)
  if not jnp.issubdtype(labels.dtype, jnp.floating):
    raise ValueError(f'{fn}: labels must be integer class ids or floating '
                     f'probabilities; got {labels.dtype}.')
  if labels.shape != values.shape:
    raise ValueError(f'{fn}: labels (probabilities) must have the shape of '
                     f'student_logits, {values.shape}; got {labels.shape}.')
  labels = core.to_float(labels)
  # Twice `where`, or the gradient of 0 * -inf is NaN.
  safe = jnp.where(labels == 0, 0, values)
  return jnp.sum(labels * safe, axis=-1)
