"""Distillation with data partitioning."""
import jax
from jax import numpy as jnp

from kt_jax import core
from kt_jax.losses.response._labels import expected
from kt_jax.losses.response.kd import kd


def partitioned_kd(
    student_logits: jax.Array,
    teacher_logits: jax.Array,
    initial_logits: jax.Array,
    labels: jax.Array | None = None,
    *,
    temperature: float | jax.Array = 1.0,
    supervised: bool = True,
) -> jax.Array:
  r"""Distills each example from the teacher or from the initial student.

    m KL(p_t || q) + (1 - m) KL(p_0 || q),   m = 1[c(p_t) > c(p_0)],

  `p_0` being the student before transfer and c(p) the confidence: p(y) if
  supervised, max_k p_k if not. Of several teachers the one with the largest c
  competes. What a teacher does better is learned, the rest is retained.

  Args:
    student_logits: `[..., K]` of the student that learns.
    teacher_logits: `[..., K]` of one teacher or `[T, ..., K]` of T teachers,
      recognized by their number of axes. No gradient is stopped here.
    initial_logits: `[..., K]` of the frozen student, on the same inputs.
    labels: `[...]` class ids, or `[..., K]` probabilities, for which p(y) reads
      sum_k y_k p_k. Not read if not `supervised`.
    temperature: tau > 0 of the divergence; confidences are at temperature 1.
    supervised: whether the labels choose, or each model's own confidence.

  Returns:
    `[...]` losses in nats, tau^2 included as in `losses.kd`, at least float32.
    Ties go to the initial student, then to the earlier teacher. The choice is
    hard, has no gradient and does not depend on `student_logits`. Confidences
    are float32 probabilities: models whose confidences round to 1 tie.

  References: roth2024fantastic, Eq. 4; the choice among several teachers is its
  parallel transfer.
  """
  fn = 'partitioned_kd'
  core.check_logits(fn, student_logits=student_logits,
                    initial_logits=initial_logits)
  extra = teacher_logits.ndim - student_logits.ndim
  teachers = teacher_logits if extra == 1 else teacher_logits[None]
  if (extra not in (0, 1) or not len(teachers)
      or teachers.shape[1:] != student_logits.shape):
    raise ValueError(
        f'{fn}: teacher_logits has shape {teacher_logits.shape}; allowed are '
        f'{student_logits.shape}, the shape of student_logits, and (T,) + '
        'that, T >= 1.')

  models = jnp.concatenate([core.to_float(initial_logits)[None],
                            core.to_float(teachers)])  # [1 + T, ..., K]
  p = jax.nn.softmax(models)
  if not supervised:
    confidence = jnp.max(p, axis=-1)
  elif labels is not None:
    confidence = jax.vmap(lambda p: expected(fn, p, labels))(p)
  else:
    raise ValueError(f'{fn}: labels are needed if supervised=True, got None.')
  # [1 + T, ...]. The first of equals wins, and that is the initial student.
  order = jnp.arange(len(models)).reshape((-1,) + (1,) * (confidence.ndim - 1))
  chosen = order == jnp.argmax(confidence, axis=0)
  target = jnp.sum(models, axis=0, where=chosen[..., None])
  # A NaN confidence (a model's, or that of a label out of range) is not hidden.
  valid = ~jnp.isnan(jnp.max(confidence, axis=0))
  target = jnp.where(valid[..., None], target, jnp.nan)
  return kd(student_logits, target, temperature=temperature)
