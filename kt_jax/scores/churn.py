"""Predictions changed by a new model."""
import jax

from kt_jax.scores import _flips


def churn(
    initial_logits: jax.Array,
    student_logits: jax.Array,
    where: jax.Array | None = None,
) -> jax.Array:
  """Share of examples with another predicted class after transfer.

    1/n sum_i 1[argmax_k z_0,ik != argmax_k z_s,ik],

  of which `knowledge_gain` is gained, `knowledge_loss` lost, and the rest moves
  from one wrong class to another.

  Args:
    initial_logits: `[N, K]` of the model before.
    student_logits: `[N, K]` of the model after.
    where: `[N]` examples that count.

  Returns:
    Scalar float32 in [0, 1]; 0 where no example counts. A row with NaN counts
    as changed.

  References: milanifard2016churn.
  """
  return _flips.rate(~_flips.same(
      'churn', where, initial_logits=initial_logits,
      student_logits=student_logits), where)
