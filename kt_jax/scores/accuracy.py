"""Accuracy."""
import jax

from kt_jax.scores import _flips


def accuracy(
    student_logits: jax.Array,
    labels: jax.Array,
    where: jax.Array | None = None,
) -> jax.Array:
  """Share of examples whose largest logit is the label's.

  Args:
    student_logits: `[N, K]`.
    labels: `[N]` integer class ids.
    where: `[N]` examples that count.

  Returns:
    Scalar float32 in [0, 1]; 0 where no example counts. A row with NaN is
    wrong.
  """
  _flips.check('accuracy', labels, where, student_logits=student_logits)
  return _flips.rate(_flips.correct(student_logits, labels), where)
