"""Overhaul of feature distillation."""
import jax
from jax import numpy as jnp

from kt_jax import core
from kt_jax.losses.feature._layers import add_layers
from kt_jax.losses.feature._layers import as_list
from kt_jax.losses.feature._layers import matched_layers


def overhaul(
    student_features: jax.Array | list[jax.Array],
    teacher_features: jax.Array | list[jax.Array],
    margin: jax.Array | list[jax.Array],
    *,
    decay: float | jax.Array = 0.5,
) -> jax.Array:
  r"""Squared distance to the teacher's responses, negative ones clipped.

    sum_l w_l sum_i d(s_li, max(t_li, m_lc(i))),
    d(s, t) = 0 if s <= t <= 0, else (s - t)^2.

  Args:
    student_features: `[B, ..., C]` before the ReLU, or a list of layers from
      the first to the last, from `modules.OverhaulConnector`.
    teacher_features: the same of the teacher; no gradient is stopped here.
      Maps that differ in H or W are pooled to the smaller grid.
    margin: `[C]`, m <= 0: the mean of the teacher's negative responses in each
      channel; a list if the others are.
    decay: w_l is decay^(L - 1 - l): the last layer of L has 1.

  Returns:
    `[B]` losses, at least float32, in squared units of the activations: a sum
    over entries, so weights are small (the authors' is 1e-3).

  Departures: the weights of layers are those of the authors' code (decay=1 is
  the plain sum of the paper).

  References: heo2019overhaul, Sec. 3: margin ReLU, partial L2 distance.
  """
  core.check_positive('overhaul', decay=decay)
  layers = matched_layers('overhaul', student_features, teacher_features)
  margin = as_list(margin)
  if len(margin) != len(layers):
    raise ValueError(f'overhaul: margin has {len(margin)} layers, '
                     f'student_features {len(layers)}.')

  def cost(s, t, m):
    if m.shape != s.shape[-1:]:
      raise ValueError(f'overhaul: margin has shape {m.shape}, '
                       f'student_features {s.shape}; one entry per channel is '
                       'needed.')
    t = jnp.maximum(t, core.to_float(m))
    return jnp.sum(jnp.where((s <= t) & (t <= 0), 0, (s - t)**2),
                   axis=tuple(range(1, s.ndim)))

  return add_layers((cost(s, t, m) for (s, t), m in zip(layers, margin)), decay)
