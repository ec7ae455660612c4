"""Decoupled knowledge distillation."""
import jax
from jax import numpy as jnp

from kt_jax import core
from kt_jax.losses.response._labels import expected
from kt_jax.losses.response._labels import is_true
from kt_jax.losses.response._temper import temper
from kt_jax.losses.response.kd import kd


def dkd(
    student_logits: jax.Array,
    teacher_logits: jax.Array,
    labels: jax.Array,
    *,
    temperature: float | jax.Array = 4.0,
    alpha: float = 1.0,
    beta: float = 8.0,
) -> jax.Array:
  r"""Distillation of the true class and of the other classes, decoupled.

    tau^2 [alpha KL(b_t || b_s) + beta KL(r_t || r_s)],

  b = (p_y, 1 - p_y) the probability of the true class and of all others, r the
  distribution over the others, p = softmax(z / tau). alpha = 1 and beta = 1 -
  p_y of the teacher would be `losses.kd`.

  Args:
    student_logits: `[..., K]` raw logits z_s, K >= 2.
    teacher_logits: `[..., K]` raw logits z_t; no gradient is stopped here.
    labels: `[...]` integer class ids y. An id outside 0..K-1 gives NaN.
    temperature: tau > 0, a scalar or one per example, `[...]`; possibly traced.
    alpha: weight of the true class against the rest.
    beta: weight of the rest; the paper's depends on the pair of networks.

  Returns:
    `[...]` losses in nats, tau^2 included, at least float32, 0 at equality.

  Departures: the public code takes logarithms of summed probabilities and hides
  the true class by -1000; here both stay exact. Its linear warm-up of the term
  belongs to the objective.

  References: zhao2022dkd, Eq. 7.
  """
  core.check_logits('dkd', student_logits=student_logits,
                    teacher_logits=teacher_logits)
  true = is_true('dkd', student_logits, labels)
  z_s, z_t = temper('dkd', temperature, student_logits, teacher_logits)
  rest = lambda z: jnp.where(true, -jnp.inf, z)
  binary = lambda z: jnp.stack(
      [expected('dkd', z, labels), jax.nn.logsumexp(rest(z), axis=-1)], axis=-1)
  return temperature**2 * (
      alpha * kd(binary(z_s), binary(z_t), temperature=1.0)
      + beta * kd(rest(z_s), rest(z_t), temperature=1.0))
