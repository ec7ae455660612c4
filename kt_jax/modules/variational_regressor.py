"""The Gaussian of variational information distillation."""
import math

from flax import nnx
import jax
from jax import numpy as jnp

from kt_jax import core
from kt_jax.losses.feature._layers import as_list
from kt_jax.losses.feature._resize import adaptive_pool
from kt_jax.modules._block import Block
from kt_jax.modules._block import layer_shapes
from kt_jax.modules._block import like


class VariationalRegressor(nnx.Module):
  r"""Mean of the teacher's features given the student's, and their variance.

    mu = W_3 relu(W_2 relu(W_1 s)),   v_c = softplus(a_c) + floor,

  one v per channel of the teacher, the same for all examples and positions.

  Arrays, by name:
    student_features: `[B, ..., C]`, or a list of layers, at construction and
      call; maps are pooled to the teacher's grid where that is coarser.
    teacher_features: `[B, ..., D]`, the same number, at construction and call.
    where: `[B]` bool, at the call, the valid examples; others are read as 0.

  Settings:
    width: of the hidden layers; None is the teacher's.
    variance: initial v, > floor.
    floor: smallest v, > 0.

  Returns:
    `student_features` `[B, ..., D]`, the means, `variance` `[D]`, and
    `teacher_features` unchanged but 0 in invalid rows (every row of the loss
    has a gradient with respect to the variance); lists if the features are.

  References: ahn2019vid, Sec. 2.
  """

  def __init__(self, student_features, teacher_features, *, rngs: nnx.Rngs,
               width: int | None = None, variance: float = 5.0,
               floor: float = 1e-5):
    fn = 'VariationalRegressor'
    core.check_positive(fn, width=width or 1, floor=floor)
    if not variance > floor:
      raise core.UserError(f'{fn}: variance must be > floor ({floor}), got '
                           f'{variance}.')
    shapes = layer_shapes(fn, student_features, teacher_features)
    self.floor = floor
    self.grids = tuple(t[1:3] if len(t) == 4 else None for _, t in shapes)
    self.layers = nnx.List([
        nnx.List([Block(a, b, bias=False, act=act, rngs=rngs)
                  for a, b, act in ((s[-1], width or t[-1], nnx.relu),
                                    (width or t[-1], width or t[-1], nnx.relu),
                                    (width or t[-1], t[-1], None))])
        for s, t in shapes])
    # The inverse of softplus, in a form that large values do not overflow.
    raw = variance - floor
    raw += math.log(-math.expm1(-raw))
    self.raw = nnx.List([nnx.Param(jnp.full(t[-1], raw)) for _, t in shapes])

  def __call__(self, student_features, teacher_features, where=None
               ) -> dict[str, jax.Array]:
    means = []
    for x, blocks, grid in zip(
        as_list(student_features), self.layers, self.grids, strict=True):
      x = core.to_float(x)
      if grid:
        x = adaptive_pool(x, *map(min, grid, x.shape[1:3]))
      for block in blocks:
        x = block(x, where)
      means.append(x)
    variances = [nnx.softplus(core.to_float(raw[...])) + self.floor
                 for raw in self.raw]
    return {'student_features': like(student_features, means, where),
            'teacher_features': like(
                teacher_features, as_list(teacher_features), where),
            'variance': like(student_features, variances)}
