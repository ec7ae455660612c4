"""Extra outputs of the student for questions beside the class."""
from flax import nnx
import jax

from kt_jax.modules._pooled import pooled
from kt_jax.modules._pooled import single


class AspectHead(nnx.Module):
  """A linear map from the student's features to one logit per aspect.

    z = W f + b, with f averaged over the axes between examples and channels.

  Arrays, by name:
    student_features: `[B, ..., C]`, at construction and call.
    teacher_aspects: `[B, Q]` targets of Q yes/no questions; at construction,
      for Q.
    where: `[B]` bool, at the call, the valid examples; others are read as 0.

  Returns:
    `student_aspects` `[B, Q]` logits, at least float32. The gradient reaches
    the student.

  Departures: the paper widens the classifier by Q outputs. That is the same
  function where `student_features` feed a linear classifier after an average.

  References: lee2024multiaspect.
  """

  def __init__(self, student_features, teacher_aspects, *, rngs: nnx.Rngs):
    features = single('AspectHead', 'student_features', student_features)
    if (len(teacher_aspects.shape) != 2
        or teacher_aspects.shape[0] != features.shape[0]):
      raise ValueError(
          'AspectHead: teacher_aspects must be [B, Q] for the B of '
          f'student_features; got {teacher_aspects.shape} and '
          f'{features.shape}.')
    self.head = nnx.Linear(
        features.shape[-1], teacher_aspects.shape[1], rngs=rngs)

  def __call__(self, student_features, where=None) -> dict[str, jax.Array]:
    return {'student_aspects': self.head(pooled(student_features, where))}
