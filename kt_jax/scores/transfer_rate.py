"""Transfer of a teacher's complementary knowledge."""
import jax
from jax import numpy as jnp

from kt_jax.scores.class_flips import class_flips


def transfer_rate(
    initial_logits: jax.Array,
    student_logits: jax.Array,
    teacher_logits: jax.Array,
    labels: jax.Array,
    where: jax.Array | None = None,
) -> jax.Array:
  """Flips of the student in the teacher's classes, over the teacher's flips.

    sum_{k: t_k > 0} s_k / sum_k t_k,

  `t` counting by class the positive flips of the teacher against the initial
  student, `s` those of the student after transfer. It compares classes, not
  examples: `s` can have flips that the teacher does not have, and the rate can
  exceed 1.

  Args:
    initial_logits: `[N, K]` of the student before transfer.
    student_logits: `[N, K]` of the student after it.
    teacher_logits: `[N, K]`.
    labels: `[N]` integer class ids.
    where: `[N]` examples that count.

  Returns:
    Scalar float32 >= 0; NaN if the teacher has no positive flip: there is
    nothing to transfer.

  References: roth2024fantastic (transfer results).
  """
  teacher = class_flips(initial_logits, teacher_logits, labels, where)
  student = class_flips(initial_logits, student_logits, labels, where)
  return jnp.sum(student, where=teacher > 0) / jnp.sum(teacher)
