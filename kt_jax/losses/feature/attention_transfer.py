"""Attention transfer."""
import jax
from jax import numpy as jnp

from kt_jax import core
from kt_jax.losses.feature._difference import difference
from kt_jax.losses.feature._layers import add_layers
from kt_jax.losses.feature._layers import matched_layers


def attention_transfer(
    student_features: jax.Array | list[jax.Array],
    teacher_features: jax.Array | list[jax.Array],
    *,
    power: float | jax.Array = 2.0,
    squared: bool = True,
) -> jax.Array:
  r"""Difference of the spatial attention maps of the two networks.

    sum_l mean_i (q_li^s - q_li^t)^2,   q = Q / ||Q||_2,
    Q_i = mean_c |A_ic|^p over the channels, i over positions.

  Args:
    student_features: `[B, H, W, C]` maps A, `[B, N, C]` tokens, or a list of
      layers; only the maps' channels may differ from the teacher's.
    teacher_features: the same of the teacher; no gradient is stopped here.
      Maps that differ in H or W are pooled to the smaller grid.
    power: p >= 1, possibly traced.
    squared: mean of squares over positions; False is the distance
      ||q^s - q^t||_2 of each layer, with gradient 0 at equality.

  Returns:
    `[B]` losses, at least float32, no unit.

  Departures: the paper's Eq. 2 has the distance, times beta / 2. Its beta of
  10^3 'divided by the number of elements', and the authors' code, belong to
  the mean of squares, which is the default with beta as the weight.

  References: zagoruyko2017attention, Eq. 2; the maps are Sec. 3.1.
  """
  fn = 'attention_transfer'
  if not isinstance(power, jax.core.Tracer) and not power >= 1:
    raise core.UserError(f'{fn}: power must be >= 1, got {power}.')

  def cost(s, t):
    gap = difference(_attention(s, power), _attention(t, power))
    if squared:
      return jnp.mean(gap**2, axis=-1)
    return core.root(jnp.sum(gap**2, axis=-1))

  return add_layers(cost(s, t) for s, t in matched_layers(
      fn, student_features, teacher_features, least=3, channels=False))


def _attention(x, power):
  """`[B, ..., C]` to `[B, N]` of length one."""
  # At size 1 no power overflows; q does not depend on the size.
  size = jax.lax.stop_gradient(
      jnp.max(jnp.abs(x), axis=tuple(range(1, x.ndim)), keepdims=True))
  x = jnp.abs(x / jnp.where(size == 0, 1, size))
  q = jnp.mean(x**power, axis=-1)
  return core.unit(q.reshape(len(q), -1), -1)
