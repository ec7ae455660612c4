"""A classifier on the features of an earlier layer."""
from flax import nnx
import jax

from kt_jax import core
from kt_jax.modules._pooled import pooled
from kt_jax.modules._pooled import single


class WeakHead(nnx.Module):
  """A linear map from an earlier layer of the student to logits.

    w = W f + b, with f averaged over the axes between examples and channels.

  Arrays, by name:
    student_features: `[B, ..., C]` of one layer, at construction and call.
    where: `[B]` bool, at the call, the valid examples; others are read as 0.

  Settings:
    classes: K of the student.

  Returns:
    `student_weak_logits` `[B, K]`, at least float32. The gradient reaches the
    student.

  References: yang2023nkd, the weak logits of USKD.
  """

  def __init__(self, student_features, *, rngs: nnx.Rngs, classes: int):
    core.check_positive('WeakHead', classes=classes)
    features = single('WeakHead', 'student_features', student_features)
    self.head = nnx.Linear(features.shape[-1], classes, rngs=rngs)

  def __call__(self, student_features, where=None) -> dict[str, jax.Array]:
    return {'student_weak_logits': self.head(pooled(student_features, where))}
