"""Self-distillation with the gold token in the place of the mode."""
import jax
from jax import numpy as jnp

from kt_jax import core
from kt_jax.losses.response._labels import is_true
from kt_jax.losses.response.kd import kd


def logit_swap(
    student_logits: jax.Array,
    teacher_logits: jax.Array,
    labels: jax.Array,
) -> jax.Array:
  r"""Divergence from a teacher with the label as its mode.

    KL(p' || q),   p' = softmax(z'),  q = softmax(z_s),

  where z' is z_t with the logits of its largest class and of the label
  exchanged: the label becomes the mode, all other values stay.

  Args:
    student_logits: `[..., V]` raw logits z_s.
    teacher_logits: `[..., V]` raw logits z_t, in the paper those of the model
      before the transfer; no gradient is stopped here.
    labels: `[...]` integer; one outside 0..V-1 gives NaN.

  Returns:
    `[...]` losses in nats at temperature 1, at least float32. `losses.kd` at
    temperature 1 where the label is the mode already.

  Departures: public code divides by the rows of the batch, padding included;
  here it is one value per token.

  References: jiang2024mixcpt (logit swap self-distillation).
  """
  core.check_logits('logit_swap', student_logits=student_logits,
                    teacher_logits=teacher_logits)
  z = core.to_float(teacher_logits)
  gold = is_true('logit_swap', z, labels)
  mode = jnp.argmax(z, axis=-1, keepdims=True) == jnp.arange(z.shape[-1])
  def at(one_hot):
    value = jnp.sum(z, axis=-1, keepdims=True, where=one_hot)
    return jnp.where(jnp.any(one_hot, axis=-1, keepdims=True), value, jnp.nan)
  swapped = jnp.where(gold, at(mode), jnp.where(mode, at(gold), z))
  return kd(student_logits, swapped, temperature=1.0)
