"""Attention-based fusion of knowledge review."""
from collections.abc import Sequence

from flax import nnx
import jax
from jax import numpy as jnp
import numpy as np

from kt_jax import core
from kt_jax.losses.feature._layers import as_list
from kt_jax.modules._block import Block
from kt_jax.modules._block import layer_shapes
from kt_jax.modules._block import like

# Initializations of PyTorch: kaiming_uniform_ with a=1, and its default.
_uniform = nnx.initializers.lecun_uniform()
_default = nnx.initializers.variance_scaling(1 / 3, 'fan_in', 'uniform')


class Fusion(nnx.Module):
  """Fuses one layer with the residual of the deeper one, if there is one.

    x = conv1(s),   a, b = sigmoid(conv(x, y)),   x = a x + b y,

  y being the deeper layer's x. Returns `(conv2(x), x)`, on `grid`.
  """

  def __init__(self, inputs, width, outputs, grid, fuse, *, rngs):
    self.grid = grid
    self.conv1 = Block(
        inputs, width, bias=False, norm=True, init=_uniform, rngs=rngs)
    self.conv2 = Block(width, outputs, kernel=3, bias=False, norm=True,
                       init=_uniform, rngs=rngs)
    self.attention = Block(
        2 * width, 2, act=nnx.sigmoid, init=_default, rngs=rngs
        ) if fuse else None

  def __call__(self, x, y, where=None):
    x = self.conv1(x, where)
    if self.attention is not None:
      y = nearest(y, x.shape[1:3])
      a = self.attention(jnp.concatenate([x, y], axis=-1), where)
      x = x * a[..., :1] + y * a[..., 1:]
    x = nearest(x, self.grid)
    return self.conv2(x, where), x


class ReviewFusion(nnx.Module):
  r"""Maps each student layer and the deeper ones to the teacher's layer.

  From the deepest layer to the first, each is mapped to a common width and
  mixed with the residual of the deeper ones by an attention over positions; the
  result is the next residual and, mapped to the teacher's width, the output.

  Arrays, by name:
    student_features: list of layers from the first to the last, maps
      `[B, H, W, C]` or vectors `[B, C]` (maps of one cell, such as the pooled
      features), at construction and call.
    teacher_features: the same number, with its H, W, C, at construction.
    where: `[B]` bool, at the call, the valid examples; others are read as 0 and
      do not count in BatchNorm.

  Settings:
    width: of the residuals; None is that of the student's deepest layer, at
      most 512.

  Returns:
    `student_features` in the shapes of the teacher, a list if they were one.

  Departures: initial biases are 0 here.

  References: chen2021review, Sec. 3, attention based fusion.
  """

  def __init__(self, student_features, teacher_features, *, rngs: nnx.Rngs,
               width: int | None = None):
    fn = 'ReviewFusion'
    core.check_positive(fn, width=width or 1)
    shapes = layer_shapes(fn, student_features, teacher_features, (2, 4))
    width = width or min(512, shapes[-1][0][-1])
    self.fusions = nnx.List([
        Fusion(s[-1], width, t[-1], (t[1], t[2]) if len(t) == 4 else (1, 1),
               i < len(shapes) - 1, rngs=rngs)
        for i, (s, t) in enumerate(shapes)])

  def __call__(self, student_features, where=None) -> dict[str, jax.Array]:
    layers = as_list(student_features)
    out, y = [], None
    for x, fusion in zip(layers[::-1], list(self.fusions)[::-1], strict=True):
      vector = x.ndim == 2
      x = core.to_float(x[:, None, None] if vector else x)
      x, y = fusion(x, y, where)
      out.append(x[:, 0, 0] if vector else x)
    return {'student_features': like(student_features, out[::-1], where)}


def nearest(x: jax.Array, grid: Sequence[int]) -> jax.Array:
  """`[B, H, W, C]` on a grid: cell i of n takes cell floor(i H / n)."""
  for axis, size in zip((1, 2), grid):
    length = x.shape[axis]
    if size != length:
      x = jnp.take(x, np.arange(size) * length // size, axis=axis)
  return x
