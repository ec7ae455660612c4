"""Skew Kullback-Leibler divergence."""
import jax

from kt_jax import core
from kt_jax.losses.response._mixture import check_skew
from kt_jax.losses.response._mixture import log_mixture
from kt_jax.losses.response._temper import temper
from kt_jax.losses.response.kd import kd


def skew_kl(
    student_logits: jax.Array,
    teacher_logits: jax.Array,
    *,
    skew: float = 0.1,
    temperature: float | jax.Array = 1.0,
) -> jax.Array:
  r"""Divergence from the teacher of a mixture of student and teacher.

    tau^2 KL(p || a p + (1 - a) q),
    p = softmax(z_t / tau),  q = softmax(z_s / tau).

  Args:
    student_logits: `[..., K]` raw logits z_s.
    teacher_logits: `[..., K]` raw logits z_t; no gradient is stopped here.
    skew: a, in [0, 1), the teacher's share of the mixture, not traced; 0 is
      `losses.kd`.
    temperature: tau > 0, a scalar or one per example, `[...]`; possibly traced.

  Returns:
    `[...]` losses in nats, tau^2 included, at least float32, 0 at equality; at
    most -tau^2 log a, also where the student masks a class.

  Departures: the public code leaves out the teacher's entropy: the same
  gradient, another floor. Neither it nor the paper has a temperature.

  References: ko2024distillm, Sec. 3.1.
  """
  core.check_logits('skew_kl', student_logits=student_logits,
                    teacher_logits=teacher_logits)
  check_skew('skew_kl', skew)
  log_q, log_p = map(jax.nn.log_softmax, temper(
      'skew_kl', temperature, student_logits, teacher_logits))
  if skew != 0:
    log_q = log_mixture(log_p, log_q, skew)
  return temperature**2 * kd(log_q, log_p, temperature=1.0)
