"""Knowledge token and output distillation of ViTPose."""
import jax
from jax import numpy as jnp

from kt_jax.losses.feature.layers import pairs


def knowledge_token(
    student_features: jax.Array,
    teacher_features: jax.Array,
    targets: jax.Array | None = None,
) -> jax.Array:
  r"""Squared error of a student that is given the token, to the teacher.

    mean_i (s_i - t_i)^2 + mean_i (s_i - y_i)^2,

  the second where there are targets. The token is an input of the student
  (`knowledge_tokens` of `models.vit_*`): first trained alone in the frozen
  teacher, on the targets, then frozen; it fits students of the same width.

  Args:
    student_features: `[B, ...]` outputs, such as heatmaps `[B, H, W, J]`.
    teacher_features: the same of the teacher without the token; no gradient is
      stopped here.
    targets: the same from the ground truth; None leaves that term out.

  Returns:
    `[B]` losses, at least float32, in squared units of the outputs; 0 where
    all are equal.

  Departures: none known; there is no public code of the token. Without it this
  is the paper's output distillation; for the token alone, and to train it, use
  `losses.hint` with `teacher_features` renamed to the targets.

  References: xu2022vitpose, Sec. 3, the transferability of ViTPose.
  """
  fn = 'knowledge_token'
  shapes = {'teacher_features': teacher_features, 'targets': targets}
  for name, value in shapes.items():
    if value is not None and value.shape != student_features.shape:
      raise ValueError(f'{fn}: {name} has shape {value.shape}, '
                       f'student_features {student_features.shape}; they must '
                       'agree.')
  total = 0
  for value in shapes.values():
    if value is not None:
      (s, t), = pairs(fn, student_features, value)
      total += jnp.mean((s - t)**2, axis=tuple(range(1, s.ndim)))
  return total
