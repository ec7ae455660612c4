"""Structured knowledge transfer: patterns within layers."""
import jax
from jax import numpy as jnp

from kt_jax import core
from kt_jax.losses.relation import pairs


def intra_layer_pattern(
    student_features: jax.Array | list[jax.Array],
    teacher_features: jax.Array | list[jax.Array],
) -> jax.Array:
  r"""Direction of the channel vector at each position of each layer.

    sum_layers sum_positions (1 - cos(s_p, t_p)).

  Args:
    student_features: `[B, ..., C]` maps or tokens, or a list of layers.
    teacher_features: the same shapes (else project the student:
      `modules.Projector`); no gradient is stopped here.

  Returns:
    `[B]` losses, at least float32, 0 at equality, without unit. A vector of
    zeros has cosine 0 with any and costs 1. A sum over positions: it grows with
    the image.

  Departures: none; the paper trains with one image a batch, whose loss this is.

  References: liu2020skt, Sec. 3.
  """
  fn = 'intra_layer_pattern'
  total = 0.0
  for s, t in pairs.layers(fn, student_features, teacher_features):
    if s.ndim < 2 or s.shape != t.shape:
      raise ValueError(
          f'{fn}: student_features has shape {s.shape}, teacher_features '
          f'{t.shape}; they must be [B, ..., C] and agree.')
    s, t = core.unit(core.to_float(s)), core.unit(core.to_float(t))
    # 1 - cos, without cancellation; a zero vector lacks half a square.
    apart = jnp.sum(jnp.square(s - t), axis=-1) / 2
    lacking = sum(jnp.where(jnp.all(x == 0, axis=-1), 0.5, 0.0)
                  for x in (s, t))
    total += jnp.sum((apart + lacking).reshape(len(s), -1), axis=-1)
  return total
