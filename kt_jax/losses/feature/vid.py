"""Variational information distillation."""
import jax
from jax import numpy as jnp

from kt_jax import core
from kt_jax.losses.feature._layers import add_layers
from kt_jax.losses.feature._layers import as_list
from kt_jax.losses.feature._layers import matched_layers


def vid(
    student_features: jax.Array | list[jax.Array],
    teacher_features: jax.Array | list[jax.Array],
    variance: jax.Array | list[jax.Array],
) -> jax.Array:
  r"""Negative log-likelihood of the teacher under a Gaussian regressor.

    sum_l mean_i 1/2 [ (t_li - mu_li)^2 / v_lc(i) + log v_lc(i) ],

  a bound on the mutual information of the two networks' features.

  Args:
    student_features: `[B, ..., C]` means mu, or a list of layers, from
      `modules.VariationalRegressor`.
    teacher_features: the same of the teacher; no gradient is stopped here.
      Maps that differ in H or W are pooled to the smaller grid.
    variance: `[C]` variance v > 0 of each channel, a list if the others are.

  Returns:
    `[B]` losses in nats per entry, at least float32, without the constant
    log(2 pi) / 2. Negative where v is small: equality gives log(v) / 2.

  Departures: the paper sums over entries; the mean is that of the public code.

  References: ahn2019vid, Sec. 2, the Gaussian observation model.
  """
  layers = matched_layers('vid', student_features, teacher_features)
  variance = as_list(variance)
  if len(variance) != len(layers):
    raise ValueError(f'vid: variance has {len(variance)} layers, '
                     f'student_features {len(layers)}.')

  def cost(s, t, v):
    if v.shape != s.shape[-1:]:
      raise ValueError(f'vid: variance has shape {v.shape}, student_features '
                       f'{s.shape}; one entry per channel is needed.')
    v = core.to_float(v)
    return jnp.mean(0.5 * ((t - s)**2 / v + jnp.log(v)),
                    axis=tuple(range(1, s.ndim)))

  return add_layers(cost(s, t, v) for (s, t), v in zip(layers, variance))
