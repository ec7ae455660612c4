"""Reverse Kullback-Leibler divergence."""
import jax

from kt_jax import core
from kt_jax.losses.response.kd import kd


def reverse_kl(
    student_logits: jax.Array,
    teacher_logits: jax.Array,
    *,
    temperature: float | jax.Array = 1.0,
) -> jax.Array:
  r"""Divergence of the teacher from the student: mode-seeking.

    tau^2 KL(q || p),   p = softmax(z_t / tau),  q = softmax(z_s / tau).

  Args:
    student_logits: `[..., K]` raw logits z_s.
    teacher_logits: `[..., K]` raw logits z_t; no gradient is stopped here.
    temperature: tau > 0, a scalar or one per example, `[...]`; possibly traced.

  Returns:
    `[...]` losses in nats, tau^2 included, at least float32, 0 at equality. A
    class that only the teacher masks by a logit of -inf costs inf.

  Departures: the paper's gradient runs over sequences sampled from the student;
  this is the term of one distribution, exact in its expectation.

  References: gu2024minillm, Sec. 2.
  """
  core.check_logits('reverse_kl', student_logits=student_logits,
                    teacher_logits=teacher_logits)
  return kd(teacher_logits, student_logits, temperature=temperature)
