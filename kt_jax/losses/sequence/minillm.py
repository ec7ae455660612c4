"""MiniLLM: reverse divergence of whole sampled sequences."""
import jax
from jax import numpy as jnp

from kt_jax import core
from kt_jax.losses.response._labels import expected
from kt_jax.losses.response.kd import kd
from kt_jax.losses.sequence._tokens import valid_tokens


def minillm(
    student_logits: jax.Array,
    teacher_logits: jax.Array,
    labels: jax.Array,
    where: jax.Array | None = None,
    sample_log_probs: jax.Array | None = None,
    *,
    length_normalized: bool = True,
    clip: float = 0.2,
) -> jax.Array:
  r"""A surrogate whose gradient is that of KL(q(y) || p(y)) of sequences.

    KL(q_i || p_i) + max(G_i w_i, G_i clip(w_i, 1 - c, 1 + c)),
    G_i = sg(sum_{j > i} log q_j(y_j) - log p_j(y_j)),   w_i = q_i(y_i) / s_i,

  the first term exact over the next token, the second the effect of this token
  on later ones. s_i is the probability with which token i was sampled.

  Args:
    student_logits: `[..., S, V]` raw logits of q_i.
    teacher_logits: `[..., S, V]` raw logits of p_i; no gradient is stopped
      here.
    labels: `[..., S]` integer, the tokens y sampled; outside 0..V-1 gives NaN.
    where: `[..., S]` bool, the tokens that were sampled; None: all.
    sample_log_probs: `[..., S]` log s_i, constants: of the mixture with the
      teacher (0.2 p + 0.8 q in the paper) or of an older student. None: y is
      sampled from q itself: w_i is 1 and only its gradient counts.
    length_normalized: whether G_i is divided by the number of its tokens.
    clip: c, > 0; inf: off. Clipped weights have no gradient where it would move
      them further, as in proximal policy optimization.

  Returns:
    `[..., S]` values in nats, at least float32. Their gradient is what counts:
    summed over S and averaged over y from q it is, without normalization, that
    of KL(q(y) || p(y)). 0 at equality, else of either sign. Sequences must be
    whole; each is read by itself.

  Departures: in the public code the return includes token i itself, beside the
  exact term, is whitened over the batch, and rewards are halved and clipped.
  w_i weighs the second term only, as here; in the paper both.

  References: gu2024minillm, Sec. 2.2.
  """
  fn = 'minillm'
  core.check_logits(fn, student_logits=student_logits,
                    teacher_logits=teacher_logits)
  if student_logits.ndim < 2:
    raise ValueError(f'{fn}: student_logits must be [..., S, V]; got '
                     f'{student_logits.shape}.')
  core.check_positive(fn, clip=clip)
  if sample_log_probs is not None and sample_log_probs.shape != labels.shape:
    raise ValueError(f'{fn}: sample_log_probs has shape '
                     f'{sample_log_probs.shape}; it must be {labels.shape}.')
  valid, z_s, z_t, labels = valid_tokens(fn, student_logits, teacher_logits,
                                         labels, where)
  log_q, log_p = (expected(fn, jax.nn.log_softmax(z), labels)
                  for z in (z_s, z_t))
  cost = jnp.where(valid, jax.lax.stop_gradient(log_q - log_p), 0)
  later = _after(cost)
  if length_normalized:
    later /= jnp.maximum(_after(valid.astype(cost.dtype)), 1)
  log_s = log_q if sample_log_probs is None else sample_log_probs
  weight = jnp.exp(log_q - jnp.where(valid, jax.lax.stop_gradient(log_s), 0))
  clipped = jnp.clip(weight, 1 - clip, 1 + clip)
  return kd(z_t, z_s, temperature=1.0) + jnp.maximum(
      later * weight, later * clipped)


def _after(x):
  """Sum over later entries of the last axis."""
  return jnp.flip(jnp.cumsum(jnp.flip(x, -1), axis=-1), -1) - x
