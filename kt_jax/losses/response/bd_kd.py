"""Balanced-divergence knowledge distillation."""
import jax
from jax import numpy as jnp

from kt_jax import core
from kt_jax.losses.response._temper import temper
from kt_jax.losses.response.kd import kd

_GATES = ('calibrating', 'flipped', 'forward', 'reverse', 'both')


def bd_kd(
    student_logits: jax.Array,
    teacher_logits: jax.Array,
    *,
    temperature: float | jax.Array = 1.0,
    delta: float = 2.0,
    gate: str = 'calibrating',
) -> jax.Array:
  r"""Forward and reverse divergence, the weights set by the entropies.

    tau^2 [a KL(p || q) + b KL(q || p)],
    (a, b) = (delta, 1) if H(q) < H(p), else (1, delta),

  H the entropy; p and q the probabilities of teacher and student at tau. A
  student more confident than its teacher is pulled back by the forward term, a
  less confident one is sharpened by the reverse term.

  Args:
    student_logits: `[..., K]` raw logits.
    teacher_logits: `[..., K]` raw logits; no gradient is stopped here.
    temperature: tau > 0, a scalar or one per example, `[...]`; possibly traced.
    delta: the larger weight, > 0.
    gate: 'calibrating' as above, 'flipped' with a and b swapped; without delta
      and entropies: 'forward' (1, 0), 'reverse' (0, 1), 'both' (1, 1).

  Returns:
    `[...]` losses in nats, tau^2 included, at least float32, 0 at equality. The
    gate has no gradient. Where only one masks a class (-inf) the loss is inf.

  Departures: the direction of the gate and its two levels are ours: the
  paper, as far as we could check, states that the entropies decide per sample,
  not how.
  The partners' own cross entropies, and the teacher's side (its term is
  `losses.kd` with the roles swapped), belong to the objective.

  References: amara2022bdkd.
  """
  core.check_logits('bd_kd', student_logits=student_logits,
                    teacher_logits=teacher_logits)
  core.check_positive('bd_kd', delta=delta)
  if gate not in _GATES:
    raise core.UserError(f'bd_kd: {core.nearest("gate", gate, _GATES)}')
  forward = lambda: kd(student_logits, teacher_logits, temperature=temperature)
  reverse = lambda: kd(teacher_logits, student_logits, temperature=temperature)
  if gate == 'forward':
    return forward()
  if gate == 'reverse':
    return reverse()
  if gate == 'both':
    return forward() + reverse()
  confident = _entropy(student_logits, temperature) < _entropy(
      teacher_logits, temperature)
  to_forward = confident if gate == 'calibrating' else ~confident
  return (jnp.where(to_forward, delta, 1) * forward()
          + jnp.where(to_forward, 1, delta) * reverse())


def _entropy(logits, temperature):
  z, = temper('bd_kd', temperature, logits)
  log_p = jax.nn.log_softmax(z)
  p = jnp.exp(log_p)
  return -jnp.sum(p * jnp.where(p == 0, 0, log_p), axis=-1)
