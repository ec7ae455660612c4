"""Distillation from a stronger teacher."""
import jax
from jax import numpy as jnp

from kt_jax import core
from kt_jax.losses import _rows
from kt_jax.losses.response._standard import standardized


def dist(
    student_logits: jax.Array,
    teacher_logits: jax.Array,
    where: jax.Array | None = None,
    *,
    temperature: float | jax.Array = 1.0,
    beta: float = 2.0,
    gamma: float = 2.0,
) -> jax.Array:
  r"""Correlates predictions over the classes and over the examples.

    tau^2 [beta mean_i (1 - rho(q_i, p_i)) + gamma mean_k (1 - rho(q^k, p^k))],

  rho being Pearson's correlation, p_i and q_i the probabilities of teacher and
  student at tau for example i, p^k and q^k those of class k over the examples.

  Args:
    student_logits: `[B, K]` raw logits.
    teacher_logits: `[B, K]` raw logits; no gradient is stopped here.
    where: `[B]` bool, the examples that count; None: all.
    temperature: tau > 0, a scalar; 1 in the paper on ImageNet, 4 on CIFAR.
    beta: weight of the relations between classes.
    gamma: weight of those between examples.

  Returns:
    `[B]` shares without unit, tau^2 included, at least float32, of which the
    mean over valid examples is the value above and 0 at equality; single shares
    may be below 0. A constant row or column (a single example) has no
    correlation: it counts as 0 and has gradient 0.

  Departures: the public code adds 1e-8 to the product of norms, which damps
  classes that are improbable throughout; here they count fully.

  References: huang2022dist, Sec. 3.
  """
  core.check_logits('dist', student_logits=student_logits,
                    teacher_logits=teacher_logits)
  if student_logits.ndim != 2 or jnp.ndim(temperature):
    raise ValueError(
        f'dist: student_logits has shape {student_logits.shape}, temperature '
        f'{jnp.shape(temperature)}; allowed are [B, K] and a scalar.')
  core.check_positive('dist', temperature=temperature)
  valid = _rows.valid_rows('dist', student_logits, where)
  q, p = (jax.nn.softmax(_rows.blank(z, valid) / temperature)
          for z in (student_logits, teacher_logits))
  def distance(axis, where):
    product = standardized(q, axis, where) * standardized(p, axis, where)
    return 1 - jnp.mean(product, axis=-1)
  return temperature**2 * (beta * distance(-1, None)
                           + gamma * distance(0, valid[:, None]))
