"""Universal self-knowledge distillation."""
import jax
from jax import numpy as jnp

from kt_jax import core
from kt_jax.losses import _rows
from kt_jax.losses.response._labels import expected
from kt_jax.losses.response._labels import is_true
from kt_jax.losses.response.cross_entropy import cross_entropy


def uskd(
    student_logits: jax.Array,
    student_weak_logits: jax.Array,
    labels: jax.Array,
    where: jax.Array | None = None,
    *,
    alpha: float = 1.0,
    beta: float = 0.1,
    mu: float = 0.005,
) -> jax.Array:
  r"""Soft labels from the student's own confidence and ranking.

    -alpha t log q_y - beta sum_{k != y} r_k log q'_k + mu CE(w, y'),
    t = 1 + q_y^2 - mean q_y^2,   r_k ~ 1 / rank of q'_k + w'_k,

  q = softmax(z), q' and w' the probabilities of the student and of its weak
  head over the classes other than y, y' the label smoothed by 0.1. t and r
  carry no gradient: they are labels.

  Args:
    student_logits: `[B, K]` raw logits z, K >= 2.
    student_weak_logits: `[B, K]` of a head on features of an earlier layer,
      see `modules.WeakHead`.
    labels: `[B]` integer class ids y.
    where: `[B]` bool, the examples that count; None: all.
    alpha: weight of the true class, beside the task's own cross entropy.
    beta: weight of the others.
    mu: weight of the weak head's cross entropy.

  Returns:
    `[B]` losses in nats, at least float32, with a floor above 0. Only the mean
    of q_y^2 mixes examples.

  Departures: rank 1 goes to the first class other than y. The public code ranks
  y too, then drops it, and there adds logarithms of the student's probabilities
  to the weak head's probabilities. Mixed labels are refused here.

  References: yang2023nkd, Sec. 3.2.
  """
  fn = 'uskd'
  core.check_logits(fn, student_logits=student_logits,
                    student_weak_logits=student_weak_logits)
  true = is_true(fn, student_logits, labels)
  valid = _rows.valid_rows(fn, student_logits, where)
  z, weak = (_rows.blank(v, valid)
             for v in (student_logits, student_weak_logits))
  labels, true = jnp.where(valid, labels, 0), true & valid[:, None]

  log_q = expected(fn, jax.nn.log_softmax(z), labels)
  square = jnp.exp(2 * log_q)
  soft = jax.lax.stop_gradient(
      1 + square - core.masked_mean(square, valid))
  rest = lambda v: jnp.where(true, -jnp.inf, v)
  score = jax.lax.stop_gradient(
      jax.nn.softmax(rest(z)) + jax.nn.softmax(rest(weak)))
  # Ranks from 0; the true class comes last, and counts nothing.
  rank = jnp.argsort(jnp.argsort(jnp.where(true, 1, -score), axis=-1), axis=-1)
  zipf = jnp.where(true, 0, 1 / (1 + rank.astype(z.dtype)))
  zipf /= jnp.sum(zipf, axis=-1, keepdims=True)
  others = expected(fn, jax.nn.log_softmax(rest(z)), zipf)
  return (-alpha * soft * log_q - beta * others
          + mu * cross_entropy(weak, labels, label_smoothing=0.1))
