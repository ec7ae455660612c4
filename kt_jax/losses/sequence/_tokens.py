"""Valid tokens, for losses that read all tokens at once."""
import jax
from jax import numpy as jnp

from kt_jax.losses import _rows


def valid_tokens(fn: str, student_logits: jax.Array, teacher_logits: jax.Array,
                 labels: jax.Array, where: jax.Array | None):
  """Mask of the tokens that count, and the arrays with 0 in all others.

  Args:
    fn: name of the caller, for the message.
    student_logits: `[..., V]`.
    teacher_logits: the same shape.
    labels: `[...]` integer.
    where: `[...]` bool; None: all.

  Returns:
    `[...]` bool; student_logits, teacher_logits (floats) and labels.

  Raises:
    ValueError: labels or where of another shape.
  """
  lead = student_logits.shape[:-1]
  for name, value in dict(labels=labels, where=where).items():
    if value is not None and value.shape != lead:
      raise ValueError(f'{fn}: {name} has shape {value.shape}; it must be '
                       f'{lead}, one entry per token.')
  valid = jnp.ones(lead, bool) if where is None else where.astype(bool)
  return (valid, _rows.blank(student_logits, valid),
          _rows.blank(teacher_logits, valid), jnp.where(valid, labels, 0))
