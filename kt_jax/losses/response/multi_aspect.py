"""Multi-aspect knowledge distillation."""
import jax
from jax import numpy as jnp

from kt_jax import core


def multi_aspect(
    student_aspects: jax.Array,
    teacher_aspects: jax.Array,
) -> jax.Array:
  r"""Binary cross entropy with a language model's answers about an image.

    -1/Q sum_q [t_q log s(z_q) + (1 - t_q) log(1 - s(z_q))],   s the sigmoid.

  Args:
    student_aspects: `[..., Q]` raw logits z, one for each yes/no question.
    teacher_aspects: `[..., Q]` probabilities t of "yes", in [0, 1].

  Returns:
    `[...]` losses in nats, at least float32. Their floor is the mean entropy of
    the targets, where s(z) = t. Beside the task's cross entropy
    the paper weighs it by 4.

  References: lee2024multiaspect, Sec. 3.
  """
  if (student_aspects.shape != teacher_aspects.shape
      or not student_aspects.ndim):
    raise ValueError(
        f'multi_aspect: teacher_aspects has shape {teacher_aspects.shape}, '
        f'student_aspects {student_aspects.shape}; they must be [..., Q] and '
        'agree.')
  z, t = map(core.to_float, (student_aspects, teacher_aspects))
  return -jnp.mean(t * jax.nn.log_sigmoid(z)
                   + (1 - t) * jax.nn.log_sigmoid(-z), axis=-1)
