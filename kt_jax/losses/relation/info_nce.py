"""InfoNCE between two networks."""
import jax
from jax import numpy as jnp

from kt_jax import core
from kt_jax.losses.relation import _pairs


def info_nce(
    student_features: jax.Array,
    teacher_features: jax.Array,
    where: jax.Array | None = None,
    *,
    temperature: float | jax.Array = 0.07,
    symmetric: bool = False,
    normalize: bool = True,
) -> jax.Array:
  r"""Identifies an example's teacher embedding among those of the batch.

    - log e^{<s_i, t_i> / tau} / sum_j e^{<s_i, t_j> / tau}.

  Args:
    student_features: `[B, ...]`, flattened to vectors.
    teacher_features: `[B, ...]` of the same shape (else
      `modules.EmbeddingHead`); no gradient is stopped here.
    where: `[B]` bool, the n examples that count; None: all.
    temperature: tau > 0, a scalar, possibly traced.
    symmetric: the mean of this and of identifying s_i among the s_j by t_i.
    normalize: whether vectors are brought to length 1: cosines.

  Returns:
    `[B]` losses in nats, at least float32, above 0; log n if all embeddings are
    equal, and log n minus the mean bounds the mutual information from below.

  Departures: the paper scores pairs by a learned bilinear form; cosines over
  a temperature are what later work uses. The teacher's embeddings of the other
  examples in the batch are the negatives.

  References: oord2018cpc, Eq. 4.
  """
  fn = 'info_nce'
  core.check_positive(fn, temperature=temperature)
  s, t, valid, _ = _pairs.embeddings(fn, student_features, teacher_features,
                                    where, same_width=True)
  if normalize:
    s, t = core.unit(s), core.unit(t)
  score = core.dot(s, t) / temperature
  # A row that does not count still has its own column, so that it is finite.
  column = valid | jnp.eye(len(valid), dtype=bool)
  loss = _pairs.nll(score, column)
  if symmetric:
    loss = (loss + _pairs.nll(score.T, column)) / 2
  return loss
