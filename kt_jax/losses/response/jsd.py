"""Generalized Jensen-Shannon divergence."""
import jax

from kt_jax import core
from kt_jax.losses.response._mixture import log_mixture
from kt_jax.losses.response._temper import temper
from kt_jax.losses.response.kd import kd


def jsd(
    student_logits: jax.Array,
    teacher_logits: jax.Array,
    *,
    beta: float = 0.5,
    temperature: float | jax.Array = 1.0,
) -> jax.Array:
  r"""Divergence of teacher and student from their mixture.

    tau^2 [beta KL(p || m) + (1 - beta) KL(q || m)],
    m = beta p + (1 - beta) q,
    p = softmax(z_t / tau),  q = softmax(z_s / tau).

  Args:
    student_logits: `[..., K]` raw logits z_s.
    teacher_logits: `[..., K]` raw logits z_t; no gradient is stopped here.
    beta: in [0, 1]; not traced. At the ends the formula is 0: there the
      limits of its quotients by beta and by 1 - beta are returned, 0 is
      `losses.kd`, 1 is `losses.reverse_kl`.
    temperature: tau > 0, a scalar or one per example, `[...]`; possibly traced.

  Returns:
    `[...]` losses in nats, tau^2 included, at least float32, 0 at equality; at
    most tau^2 log 2 where beta is not at an end, whichever masks a class.

  Departures: the paper and its public code leave tau^2 out.

  References: agarwal2024gkd, Sec. 2.
  """
  core.check_logits('jsd', student_logits=student_logits,
                    teacher_logits=teacher_logits)
  core.check_fraction('jsd', beta=beta)
  if beta == 0:
    return kd(student_logits, teacher_logits, temperature=temperature)
  if beta == 1:
    return kd(teacher_logits, student_logits, temperature=temperature)
  log_q, log_p = map(jax.nn.log_softmax, temper(
      'jsd', temperature, student_logits, teacher_logits))
  log_m = log_mixture(log_p, log_q, beta)
  # Log-probabilities are logits.
  to_mixture = lambda log: kd(log_m, log, temperature=1.0)
  return temperature**2 * (
      beta * to_mixture(log_p) + (1 - beta) * to_mixture(log_q))
