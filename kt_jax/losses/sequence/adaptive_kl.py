"""Adaptive Kullback-Leibler divergence."""
import jax
from jax import numpy as jnp

from kt_jax import core
from kt_jax.losses.response.kd import kd
from kt_jax.losses.sequence._threshold import at_least


def adaptive_kl(
    student_logits: jax.Array,
    teacher_logits: jax.Array,
    *,
    head: float = 0.5,
) -> jax.Array:
  r"""Forward and reverse divergence, weighted by errors in head and tail.

    [g_h KL(p || q) + g_t KL(q || p)] / (g_h + g_t),
    g_h = sum_{k in head} |p_k - q_k|,   g_t = sum_{k not in head} |p_k - q_k|,
    p = softmax(z_t),  q = softmax(z_s).

  The head are the most probable classes of the teacher whose probabilities add
  up to no more than `head`, and the first in any case.

  Args:
    student_logits: `[..., V]` raw logits z_s.
    teacher_logits: `[..., V]` raw logits z_t; no gradient is stopped here.
    head: mu, in [0, 1], not traced.

  Returns:
    `[...]` losses in nats at temperature 1, at least float32, 0 at equality.
    The two weights add up to 1; their gradient is stopped. A class that only
    one of the two masks by a logit of -inf costs inf.

  Departures: of equal probabilities the public code takes those that its sort
  puts first, where here all or none are in the head; it reads masked logits as
  0. It stops the gradient of the weights too.

  References: wu2024akl, Sec. 4.
  """
  core.check_logits('adaptive_kl', student_logits=student_logits,
                    teacher_logits=teacher_logits)
  core.check_fraction('adaptive_kl', head=head)
  p, q = (jax.lax.stop_gradient(jax.nn.softmax(core.to_float(z)))
          for z in (teacher_logits, student_logits))
  _, in_head = at_least(p, lambda top: jnp.sum(p, -1, where=top) > head)
  in_head |= p == jnp.max(p, axis=-1, keepdims=True)
  gap = jnp.abs(p - q)
  total = jnp.sum(gap, axis=-1)
  share = jnp.where(total == 0, 0.5, jnp.sum(gap, axis=-1, where=in_head)
                    / jnp.where(total == 0, 1, total))
  return (share * kd(student_logits, teacher_logits, temperature=1.0)
          + (1 - share) * kd(teacher_logits, student_logits, temperature=1.0))
