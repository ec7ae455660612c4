"""Two directions of divergence, split by the teacher's top classes."""
import jax
from jax import numpy as jnp

from kt_jax import core
from kt_jax.losses.sequence._threshold import at_least

_DIRECTIONS = ('reverse', 'forward')


def top_kld(
    student_logits: jax.Array,
    teacher_logits: jax.Array,
    *,
    k: int = 5,
    top: str = 'reverse',
    corrected: bool = True,
) -> jax.Array:
  r"""One divergence on the teacher's top k classes, the reverse on the rest.

    reverse: sum_{v in top} q log(q/p) + sum_{v not in top} p log(p/q) + 2 d,
    forward: sum_{v in top} p log(p/q) + sum_{v not in top} q log(q/p) - 2 d,
    d = P_top - Q_top,   p = softmax(z_t),  q = softmax(z_s).

  Without d the sums are not a divergence: they can be negative, and at equality
  a gradient moves mass out of the top (reverse) or into it. With d they are
  sums of `q log(q/p) - q + p` and its mirror image, all >= 0.

  Args:
    student_logits: `[..., V]` raw logits z_s.
    teacher_logits: `[..., V]` raw logits z_t; no gradient is stopped here.
    k: size of the top, 1 to V; classes that tie with the last are included.
    top: direction on the top, 'reverse' or 'forward'.
    corrected: whether d is included.

  Returns:
    `[...]` losses in nats at temperature 1, at least float32; where corrected 0
    at equality only. A class that both mask by -inf adds nothing.

  Departures: the paper's formula was not accessible to us; the split into two
  directions is from reviews of it, which of them is on top is open, d is ours.

  References: ding2025topkld.
  """
  fn = 'top_kld'
  core.check_logits(fn, student_logits=student_logits,
                    teacher_logits=teacher_logits)
  classes = student_logits.shape[-1]
  if not 1 <= k <= classes:
    raise core.UserError(f'{fn}: k must be from 1 to {classes}, got {k}.')
  if top not in _DIRECTIONS:
    raise core.UserError(core.nearest(f'direction of {fn}', top, _DIRECTIONS))
  z_t = core.to_float(teacher_logits)
  log_q, log_p = map(jax.nn.log_softmax, (core.to_float(student_logits), z_t))
  in_top, _ = at_least(z_t, lambda mask: jnp.sum(mask, axis=-1) >= k)
  if top == 'forward':  # the same with student and teacher exchanged
    log_p, log_q = log_q, log_p
  p, q = jnp.exp(log_p), jnp.exp(log_q)

  def term(log_a, log_b):
    a = jnp.exp(log_a)  # 0 (log 0 - log b) is 0
    return a * (jnp.where(a == 0, 0, log_a) - jnp.where(a == 0, 0, log_b))
  loss = jnp.where(in_top, term(log_q, log_p), term(log_p, log_q))
  if corrected:
    loss += jnp.where(in_top, p - q, q - p)
  return jnp.sum(loss, axis=-1)
