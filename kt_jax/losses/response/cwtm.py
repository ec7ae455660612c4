"""Confidence weighted by the teacher's maximum."""
import jax
from jax import numpy as jnp

from kt_jax import core
from kt_jax.losses import _rows
from kt_jax.losses.response.cross_entropy import cross_entropy


def cwtm(
    student_logits: jax.Array,
    teacher_logits: jax.Array,
    labels: jax.Array,
    where: jax.Array | None = None,
) -> jax.Array:
  r"""Cross entropy, each example weighted by the teacher's largest probability.

    sum_i w_i CE(q_i, y_i),   w_i = max_k p_ik / sum_j max_k p_jk.

  A control: distillation without the teacher's information on other classes.

  Args:
    student_logits: `[B, K]` raw logits.
    teacher_logits: `[B, K]` raw logits; no gradient is stopped here.
    labels: `[B]` integer class ids, or `[B, K]` probabilities.
    where: `[B]` bool, the n examples that count; None: all.

  Returns:
    `[B]` shares n w_i CE_i in nats, at least float32, with a floor above 0:
    their mean over valid examples is the weighted sum above. The weights are
    relative to the batch: they change with micro-batches and a short last one.

  References: furlanello2018born, Sec. 3 (CWTM).
  """
  core.check_logits('cwtm', student_logits=student_logits,
                    teacher_logits=teacher_logits)
  if student_logits.ndim != 2 or len(labels) != len(student_logits):
    raise ValueError(
        f'cwtm: student_logits has shape {student_logits.shape}, labels '
        f'{labels.shape}; allowed are [B, K] and [B] or [B, K].')
  valid = _rows.valid_rows('cwtm', student_logits, where)
  z_s, z_t = (_rows.blank(z, valid) for z in (student_logits, teacher_logits))
  rows = valid.reshape((-1,) + (1,) * (labels.ndim - 1))
  task = cross_entropy(z_s, jnp.where(rows, labels, 0))
  top = jnp.max(jax.nn.softmax(z_t), axis=-1)
  return top / core.masked_mean(top, valid) * task
