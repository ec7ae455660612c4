"""Skew reverse Kullback-Leibler divergence."""
import jax

from kt_jax import core
from kt_jax.losses.response._mixture import check_skew
from kt_jax.losses.response.skew_kl import skew_kl


def skew_reverse_kl(
    student_logits: jax.Array,
    teacher_logits: jax.Array,
    *,
    skew: float = 0.1,
    temperature: float | jax.Array = 1.0,
) -> jax.Array:
  r"""Divergence from the student of a mixture of teacher and student.

    tau^2 KL(q || (1 - a) p + a q),
    p = softmax(z_t / tau),  q = softmax(z_s / tau).

  Args:
    student_logits: `[..., K]` raw logits z_s.
    teacher_logits: `[..., K]` raw logits z_t; no gradient is stopped here.
    skew: a, in [0, 1), the student's share of the mixture, not traced; 0 is
      `losses.reverse_kl`.
    temperature: tau > 0, a scalar or one per example, `[...]`; possibly traced.

  Returns:
    `[...]` losses in nats, tau^2 included, at least float32, 0 at equality; at
    most -tau^2 log a, also where the teacher masks a class. The gradient runs
    through the mixture too.

  Departures: neither paper nor public code has a temperature.

  References: ko2024distillm, Sec. 3.1.
  """
  core.check_logits('skew_reverse_kl', student_logits=student_logits,
                    teacher_logits=teacher_logits)
  check_skew('skew_reverse_kl', skew)
  return skew_kl(teacher_logits, student_logits, skew=skew,
                 temperature=temperature)
