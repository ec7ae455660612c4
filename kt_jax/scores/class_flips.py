"""Positive flips by class."""
import jax
from jax import numpy as jnp

from kt_jax.scores import _flips


def class_flips(
    student_logits: jax.Array,
    teacher_logits: jax.Array,
    labels: jax.Array,
    where: jax.Array | None = None,
) -> jax.Array:
  """Number of examples per class that only the teacher gets right.

  Args:
    student_logits: `[N, K]`.
    teacher_logits: `[N, K]`.
    labels: `[N]` integer class ids.
    where: `[N]` examples that count.

  Returns:
    `[K]` int32 counts; they sum to `n * rho_positive`.

  References: roth2024fantastic (complementary knowledge).
  """
  hits = _flips.positive_flips(
      'class_flips', labels, student_logits=student_logits,
      teacher_logits=teacher_logits, where=where)
  # A label out of range is never a hit: it adds 0, wherever it is added.
  counts = jnp.zeros(student_logits.shape[-1], jnp.int32)
  return counts.at[labels].add(hits.astype(jnp.int32), mode='drop')
