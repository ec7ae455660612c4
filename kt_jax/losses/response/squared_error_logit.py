"""Squared error in logarithms at the observed label."""
import jax
from jax import numpy as jnp

from kt_jax import core
from kt_jax.losses.response._labels import expected
from kt_jax.losses.response._labels import is_true


def squared_error_logit(
    student_logits: jax.Array,
    teacher_logits: jax.Array,
    labels: jax.Array,
) -> jax.Array:
  r"""Fits the teacher's probability of the observed label.

    1/2 [log softmax(z_s)_y - log softmax(z_t)_y]^2.

  Only that number of the teacher is read. Fitting it does not bias the student,
  as weighting the cross entropy by it would.

  Args:
    student_logits: `[..., K]` raw logits z_s.
    teacher_logits: `[..., K]` raw logits z_t; no gradient is stopped here.
    labels: `[...]` integer class ids y, in the paper sampled from the teacher.
      An id outside 0..K-1 gives NaN.

  Returns:
    `[...]` losses in nats squared, at least float32, 0 at equality. A label
    that either model masks by a logit of -inf gives inf or NaN.

  References: zhao2023limits, the learner SEL of Sec. 4.2.
  """
  fn = 'squared_error_logit'
  core.check_logits(fn, student_logits=student_logits,
                    teacher_logits=teacher_logits)
  is_true(fn, student_logits, labels)
  log_s, log_t = (
      expected(fn, jax.nn.log_softmax(core.to_float(z)), labels)
      for z in (student_logits, teacher_logits))
  return 0.5 * jnp.square(log_s - log_t)
