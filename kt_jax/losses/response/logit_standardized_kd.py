"""Knowledge distillation of standardized logits."""
import jax

from kt_jax import core
from kt_jax.losses.response._standard import standardized
from kt_jax.losses.response.kd import kd


def logit_standardized_kd(
    student_logits: jax.Array,
    teacher_logits: jax.Array,
    *,
    temperature: float | jax.Array = 2.0,
) -> jax.Array:
  r"""Distillation of logits at mean 0 and deviation 1.

    tau^2 KL(softmax(n(z_t) / tau) || softmax(n(z_s) / tau)),
    n(z) = (z - mean z) / deviation of z.

  Student and teacher each have a temperature of their own, tau times the
  deviation; logits that differ by shift and scale cost nothing.

  Args:
    student_logits: `[..., K]` raw logits z_s, finite: no class is masked.
    teacher_logits: `[..., K]` raw logits z_t; no gradient is stopped here.
    temperature: tau > 0, a scalar or one per example, `[...]`; possibly traced.

  Returns:
    `[...]` losses in nats, tau^2 included, at least float32, 0 at equality.
    Logits that are all equal stay uniform and have gradient 0.

  Departures: the deviation is that of the population, divided by K; the public
  code divides by K - 1. The paper weighs the term by 9 beside the task's.

  References: sun2024logit, Algorithm 1.
  """
  core.check_logits('logit_standardized_kd', student_logits=student_logits,
                    teacher_logits=teacher_logits)
  return kd(standardized(core.to_float(student_logits), -1),
            standardized(core.to_float(teacher_logits), -1),
            temperature=temperature)
