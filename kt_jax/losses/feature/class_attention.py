"""Class attention transfer."""
import jax
from jax import numpy as jnp

from kt_jax import core
from kt_jax.losses.feature._resize import adaptive_pool


def class_attention(
    student_features: jax.Array,
    teacher_features: jax.Array,
    student_head: jax.Array,
    teacher_head: jax.Array,
    *,
    pool: int = 2,
    normalize: bool = False,
    binarize: bool = False,
    classes: int | None = None,
) -> jax.Array:
  r"""Mean squared difference of class activation maps.

    mean_{k, i} (P M^s - P M^t)_ik^2,   M_hwk = sum_d x_hwd W_dk,

  `P` the mean over a grid of pool x pool. The mean of a map over all positions
  is the logit of its class up to the bias: pool=1 compares logits.

  Args:
    student_features: `[B, H, W, D]` maps x before the global mean.
    teacher_features: the same of the teacher; H, W and D may differ. No
      gradient is stopped here.
    student_head: `[D, K]` kernel W of the classifier.
    teacher_head: the teacher's.
    pool: r, at most the side of either map.
    normalize: L2-normalize each pooled map over its grid. True is CAT, which
      needs no other term; False is CAT-KD, beside the labels.
    binarize: the teacher's maps become 1 where they exceed their mean absolute
      value and 0 elsewhere, before they are pooled.
    classes: n > 0 compares the maps of the n classes with the teacher's largest
      logits (without the bias), n < 0 those of the -n smallest.

  Returns:
    `[B]` losses, at least float32, in squared units of the logits.

  Departures: the authors' code takes n - 1 of the most and n + 1 of the least
  predicted classes, and selects by logits with the bias.

  References: guo2023catkd, Sec. 3.
  """
  fn = 'class_attention'
  for name, x, head in (('student', student_features, student_head),
                        ('teacher', teacher_features, teacher_head)):
    if x.ndim != 4 or head.ndim != 2 or x.shape[-1] != head.shape[0]:
      raise ValueError(
          f'{fn}: {name}_features must be [B, H, W, D] and {name}_head [D, K], '
          f'got {x.shape} and {head.shape}.')
  size = student_head.shape[1]
  if (teacher_head.shape[1] != size
      or len(student_features) != len(teacher_features)):
    raise ValueError(
        f'{fn}: B and K must agree; student_features {student_features.shape}, '
        f'teacher_features {teacher_features.shape}, student_head '
        f'{student_head.shape}, teacher_head {teacher_head.shape}.')
  side = min(student_features.shape[1:3] + teacher_features.shape[1:3])
  if not 1 <= pool <= side:
    raise core.UserError(f'{fn}: pool must be from 1 to {side}, the smallest '
                         f'side of a map, got {pool}.')
  if classes is not None and not 1 <= abs(classes) <= size:
    raise core.UserError(f'{fn}: classes must be None, or 1 to {size} or minus '
                         f'that (there are {size} classes), got {classes}.')

  # Means and the head, both linear, may come in any order: fewer positions.
  student = _maps(adaptive_pool(core.to_float(student_features), pool, pool),
                  student_head)
  teacher = core.to_float(teacher_features)
  if binarize:
    full = _maps(teacher, teacher_head)
    threshold = jnp.mean(jnp.abs(full), axis=(1, 2), keepdims=True)
    teacher = adaptive_pool(_above(full, threshold), pool, pool)
  else:
    teacher = _maps(adaptive_pool(teacher, pool, pool), teacher_head)
  if classes is not None:
    logits = _maps(core.to_float(teacher_features).mean((1, 2)), teacher_head)
    order = jnp.argsort(-logits if classes > 0 else logits, axis=-1)
    top = order[:, None, None, :abs(classes)]
    student, teacher = (jnp.take_along_axis(x, top, axis=-1)
                        for x in (student, teacher))
  if normalize:
    student, teacher = core.unit(student, (1, 2)), core.unit(teacher, (1, 2))
  return jnp.mean((student - teacher)**2, axis=(1, 2, 3))


def _maps(x, head):
  """`[..., K]` maps of `[..., D]` features."""
  return jnp.einsum('...d,dk->...k', x, core.to_float(head),
                    precision='highest')


def _above(x, threshold):
  """1 where x is above the threshold, else 0; a NaN stays one."""
  return jnp.where(jnp.isnan(x), x, (x > threshold).astype(x.dtype))
