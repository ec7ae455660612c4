"""Factor transfer."""
import jax
from jax import numpy as jnp

from kt_jax import core
from kt_jax.losses.feature._difference import difference
from kt_jax.losses.feature._layers import add_layers
from kt_jax.losses.feature._layers import matched_layers


def factor_transfer(
    student_features: jax.Array | list[jax.Array],
    teacher_features: jax.Array | list[jax.Array],
    *,
    p: int = 1,
) -> jax.Array:
  r"""Difference of the factors that two small networks compute from features.

    sum_l mean_i |f_li^s - f_li^t|^p,   f = F / ||F||_2 over the whole example.

  Args:
    student_features: `[B, ..., C]` factors F, or a list of layers: outputs of
      the translator of `modules.FactorEncoder`.
    teacher_features: outputs of its paraphraser; no gradient is stopped here.
      Maps that differ in H or W are pooled to the smaller grid.
    p: 1 or 2.

  Returns:
    `[B]` losses, at least float32, no unit.

  Departures: the paper writes the p-norm. The mean over the entries is that of
  the authors' code, to which its weight of 500 belongs.

  References: kim2018factor, Sec. 3, the factor transfer loss.
  """
  if p not in (1, 2):
    raise core.UserError(f'factor_transfer: p must be 1 or 2, got {p}.')

  def cost(s, t):
    gap = difference(*(core.unit(x.reshape(len(x), -1)) for x in (s, t)))
    return jnp.mean(jnp.abs(gap) if p == 1 else gap**2, axis=-1)

  return add_layers(cost(s, t) for s, t in matched_layers(
      'factor_transfer', student_features, teacher_features))
