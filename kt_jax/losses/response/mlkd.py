"""Multi-level logit distillation."""
import jax
from jax import numpy as jnp

from kt_jax import core
from kt_jax.losses import _rows
from kt_jax.losses.response.kd import kd


def mlkd(
    student_logits: jax.Array,
    teacher_logits: jax.Array,
    where: jax.Array | None = None,
    *,
    temperatures: tuple[float, ...] = (2.0, 3.0, 4.0, 5.0, 6.0),
    instance_weight: float = 1.0,
    batch_weight: float = 1.0,
    class_weight: float = 1.0,
) -> jax.Array:
  r"""Aligns predictions and their products over examples and over classes.

    sum_tau [a tau^2 mean_i KL(p_i || q_i) + b/n |Q Q' - P P'|^2
             + c/K |Q' Q - P' P|^2],

  P and Q `[n, K]` the probabilities of teacher and student at tau, p_i and q_i
  their rows, |.| Frobenius' norm.

  Args:
    student_logits: `[B, K]` raw logits.
    teacher_logits: `[B, K]` raw logits; no gradient is stopped here.
    where: `[B]` bool, the n examples that count; None: all.
    temperatures: each tau > 0; the terms are summed over them.
    instance_weight: a.
    batch_weight: b, of the relations between examples.
    class_weight: c, of the relations between classes.

  Returns:
    `[B]` shares, at least float32, of which the mean over valid examples is the
    value above and 0 at equality; single shares may be below 0. tau^2 is in the
    first term (nats) only.

  Departures: the paper sees each image weakly and strongly augmented, and the
  public code masks the weak half by confidence after the mean, which there is a
  factor of about one half; both belong to the objective.

  References: jin2023mlkd, Sec. 3.
  """
  core.check_logits('mlkd', student_logits=student_logits,
                    teacher_logits=teacher_logits)
  if student_logits.ndim != 2:
    raise ValueError('mlkd: student_logits must be [B, K], got '
                     f'{student_logits.shape}.')
  core.check_positive('mlkd', temperatures=temperatures)
  valid = _rows.valid_rows('mlkd', student_logits, where)
  z_s, z_t = (_rows.blank(z, valid) for z in (student_logits, teacher_logits))
  ratio = _rows.count(valid) / z_s.shape[-1]
  total = jnp.zeros(valid.shape, z_s.dtype)
  for tau in temperatures:
    q, p = (jnp.where(valid[:, None], jax.nn.softmax(z / tau), 0)
            for z in (z_s, z_t))
    examples = core.dot(q, q) - core.dot(p, p)
    classes = core.dot(q.T, q.T) - core.dot(p.T, p.T)
    # `classes` is a sum over i, of q_i q_i' - p_i p_i'; i's share of its square
    # is the product of the two.
    form = lambda x: jnp.sum(x * core.dot(x, classes), axis=-1)
    total += (instance_weight * kd(z_s, z_t, temperature=tau)
              + batch_weight * jnp.sum(jnp.square(examples), axis=-1)
              + class_weight * ratio * (form(q) - form(p)))
  return total
