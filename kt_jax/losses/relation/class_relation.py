"""Relations of novel samples to known classes."""
import jax
from jax import numpy as jnp

from kt_jax import core
from kt_jax.losses import _rows


def class_relation(
    student_logits: jax.Array,
    teacher_logits: jax.Array,
    where: jax.Array | None = None,
    *,
    temperature: float | jax.Array = 4.0,
    detach: bool = False,
) -> jax.Array:
  r"""Preserves the similarity of novel samples to the known classes.

    tau^2 w_i / mean(w) * - sum_{k <= K} r_ik log q_ik,
    r = softmax(z_t / tau),   q = softmax(z_s[:K] / tau),
    w_i = sum_{k <= K} softmax(z_s / tau)_ik:

  samples that the student takes for one of the known classes weigh more.

  Args:
    student_logits: `[..., K + novel]`, the K known classes first.
    teacher_logits: `[..., K]` of the network trained on known classes; no
      gradient is stopped here.
    where: `[...]` bool, the samples that count: those without labels; None:
      all.
    temperature: tau > 0, a scalar, possibly traced.
    detach: whether w is held fixed in the gradient.

  Returns:
    `[...]` losses in nats, tau^2 included, at least float32; the mean of w is
    over all samples that count. A cross entropy: the floor is the (weighted)
    entropy of r.

  Departures: the public code divides cosines by 0.1 first: here that belongs to
  the head. As there, w and its mean have a gradient.

  References: gu2023crkd, Sec. 3.
  """
  fn = 'class_relation'
  core.check_positive(fn, temperature=temperature)
  shape, teacher = student_logits.shape, teacher_logits.shape
  if (not teacher or shape[:-1] != teacher[:-1]
      or not 0 < teacher[-1] < shape[-1]):
    raise ValueError(
        f'{fn}: student_logits has shape {shape}, teacher_logits {teacher}; '
        'they must be [..., K + novel] and [..., K], novel >= 1.')
  if where is None:
    where = jnp.ones(shape[:-1], bool)
  elif where.shape != shape[:-1]:
    raise ValueError(f'{fn}: where has shape {where.shape}; it must be '
                     f'{shape[:-1]}, one entry per sample.')
  s = _rows.blank(student_logits, where) / temperature
  t = _rows.blank(teacher_logits, where) / temperature
  known = s[..., :teacher[-1]]
  log_mass = jax.nn.logsumexp(known, axis=-1) - jax.nn.logsumexp(s, axis=-1)
  weight = jnp.where(where, jnp.exp(log_mass), 0)
  if detach:
    weight = jax.lax.stop_gradient(weight)
  mean = core.masked_mean(weight, where)
  r = jax.nn.softmax(t)
  # A class that both mask by -inf adds nothing.
  log_q = jnp.where(r == 0, 0, jax.nn.log_softmax(known))
  return temperature**2 * weight / jnp.where(mean == 0, 1, mean) * -jnp.sum(
      r * log_q, axis=-1)
