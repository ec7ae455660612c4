"""Connector and margins of the overhaul of feature distillation."""
from flax import nnx
import jax
from jax import numpy as jnp

from kt_jax import core
from kt_jax.losses.feature._layers import as_list
from kt_jax.modules._block import layer_shapes
from kt_jax.modules._block import like
from kt_jax.modules._pooled import valid
from kt_jax.modules.projector import Projector


class NegativeMean(nnx.Module):
  """Mean of the negative values per channel, over the batches so far.

  Two moving averages from 0, of relu(-x) and of 1[x < 0]; the bias towards 0
  cancels in their quotient.
  """

  def __init__(self, channels: int, momentum: float):
    self.momentum = momentum
    self.size = nnx.BatchStat(jnp.zeros(channels))
    self.share = nnx.BatchStat(jnp.zeros(channels))

  def __call__(self, x, where=None):
    x = valid(jax.lax.stop_gradient(core.to_float(x)), where)
    axes = tuple(range(x.ndim - 1))
    total = x.size // x.shape[-1]
    if where is not None:
      total = jnp.sum(where) * (total // len(x))
    momentum = jnp.where(total > 0, self.momentum, 1)
    for stat, value in ((self.size, nnx.relu(-x)), (self.share, x < 0)):
      mean = jnp.sum(value, axes, dtype=x.dtype) / jnp.maximum(total, 1)
      stat[...] = momentum * stat[...] + (1 - momentum) * mean
    share = self.share[...]
    return jnp.where(share > 0, -self.size[...]
                     / jnp.where(share > 0, share, 1), 0)


class OverhaulConnector(nnx.Module):
  r"""1x1 convolution and BatchNorm on the student; margins of the teacher.

  Arrays, by name:
    student_features: `[B, ..., C]` before the ReLU, or a list of layers, at
      construction and call.
    teacher_features: `[B, ..., D]`, the same number, at construction and call.
    where: `[B]` bool, at the call, the valid examples; others are read as 0 and
      do not count in statistics.

  Settings:
    momentum: weight of the old averages in a step, in [0, 1).

  Returns:
    `student_features` in the shapes of the teacher and `margin` `[D]`, the
    running mean of each channel's negative values (0 without any); lists if the
    features are.

  Departures: the authors' code computes the margin once, from the teacher's
  BatchNorm as if its output were Gaussian, and takes -3 standard deviations
  where negatives are rarer than 1 in 1,000. The running mean does not need
  BatchNorm and converges to the value that this approximates.

  References: heo2019overhaul, Sec. 3.
  """

  def __init__(self, student_features, teacher_features, *, rngs: nnx.Rngs,
               momentum: float = 0.99):
    fn = 'OverhaulConnector'
    if not 0 <= momentum < 1:
      raise core.UserError(f'{fn}: momentum must be in [0, 1), got {momentum}.')
    shapes = layer_shapes(fn, student_features, teacher_features)
    self.projector = Projector(
        student_features, teacher_features, norm=True, rngs=rngs)
    self.negatives = nnx.List(
        [NegativeMean(t[-1], momentum) for _, t in shapes])

  def __call__(self, student_features, teacher_features, where=None
               ) -> dict[str, jax.Array]:
    margins = [negative(x, where) for x, negative in zip(
        as_list(teacher_features), self.negatives, strict=True)]
    return self.projector(student_features, where) | {
        'margin': like(teacher_features, margins)}
