"""Linear maps of student and teacher to one width."""
import math

from flax import nnx
import jax

from kt_jax import core
from kt_jax.modules._pooled import single
from kt_jax.modules._pooled import valid


class EmbeddingHead(nnx.Module):
  """A linear map of each network's features to a common space.

    e = W f + b, at length 1 if `normalize`.

  For losses that need equal widths (`info_nce`) or relations of embeddings.

  Arrays, by name:
    student_features: `[B, ...]`, at construction and call.
    teacher_features: `[B, ...]`, at construction and call. The teacher's map
      is learned too; the training step stops the gradient to the teacher.
    where: `[B]` bool, at the call, the valid examples; others are read as 0.

  Settings:
    width: of the embeddings.
    normalize: whether they are scaled to length 1.
    flatten: one vector per example, `[B, width]`; False maps the last axis
      only: `[B, ..., width]`.

  Returns:
    `student_features`, `teacher_features`, the embeddings, at least float32.

  References: tian2020crd, Sec. 3 (one linear layer, 128, length 1).
  """

  def __init__(self, student_features, teacher_features, *, rngs: nnx.Rngs,
               width: int = 128, normalize: bool = True, flatten: bool = True):
    fn = 'EmbeddingHead'
    core.check_positive(fn, width=width)
    s, t = (tuple(single(fn, name, x).shape) for name, x in (
        ('student_features', student_features),
        ('teacher_features', teacher_features)))
    if s[0] != t[0]:
      raise ValueError(f'{fn}: student_features has shape {s}, '
                       f'teacher_features {t}; they must agree in B.')
    self.normalize, self.flatten = normalize, flatten
    size = lambda shape: math.prod(shape[1:]) if flatten else shape[-1]
    self.student = nnx.Linear(size(s), width, rngs=rngs)
    self.teacher = nnx.Linear(size(t), width, rngs=rngs)

  def __call__(self, student_features, teacher_features, where=None
              ) -> dict[str, jax.Array]:
    out = {}
    for name, linear, x in (
        ('student_features', self.student, student_features),
        ('teacher_features', self.teacher, teacher_features)):
      x = valid(core.to_float(single('EmbeddingHead', name, x)), where)
      e = linear(x.reshape(len(x), -1) if self.flatten else x)
      out[name] = core.unit(e) if self.normalize else e
    return out
