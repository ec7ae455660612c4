"""Similarity-preserving distillation."""
import jax
from jax import numpy as jnp

from kt_jax import core
from kt_jax.losses.feature._layers import add_layers
from kt_jax.losses.feature._layers import zip_layers
from kt_jax.losses.relation import _pairs


def similarity_preserving(
    student_features: jax.Array | list[jax.Array],
    teacher_features: jax.Array | list[jax.Array],
    where: jax.Array | None = None,
) -> jax.Array:
  r"""Similarities of the activations of the examples of a batch.

    1/n^2 sum_ij (G^s_ij - G^t_ij)^2,   G = X X^T, each row at length 1,

  X the activations, one flattened example per row; summed over pairs of layers.

  Args:
    student_features: `[B, ...]`, or a list of layers.
    teacher_features: `[B, ...]` of any size, or as long a list; no gradient
      is stopped here.
    where: `[B]` bool, the n examples that count; None: all.

  Returns:
    `[B]` shares, at least float32, without unit, 0 at equality: sum_j / n for
    example i, so that their mean over valid examples is the value above.

  References: tung2019sp, Eq. 1-3.
  """
  fn = 'similarity_preserving'

  def cost(s, t):
    s, t, _, n = _pairs.embeddings(fn, s, t, where)
    gap = _similarity(s) - _similarity(t)
    return jnp.sum(jnp.square(gap), axis=-1) / n

  return add_layers(cost(s, t) for s, t in zip_layers(
      fn, student_features, teacher_features))


def _similarity(x):
  # One scale for all does not matter, and keeps the products in range. Rows
  # that do not count are 0, as are their columns.
  largest = jax.lax.stop_gradient(jnp.max(jnp.abs(x)))
  x = x / jnp.where(largest == 0, 1, largest)
  return core.unit(core.dot(x, x))
