"""Inputs of the linear layers of a model."""
import itertools

from flax import nnx
import jax
from jax import numpy as jnp

from kt_jax.models import net as net_lib
from kt_jax.models.intercept import intercept


def linear_inputs(net: net_lib.Net, params: net_lib.Arrays,
                  stats: net_lib.Arrays, x: jax.Array) -> net_lib.Arrays:
  """The inputs of all `nnx.Linear` and `nnx.Conv`, as rows of a product.

  The product of an entry with `kernel.reshape(-1, outputs)`, plus the bias, is
  the layer's output. Evaluation mode; unused outputs are compiled away.

  Args:
    net: from `split`, `init` or `abstract`.
    params: path -> parameter.
    stats: path -> BatchNorm statistic and the like.
    x: `[B, ...]` inputs.

  Returns:
    Path of a kernel ('blocks/0/conv/kernel') -> `[B, ..., d_in]`. A
    convolution's inputs are the patches under its kernel, `[B, H, W, kh kw C]`,
    at its strides and paddings. The calls of a layer that runs more than once
    are concatenated, `[B, rows, d_in]`. Convolutions in groups (depthwise ones)
    are left out: their outputs do not share one matrix of inputs.
  """
  inputs_of: dict[str, list[jax.Array]] = {}

  def handler(path, module, call, inputs, *args, **kw):
    path = f'{path}/kernel' if path else 'kernel'
    if isinstance(module, nnx.Linear):
      inputs_of.setdefault(path, []).append(inputs)
      return call(inputs, *args, **kw)
    if module.feature_group_count != 1:
      return call(inputs, *args, **kw)
    conv = module.conv_general_dilated

    def record_and_conv(x, kernel, strides, padding, **kw):
      # Here the module has resolved its padding to pairs, 'SAME' or 'VALID'.
      inputs_of.setdefault(path, []).append(_patches(
          x, kernel.shape[:-2], strides, padding, kw['lhs_dilation'],
          kw['rhs_dilation']))
      return conv(x, kernel, strides, padding, **kw)
    module.conv_general_dilated = record_and_conv
    try:
      return call(inputs, *args, **kw)
    finally:
      module.conv_general_dilated = conv

  def run(model):
    with intercept(model, (nnx.Linear, nnx.Conv), handler):
      model(x)
  net_lib.call(net, params, stats, run)
  rows = lambda x: x.reshape(x.shape[0], -1, x.shape[-1])
  return {path: calls[0] if len(calls) == 1 else jnp.concatenate(
      [rows(x) for x in calls], 1) for path, calls in inputs_of.items()}


def _patches(x, window, strides, padding, grow, spread):
  """Patches `[B, H, W, kh kw C]` under a kernel, in the kernel's own order.

  Args:
    x: `[B, ..., C]`.
    window: sizes of the kernel.
    strides: of the window.
    padding: 'SAME', 'VALID', or pairs.
    grow: dilation of `x`.
    spread: dilation of the kernel.
  """
  sizes = [(n - 1) * g + 1 for n, g in zip(x.shape[1:-1], grow)]
  reach = [(n - 1) * s + 1 for n, s in zip(window, spread)]
  if isinstance(padding, str):
    padding = jax.lax.padtype_to_pads(sizes, reach, strides, padding)
  x = jax.lax.pad(x, jnp.zeros((), x.dtype), [
      (0, 0, 0), *((*pad, g - 1) for pad, g in zip(padding, grow)), (0, 0, 0)])
  places = [(n - r) // s for n, r, s in zip(x.shape[1:-1], reach, strides)]
  patches = []
  for at in itertools.product(*map(range, window)):
    first = [i * s for i, s in zip(at, spread)]
    last = [f + n * s + 1 for f, n, s in zip(first, places, strides)]
    patches.append(jax.lax.slice(x, (0, *first, 0), (
        x.shape[0], *last, x.shape[-1]), (1, *strides, 1)))
  return jnp.concatenate(patches, -1)
