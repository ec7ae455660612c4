"""Knowledge token and output distillation of ViTPose."""
import jax
from jax import numpy as jnp

from kt_jax.losses.feature._layers import matched_layers


def knowledge_token(
    student_features: jax.Array,
    teacher_features: jax.Array,
    targets: jax.Array | None = None,
) -> jax.Array:
  r"""Squared errors of a student with a teacher's knowledge token.

    mean_i (s_i - t_i)^2 + mean_i (s_i - y_i)^2,

  the second if there are targets. The token is an input of the student
  (`knowledge_tokens` of `models.vit_*`): first trained alone in the frozen
  teacher, on the targets, then frozen; it fits students of the same width.

  Args:
    student_features: `[B, ...]` outputs, such as heatmaps `[B, H, W, J]`.
    teacher_features: the same of the teacher without the token; no gradient is
      stopped here.
    targets: the ground truth of the same shape; None leaves that term out.

  Returns:
    `[B]` losses, at least float32, in squared units of the outputs; 0 where
    all are equal.

  Departures: there is no public code of the token to compare with. Without it
  this is the paper's output distillation; for the token alone, and to train it,
  use `losses.hint` with the targets as `teacher_features`.

  References: xu2022vitpose, Sec. 3, the transferability of ViTPose.
  """
  fn = 'knowledge_token'
  for name, value in dict(teacher_features=teacher_features,
                          targets=targets).items():
    if value is not None and value.shape != student_features.shape:
      raise ValueError(f'{fn}: {name} has shape {value.shape}, '
                       f'student_features {student_features.shape}; they must '
                       'agree.')

  def error(outputs):
    (s, t), = matched_layers(fn, student_features, outputs)
    return jnp.mean((s - t)**2, axis=tuple(range(1, s.ndim)))

  total = error(teacher_features)
  return total if targets is None else total + error(targets)
