"""Activation boundaries."""
import jax
from jax import numpy as jnp

from kt_jax import core
from kt_jax.losses.feature._layers import add_layers
from kt_jax.losses.feature._layers import matched_layers


def activation_boundary(
    student_features: jax.Array | list[jax.Array],
    teacher_features: jax.Array | list[jax.Array],
    *,
    margin: float | jax.Array = 1.0,
    decay: float | jax.Array = 0.5,
) -> jax.Array:
  r"""Makes each neuron active where the teacher's is, by a margin.

    sum_l w_l sum_i [t_li > 0] relu(m - s_li)^2 + [t_li <= 0] relu(m + s_li)^2,

  a hinge on the sign only: how active the teacher is does not matter.

  Args:
    student_features: `[B, ..., C]` before the ReLU, or a list of layers from
      the first to the last; where widths differ, from
      `modules.Projector(norm=True)`.
    teacher_features: the same of the teacher; only the sign counts. Maps that
      differ in H or W are pooled to the smaller grid.
    margin: m >= 0, possibly traced.
    decay: w_l is decay^(L - 1 - l): the last layer of L has 1.

  Returns:
    `[B]` losses, at least float32: a sum over neurons, so weights are small
    (the authors' is 3e-3). Equal features do not give 0 within the margin.

  Departures: the paper has one sum; the weights of layers are those of the
  authors' code (decay=1 is the plain sum).

  References: heo2019ab, the alternative loss with a margin.
  """
  fn = 'activation_boundary'
  if not isinstance(margin, jax.core.Tracer) and not margin >= 0:
    raise core.UserError(f'{fn}: margin must be >= 0, got {margin}.')
  core.check_positive(fn, decay=decay)

  def cost(s, t):
    # A NaN of the teacher is neither active nor inactive: it is passed on.
    sign = jnp.where(t > 0, 1, jnp.where(t <= 0, -1, jnp.nan))
    return jnp.sum(jax.nn.relu(margin - sign * s)**2,
                   axis=tuple(range(1, s.ndim)))

  layers = matched_layers(fn, student_features, teacher_features)
  return add_layers((cost(s, t) for s, t in layers), decay)
