"""Normalized knowledge distillation."""
import jax
from jax import numpy as jnp

from kt_jax import core
from kt_jax.losses.response._labels import expected
from kt_jax.losses.response._labels import is_true
from kt_jax.losses.response._temper import temper


def nkd(
    student_logits: jax.Array,
    teacher_logits: jax.Array,
    labels: jax.Array,
    *,
    temperature: float | jax.Array = 1.0,
    gamma: float = 1.5,
) -> jax.Array:
  r"""Cross entropies of the true class and of the rest, normalized.

    -p_y log q_y - gamma tau^2 sum_{k != y} p'_k log q'_k,

  p and q the probabilities of teacher and student at temperature 1, p' and q'
  those over the other classes only, at tau.

  Args:
    student_logits: `[..., K]` raw logits, K >= 2.
    teacher_logits: `[..., K]` raw logits; no gradient is stopped here.
    labels: `[...]` integer class ids y. An id outside 0..K-1 gives NaN.
    temperature: tau > 0, a scalar or one per example, `[...]`; possibly traced.
    gamma: weight of the rest.

  Returns:
    `[...]` losses in nats, tau^2 included, at least float32. A sum of cross
    entropies, with a floor above 0 and a pull at equality too: the first term
    asks for q_y = 1, with the weight p_y.

  Departures: of mixed labels the public code takes the largest; here they are
  refused. One version of it leaves the true class among the others.

  References: yang2023nkd, Sec. 3.1.
  """
  core.check_logits('nkd', student_logits=student_logits,
                    teacher_logits=teacher_logits)
  true = is_true('nkd', student_logits, labels)
  one = lambda f, z: expected('nkd', f(core.to_float(z)), labels)
  target = -(one(jax.nn.softmax, teacher_logits)
             * one(jax.nn.log_softmax, student_logits))
  z_s, z_t = (jnp.where(true, -jnp.inf, z) for z in temper(
      'nkd', temperature, student_logits, teacher_logits))
  rest = -expected('nkd', jax.nn.log_softmax(z_s), jax.nn.softmax(z_t))
  return target + gamma * temperature**2 * rest
