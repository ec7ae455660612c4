"""Structured knowledge transfer: patterns within layers."""
import jax
from jax import numpy as jnp

from kt_jax import core
from kt_jax.losses.feature._layers import add_layers
from kt_jax.losses.feature._layers import zip_layers


def intra_layer_pattern(
    student_features: jax.Array | list[jax.Array],
    teacher_features: jax.Array | list[jax.Array],
) -> jax.Array:
  r"""Differences in direction of the channel vectors at each position.

    sum_layers sum_positions (1 - cos(s_p, t_p)).

  Args:
    student_features: `[B, ..., C]` maps or tokens, or a list of layers.
    teacher_features: the same shapes (else project the student:
      `modules.Projector`); no gradient is stopped here.

  Returns:
    `[B]` losses, at least float32, 0 at equality, without unit. A vector of
    zeros has cosine 0 with any and costs 1. A sum over positions: it grows with
    the image.

  Departures: the paper trains with one image per batch: this is its loss.

  References: liu2020skt, Sec. 3.
  """
  fn = 'intra_layer_pattern'

  def cost(s, t):
    if s.ndim < 2 or s.shape != t.shape:
      raise ValueError(
          f'{fn}: student_features has shape {s.shape}, teacher_features '
          f'{t.shape}; they must be [B, ..., C] and agree.')
    s, t = core.unit(core.to_float(s)), core.unit(core.to_float(t))
    # 1 - cos, without cancellation: half a square is missing per zero vector.
    half = jnp.sum(jnp.square(s - t), axis=-1) / 2
    missing = sum(jnp.where(jnp.all(x == 0, axis=-1), 0.5, 0.0)
                  for x in (s, t))
    return jnp.sum((half + missing).reshape(len(s), -1), axis=-1)

  return add_layers(cost(s, t) for s, t in zip_layers(
      fn, student_features, teacher_features))
