"""Hints of FitNets."""
import jax
from jax import numpy as jnp

from kt_jax.losses.feature._layers import add_layers
from kt_jax.losses.feature._layers import matched_layers


def hint(
    student_features: jax.Array | list[jax.Array],
    teacher_features: jax.Array | list[jax.Array],
) -> jax.Array:
  r"""Mean squared difference of activations.

    sum_l mean_i (s_li - t_li)^2,   i over all axes but the examples'.

  Args:
    student_features: `[B, ..., C]`, or a list of layers. Where widths differ
      they come from a regressor (`modules.Projector`).
    teacher_features: the same of the teacher; no gradient is stopped here.
      Maps that differ in H or W are pooled to the smaller grid.

  Returns:
    `[B]` losses, at least float32, in squared units of the activations.

  Departures: the paper writes half the squared distance, a sum over entries.
  The mean, as in the public code, does not grow with the layer; its weight is
  the paper's times half the number of entries.

  References: romero2015fitnets, Eq. 3.
  """
  layers = matched_layers('hint', student_features, teacher_features)
  return add_layers(jnp.mean((s - t)**2, axis=tuple(range(1, s.ndim)))
                    for s, t in layers)
