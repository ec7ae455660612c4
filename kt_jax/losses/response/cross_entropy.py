"""Cross entropy, the task term of most objectives."""
import jax
from jax import numpy as jnp

from kt_jax import core
from kt_jax.losses.response._labels import expected


def cross_entropy(
    student_logits: jax.Array,
    labels: jax.Array,
    *,
    label_smoothing: float = 0.0,
) -> jax.Array:
  r"""Negative log-likelihood of class ids, or of probabilities.

    -sum_k y_k log softmax(z)_k,   y <- (1 - a) y + a / K.

  Args:
    student_logits: `[..., K]` raw logits z.
    labels: `[...]` integer class ids, or `[..., K]` probabilities, as from
      mixup; these are not renormalized. An id outside 0..K-1 gives NaN.
    label_smoothing: a, in [0, 1].

  Returns:
    `[...]` losses in nats, at least float32. A class masked by a logit of -inf
    adds nothing while its label is 0; smoothing would make that infinite.
  """
  core.check_logits('cross_entropy', student_logits=student_logits)
  core.check_fraction('cross_entropy', label_smoothing=label_smoothing)
  log_p = jax.nn.log_softmax(core.to_float(student_logits))
  loss = -expected('cross_entropy', log_p, labels)
  if not label_smoothing:
    return loss
  uniform = -jnp.mean(log_p, axis=-1)
  return (1 - label_smoothing) * loss + label_smoothing * uniform
