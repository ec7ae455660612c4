"""How many predictions a new model changes."""
import jax

from kt_jax.scores import flips


def churn(
    initial_logits: jax.Array,
    student_logits: jax.Array,
    where: jax.Array | None = None,
) -> jax.Array:
  """Share of examples whose predicted class is another after transfer.

    1/n sum_i 1[argmax_k z_0,ik != argmax_k z_s,ik],

  of which `knowledge_gain` are wins, `knowledge_loss` losses, and the rest
  goes from one wrong class to another.

  Args:
    initial_logits: `[N, K]` of the model before.
    student_logits: `[N, K]` of the model after.
    where: `[N]` examples that count.

  Returns:
    Scalar float32 in [0, 1]; 0 where no example counts. A row with NaN counts
    as changed.

  Departures: none.

  References: milanifard2016churn.
  """
  return flips.rate(~flips.same(
      'churn', where, initial_logits=initial_logits,
      student_logits=student_logits), where)
