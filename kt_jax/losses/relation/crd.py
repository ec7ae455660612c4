"""Contrastive representation distillation."""
import jax
from jax import numpy as jnp

from kt_jax import core


def crd(
    student_features: jax.Array,
    teacher_features: jax.Array,
    student_negatives: jax.Array,
    teacher_negatives: jax.Array,
    *,
    temperature: float | jax.Array = 0.07,
    examples: int = 50000,
    student_normalizer: float | jax.Array = 1.0,
    teacher_normalizer: float | jax.Array = 1.0,
) -> jax.Array:
  r"""Classifies pairs of embeddings: the same example, or two examples.

    - log h(s, t) - sum_n log (1 - h(s, t_n))
    - log h(t, s) - sum_n log (1 - h(t, s_n)),
    h(a, b) = e^{<a, b> / tau} / (e^{<a, b> / tau} + Z N / M),

  over N negatives t_n and s_n from a memory of the M training examples; Z is
  `student_normalizer` in the first line, `teacher_normalizer` in the second.
  `modules.ContrastiveMemory` embeds, stores, samples and normalizes.

  Args:
    student_features: `[B, D]` embeddings s of length 1.
    teacher_features: `[B, D]` embeddings t of length 1. No gradient is stopped
      here: the teacher's embedding head is trained too.
    student_negatives: `[B, N, D]` stored s of other examples.
    teacher_negatives: `[B, N, D]` stored t of other examples.
    temperature: tau > 0.
    examples: M, the size of the training set.
    student_normalizer: Z > 0, a scalar, possibly traced.
    teacher_normalizer: Z > 0, a scalar, possibly traced.

  Returns:
    `[B]` losses in nats, at least float32, both directions; its minimum is
    above 0.

  Departures: the paper has Z = 1. The public code fixes Z, by direction, to M
  times the mean e^{<.,.> / tau} of its first batch, which makes the loss about
  2 log N instead of thousands at the start; the module does the same. In
  the code the positive too is a stored row; here, as in the paper, it is
  the example's own embedding. No 1e-7 is added: logarithms are of sigmoids.

  References: tian2020crd, Sec. 3 and Eq. 18.
  """
  fn = 'crd'
  core.check_positive(
      fn, temperature=temperature, examples=examples,
      student_normalizer=student_normalizer,
      teacher_normalizer=teacher_normalizer)
  shape, many = student_features.shape, student_negatives.shape
  if len(shape) != 2 or teacher_features.shape != shape:
    raise ValueError(
        f'{fn}: student_features has shape {shape}, teacher_features '
        f'{teacher_features.shape}; they must be [B, D] and agree.')
  if (len(many) != 3 or (many[0], many[2]) != shape or not many[1]
      or teacher_negatives.shape != many):
    raise ValueError(
        f'{fn}: student_negatives has shape {many}, teacher_negatives '
        f'{teacher_negatives.shape}; they must be [B, N, D] of the same '
        f'N >= 1, for features of shape {shape}.')

  s, t, s_n, t_n = map(core.to_float, (student_features, teacher_features,
                                       student_negatives, teacher_negatives))
  # log Z N / M, the score at which h is one half.
  even = lambda z: jnp.log(jnp.asarray(z, s.dtype)) + jnp.log(
      jnp.asarray(many[1] / examples, s.dtype))

  def contrast(anchor, other, negatives, z):
    own = jnp.sum(anchor * other, axis=-1) / temperature - even(z)
    rest = core.dot(negatives, anchor[:, None])[..., 0] / temperature - even(z)
    return jax.nn.softplus(-own) + jnp.sum(jax.nn.softplus(rest), axis=-1)

  return (contrast(s, t, t_n, student_normalizer)
          + contrast(t, s, s_n, teacher_normalizer))
