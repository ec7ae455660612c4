"""A map of channels, and checks of the layers of two models."""
from typing import Any

from flax import nnx
from jax import numpy as jnp

from kt_jax.losses.feature._layers import as_list
from kt_jax.modules._pooled import valid

# He et al. 2015, over the fan-out: the usual initialization of connectors.
he_normal = nnx.initializers.variance_scaling(2.0, 'fan_out', 'normal')


class Block(nnx.Module):
  """Linear map or convolution, then optional BatchNorm and activation.

  Kernel 1 is a linear map of the last axis and takes any array `[B, ..., C]`;
  larger kernels take maps `[B, H, W, C]` and keep H and W. Statistics are over
  the rows with `where` `[B]`; without any they stay as they were.
  """

  def __init__(self, inputs: int, outputs: int, *, rngs: nnx.Rngs,
               kernel: int = 1, bias: bool = True, norm: bool = False,
               act=None, init=he_normal):
    if kernel == 1:
      self.linear = nnx.Linear(inputs, outputs, use_bias=bias, kernel_init=init,
                               rngs=rngs)
    else:
      pad = (kernel // 2, (kernel - 1) // 2)
      self.linear = nnx.Conv(inputs, outputs, (kernel, kernel), use_bias=bias,
                             padding=(pad, pad), kernel_init=init, rngs=rngs)
    self.norm = nnx.BatchNorm(outputs, momentum=0.9, epsilon=1e-5, rngs=rngs
                              ) if norm else None
    self.act = act

  def __call__(self, x, where=None):
    x = self.linear(valid(x, where))
    if self.norm is not None:
      x = _normalize(self.norm, x, where)
    return self.act(x) if self.act else x


def _normalize(norm, x, where):
  if where is None:
    return norm(x)
  nonempty, before = where.any(), (norm.mean[...], norm.var[...])
  mask = (where | ~nonempty).reshape((-1,) + (1,) * (x.ndim - 1))
  x = norm(x, mask=mask)
  for stat, old in zip((norm.mean, norm.var), before):
    stat[...] = jnp.where(nonempty, stat[...], old)
  return x


def layer_shapes(fn: str, student_features, teacher_features,
                 ranks: tuple[int, ...] = ()) -> list[tuple[tuple, tuple]]:
  """`(student's shape, teacher's shape)` of every layer.

  Args:
    fn: name of the module, for the message.
    student_features: array or `jax.ShapeDtypeStruct` `[B, ..., C]`, or a list.
    teacher_features: the same of the teacher. Of maps `[B, H, W, C]` H and W
      may differ, other inner axes must agree.
    ranks: allowed numbers of axes; () is any, from 2.

  Raises:
    ValueError: layers do not fit; the message has their shapes.
  """
  student, teacher = ([tuple(x.shape) for x in as_list(features)]
                      for features in (student_features, teacher_features))
  if len(student) != len(teacher) or not student:
    raise ValueError(
        f'{fn}: student_features has {len(student)} layers, teacher_features '
        f'{len(teacher)}; they must have the same number, at least 1.')
  for i, (s, t) in enumerate(zip(student, teacher)):
    if (len(s) != len(t) or len(s) < 2 or ranks and len(s) not in ranks
        or len(s) != 4 and s[1:-1] != t[1:-1]):
      raise ValueError(
          f'{fn}: layer {i} has student_features of shape {s} and '
          f'teacher_features of shape {t}; only channels, and H and W of maps '
          '[B, H, W, C], may differ, and the number of axes must be '
          f'{" or ".join(map(str, ranks)) or "at least 2"}.')
  return list(zip(student, teacher))


def like(features, values: list, where=None) -> Any:
  """`values` as a list if `features` is one, else the only value.

  Rows that `where` leaves out are 0, and so are their gradients: the loss of an
  invalid row may have a gradient of NaN times 0.
  """
  values = [valid(x, where) for x in values]
  return values if isinstance(features, (list, tuple)) else values[0]
