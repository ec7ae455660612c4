"""A small correction of the teacher's logits."""
from flax import nnx
import jax

from kt_jax import core
from kt_jax.modules._pooled import pooled
from kt_jax.modules._pooled import single
from kt_jax.modules._pooled import valid


class TeacherAdapter(nnx.Module):
  r"""Adapts a frozen teacher to its student by its last layer only.

    z'_t = z_t - A(f_t),   A(f) = W3 relu(W2 W1 f),

  W1: d -> width, W2: width -> hidden, W3: hidden -> K, each with a bias. The
  term that adapts the teacher must pass the gradient of `teacher_logits`; a
  second term, `cross_entropy` on the adapted logits, preserves the accuracy.
  The module does not stop gradients.

  Arrays, by name, at construction and call (`where` at the call only):
    teacher_logits: `[B, K]` raw logits z_t.
    teacher_features: `[B, ..., d]` f_t, averaged over the axes between.
    where: `[B]` bool, the valid examples; others are read as 0.

  Settings:
    width: outputs of W1; 0 is K, as in the public code.
    hidden: outputs of W2.

  Returns:
    `teacher_logits` `[B, K]` z'_t, at least float32.

  Departures: W3 and its bias start at 0, so that training starts at the
  unchanged teacher; the public code starts at a random A. W3 has a gradient
  from the first update on, W1 and W2 from the second. In the paper one
  divergence trains student and adapter; in the released vision code the
  student's loss does not use z'_t. The code for language adds A(f) to a linear
  map of f, which is left out here.

  References: rao2022pesf.
  """

  def __init__(self, teacher_logits, teacher_features, *, rngs: nnx.Rngs,
               width: int = 0, hidden: int = 32):
    fn = 'TeacherAdapter'
    for name, value, least in (('width', width, 0), ('hidden', hidden, 1)):
      if value < least:
        raise core.UserError(f'{fn}: {name} must be >= {least}, got {value}.')
    features = single(fn, 'teacher_features', teacher_features)
    if (len(teacher_logits.shape) != 2
        or teacher_logits.shape[0] != features.shape[0]):
      raise ValueError(
          f'{fn}: teacher_logits must be [B, K] for the B of teacher_features; '
          f'got {teacher_logits.shape} and {features.shape}.')
    classes = teacher_logits.shape[1]
    zeros = nnx.initializers.zeros_init()
    self.first = nnx.Linear(features.shape[-1], width or classes, rngs=rngs)
    self.second = nnx.Linear(width or classes, hidden, rngs=rngs)
    self.third = nnx.Linear(hidden, classes, kernel_init=zeros,
                            bias_init=zeros, rngs=rngs)

  def __call__(self, teacher_logits, teacher_features, where=None
              ) -> dict[str, jax.Array]:
    z = valid(core.to_float(teacher_logits), where)
    x = self.second(self.first(pooled(teacher_features, where)))
    return {'teacher_logits': z - self.third(nnx.relu(x))}
