"""Small named modules, so that activations that methods compare are taps.

Images are `[B, H, W, C]`. A tap records what a module returns, therefore sums,
activations and pooled features are modules here and not bare calls.
"""
from flax import nnx
import jax
from jax import numpy as jnp

# He et al. 2015; their factor 2 over the fan-out, not truncated.
he_normal = nnx.initializers.variance_scaling(2.0, 'fan_out', 'normal')


class Relu(nnx.Module):

  def __call__(self, x):
    return nnx.relu(x)


class Relu6(nnx.Module):

  def __call__(self, x):
    return nnx.relu6(x)


class Gelu(nnx.Module):
  """With the error function, not its tanh approximation."""

  def __call__(self, x):
    return nnx.gelu(x, approximate=False)


class Add(nnx.Module):
  """A residual sum."""

  def __call__(self, x, y):
    return x + y


class Feature(nnx.Module):
  """Gives its input a name."""

  def __call__(self, x):
    return x


class MeanPool(nnx.Module):
  """Mean over every axis between the batch and the channels."""

  def __call__(self, x):
    return x.mean(tuple(range(1, x.ndim - 1)))


class MaxPool(nnx.Module):

  def __init__(self, window: int, stride: int, pad: int = 0):
    self.window, self.stride, self.pad = window, stride, pad

  def __call__(self, x):
    return nnx.max_pool(x, (self.window,) * 2, (self.stride,) * 2,
                        ((self.pad, self.pad),) * 2)


def conv(inputs, outputs, *, kernel=3, stride=1, groups=1, bias=False, rngs):
  """A convolution padded as torch does it: evenly, at strides too."""
  pad = kernel // 2
  return nnx.Conv(
      inputs, outputs, (kernel, kernel), strides=(stride, stride),
      padding=((pad, pad), (pad, pad)), feature_group_count=groups,
      use_bias=bias, kernel_init=he_normal, rngs=rngs)


def batch_norm(size, *, rngs):
  return nnx.BatchNorm(size, momentum=0.9, epsilon=1e-5, rngs=rngs)


class ConvNorm(nnx.Module):
  """Convolution, BatchNorm and, unless `act` is None, an activation.

  The tap `norm` is the pre-activation, the module's own output what follows.
  """

  def __init__(self, inputs, outputs, *, act=Relu, rngs, **kw):
    self.conv = conv(inputs, outputs, rngs=rngs, **kw)
    self.norm = batch_norm(outputs, rngs=rngs)
    self.act = act() if act else None

  def __call__(self, x):
    x = self.norm(self.conv(x))
    return self.act(x) if self.act else x


class Stage(nnx.Module):
  """Blocks one after the other."""

  def __init__(self, blocks):
    self.blocks = nnx.List(blocks)

  def __call__(self, x):
    for block in self.blocks:
      x = block(x)
    return x


class Patches(nnx.Module):
  """`[B, H, W, C]` to `[B, H W / patch^2, width]`: a linear map per patch."""

  def __init__(self, channels, width, patch, *, rngs):
    self.conv = nnx.Conv(
        channels, width, patch, strides=patch, padding='VALID', rngs=rngs)

  def __call__(self, x):
    x = self.conv(x)
    return x.reshape(x.shape[0], -1, x.shape[-1])


class Softmax(nnx.Module):
  """Over the last axis, in at least float32."""

  def __call__(self, x):
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    return jax.nn.softmax(wide).astype(x.dtype)


def check_image(name: str, classes, input_shape, least: int = 1) -> int:
  """Checks that an input shape is `(H, W, C)` and large enough; returns C.

  Args:
    name: of the network, for the message.
    classes: at least one.
    input_shape: `(H, W, C)`.
    least: the smallest H and W at which no feature map vanishes.

  Raises:
    ValueError: names the value and what is allowed.
  """
  if classes < 1:
    raise ValueError(f'{name}: classes must be at least 1, got {classes}.')
  if len(input_shape) != 3 or min(input_shape) < 1:
    raise ValueError(f'{name}: input_shape must be (H, W, C), all at least 1, '
                     f'got {tuple(input_shape)}.')
  if min(input_shape[:2]) < least:
    raise ValueError(f'{name}: input_shape {tuple(input_shape)} is too small; '
                     f'H and W must be at least {least}.')
  return input_shape[2]


def check_patch(name: str, input_shape, patch) -> tuple[int, int]:
  """`patch` as a pair that divides the image.

  Raises:
    ValueError: it does not; the message has the sizes that do.
  """
  pair = (patch, patch) if isinstance(patch, int) else tuple(patch)
  if len(pair) != 2 or min(pair) < 1 or any(
      size % p for size, p in zip(input_shape, pair)):
    height, width = input_shape[:2]
    fits = [p for p in range(1, min(height, width) + 1)
            if not height % p and not width % p]
    raise ValueError(f'{name}: patch {patch} does not divide the image '
                     f'{height}x{width}; these do: {fits}.')
  return pair
