"""A map of the student's features to the teacher's shape."""
from flax import nnx
import jax

from kt_jax import core
from kt_jax.losses.feature._layers import as_list
from kt_jax.losses.feature._resize import adaptive_pool
from kt_jax.modules._block import Block
from kt_jax.modules._block import layer_shapes
from kt_jax.modules._block import like


class Projector(nnx.Module):
  r"""A small network for each layer, from the student's width to the teacher's.

    s' = act(norm(W_n ... relu(W_1 s)))

  The defaults are the regressor of FitNets; depth=2 adds a hidden layer,
  norm=True is the connector of activation boundaries. Maps are resized to the
  teacher's grid: by means over windows before the network where the grid is
  coarser, by bilinear interpolation behind it where the grid is finer.

  Arrays, by name:
    student_features: `[B, ..., C]`, or a list of layers, at construction and
      call.
    teacher_features: `[B, ..., D]`, the same number, at construction.
    where: `[B]` bool, at the call, the valid examples; others are read as 0 and
      do not count in BatchNorm.

  Settings:
    kernel: side of the (last) convolution; above 1 for maps only.
    depth: number of linear maps, with ReLUs between them.
    width: of the hidden layers; None is the teacher's.
    norm: BatchNorm after the last map, which then has no bias.
    relu: ReLU at the end.

  Returns:
    `student_features` in the shapes of the teacher, a list if they were one.

  Departures: the kernels of the paper's regressor are as large as the
  difference of the grids.

  References: romero2015fitnets, Sec. 2.2; heo2019ab.
  """

  def __init__(self, student_features, teacher_features, *, rngs: nnx.Rngs,
               kernel: int = 1, depth: int = 1, width: int | None = None,
               norm: bool = False, relu: bool = False):
    fn = 'Projector'
    core.check_positive(fn, kernel=kernel, depth=depth, width=width or 1)
    shapes = layer_shapes(fn, student_features, teacher_features,
                          (4,) if kernel > 1 else ())
    self.grids = tuple(t[1:3] if len(t) == 4 else None for _, t in shapes)
    layers = []
    for s, t in shapes:
      hidden = [width or t[-1]] * (depth - 1)
      widths = [s[-1], *hidden, t[-1]]
      blocks = [Block(a, b, act=nnx.relu, rngs=rngs)
                for a, b in zip(widths[:-2], widths[1:-1])]
      blocks.append(Block(
          *widths[-2:], kernel=kernel, bias=not norm, norm=norm,
          act=nnx.relu if relu else None, rngs=rngs))
      layers.append(nnx.List(blocks))
    self.layers = nnx.List(layers)

  def __call__(self, student_features, where=None) -> dict[str, jax.Array]:
    out = []
    for x, blocks, grid in zip(
        as_list(student_features), self.layers, self.grids, strict=True):
      x = core.to_float(x)
      if grid:
        x = adaptive_pool(x, *map(min, grid, x.shape[1:3]))
      for block in blocks:
        x = block(x, where)
      if grid:
        x = jax.image.resize(
            x, (x.shape[0], *grid, x.shape[-1]), 'bilinear', antialias=False)
      out.append(x)
    return {'student_features': like(student_features, out, where)}
