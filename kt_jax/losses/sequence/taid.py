"""Temporally adaptive interpolated distillation."""
import jax

from kt_jax import core
from kt_jax.losses.response.kd import kd
from kt_jax.losses.sequence._interpolate import interpolate


def taid(
    student_logits: jax.Array,
    teacher_logits: jax.Array,
    *,
    share: float | jax.Array = 0.4,
) -> jax.Array:
  r"""Divergence from an interpolation of student and teacher.

    KL(p_t || q),   p_t = softmax((1 - t) sg(z_s) + t z_t),  q = softmax(z_s).

  Args:
    student_logits: `[..., V]` raw logits z_s. The gradient through the target
      is stopped, which is part of the formula.
    teacher_logits: `[..., V]` raw logits z_t; no gradient is stopped here.
    share: t, in [0, 1], a scalar, possibly traced: `modules.TaidSchedule` sets
      it. 1 is `losses.kd` at temperature 1, 0 has gradient 0; the default is
      the initial value of the paper's largest pair.

  Returns:
    `[...]` losses in nats, at least float32, 0 at equality. A class that one of
    the two masks by a logit of -inf is masked in the target, while 0 < t < 1.

  Departures: paper and public code have a cross entropy, which differs from
  this by the target's entropy: the same gradient, but a floor above 0.

  References: shing2025taid, Sec. 3.
  """
  core.check_logits('taid', student_logits=student_logits,
                    teacher_logits=teacher_logits)
  core.check_fraction('taid', share=share)
  z_s, z_t = map(core.to_float, (student_logits, teacher_logits))
  target = interpolate(jax.lax.stop_gradient(z_s), z_t, share)
  return kd(z_s, target, temperature=1.0)
