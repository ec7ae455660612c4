"""Accuracy of the k largest logits."""
import operator

import jax
from jax import numpy as jnp

from kt_jax import core
from kt_jax.scores import _flips


def top_k_accuracy(
    student_logits: jax.Array,
    labels: jax.Array,
    where: jax.Array | None = None,
    *,
    k: int = 5,
) -> jax.Array:
  """Share of examples whose label is among the k largest logits.

  Of equal logits the first ranks higher, so that k = 1 is `accuracy`.

  Args:
    student_logits: `[N, K]`.
    labels: `[N]` integer class ids.
    where: `[N]` examples that count.
    k: from 1 to K.

  Returns:
    Scalar float32 in [0, 1]; 0 where no example counts. A row with NaN is
    wrong.
  """
  _flips.check('top_k_accuracy', labels, where, student_logits=student_logits)
  classes = student_logits.shape[-1]
  if isinstance(k, bool) or not hasattr(k, '__index__') or not (
      1 <= operator.index(k) <= classes):
    raise core.UserError('top_k_accuracy: k must be an integer from 1 to '
                         f'{classes}, the number of classes, got {k}.')
  own = jnp.take_along_axis(
      student_logits, jnp.clip(labels, 0, classes - 1)[:, None], axis=-1)
  ahead = (student_logits > own) | (
      (student_logits == own) & (jnp.arange(classes) < labels[:, None]))
  in_range = (labels >= 0) & (labels < classes)
  defined = ~jnp.isnan(jnp.max(student_logits, axis=-1))
  return _flips.rate(
      in_range & defined & (jnp.sum(ahead, axis=-1) < k), where)
