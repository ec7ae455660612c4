"""Random affine maps of images with a learned spread."""
from collections.abc import Sequence
import math

from flax import nnx
import jax
from jax import numpy as jnp

from kt_jax import core

Fill = str | float | Sequence[float]


class AffineAugmentor(nnx.Module):
  r"""Transforms each image at random, within fixed ranges.

    u = range tanh(sigma eps),  eps ~ N(0, 1),  sigma = exp(log_sigma),

  for each of: shift of the rows, shift of the columns, angle, logarithm of the
  size, shear. Content is sheared, scaled, rotated about the center and shifted,
  in this order. u is a function of sigma, so that a loss on the images has a
  gradient with respect to `log_sigma`; tanh keeps the range and, unlike
  clipping, a gradient everywhere. sigma = 0 is the identity.

  Arrays, by name:
    inputs: `[B, H, W, C]` floating images, at construction and call.
    key: at the call. eps depends on the key and the row only.

  Settings (a range of 0 leaves a transform out, with its parameters):
    shift: part of the height and of the width, 0.5 is half of each.
    rotate: degrees, to either side.
    scale: of the logarithm of the size: exp(-scale) to exp(scale).
    shear: shift of the columns per row, to either side.
    initial: sigma at the start; 1 covers about the whole range.
    fill: outside of the image: 'edge', the nearest pixel, or a value (or one
      per channel) in the units of `inputs`, where black is not 0.

  Returns:
    `inputs` `[B, H, W, C]`, dtype as before. The gradient reaches the images
    and `log_sigma` `[number of ranges > 0]`, with shift as two.

  Departures: the paper's text leaves the distribution open and no code was
  released. Means are fixed at the identity; only the spreads are learned.

  References: nix2023hard, the spatial transforms.
  """

  def __init__(self, inputs, *, rngs: nnx.Rngs, shift: float = 0.5,
               rotate: float = 0.0, scale: float = 0.0, shear: float = 0.0,
               initial: float = 1 / 3, fill: Fill = 'edge'):
    del rngs
    fn = 'AffineAugmentor'
    ranges = dict(shift=shift, rotate=rotate, scale=scale, shear=shear)
    for name, value in ranges.items():
      if not 0 <= value < math.inf:
        raise core.UserError(f'{fn}: {name} must be >= 0, got {value}.')
    if not any(ranges.values()):
      raise core.UserError(f'{fn}: every range is 0, got {ranges}; allow one.')
    if not 0 < initial < math.inf:
      raise core.UserError(f'{fn}: initial must be > 0, got {initial}.')
    self.fill = _check(fn, inputs.shape, fill)
    self.ranges = tuple(
        map(float, (shift, shift, math.radians(rotate), scale, shear)))
    self.allowed = tuple(i for i, value in enumerate(self.ranges) if value)
    self.log_sigma = nnx.Param(jnp.full(len(self.allowed), math.log(initial)))

  def __call__(self, inputs, key) -> dict[str, jax.Array]:
    rows = jnp.arange(inputs.shape[0])
    # All five are drawn, so that each has the same eps whatever is allowed.
    eps = jax.vmap(lambda row: jax.random.normal(
        jax.random.fold_in(key, row), (len(self.ranges),)))(rows)
    sigma = jnp.exp(core.to_float(self.log_sigma[...]))
    u = [jnp.zeros(len(rows))] * len(self.ranges)
    for at, i in enumerate(self.allowed):
      u[i] = self.ranges[i] * jnp.tanh(sigma[at] * eps[:, i])
    matrix = _matrix(u, inputs.shape[1:3])
    return {'inputs': affine_sample(inputs, matrix, fill=self.fill)}


def affine_sample(inputs: jax.Array, matrix: jax.Array, *,
                  fill: Fill = 'edge') -> jax.Array:
  """Bilinear samples of each image at an affine map of the pixels' places.

  Args:
    inputs: `[B, H, W, C]` floating.
    matrix: `[B, 2, 3]`, from (row, column, 1) of an output pixel, relative to
      the center of the image, to (row, column) of the input.
    fill: 'edge', or the value outside, as in `AffineAugmentor`.

  Returns:
    `[B, H, W, C]`, of the dtype of `inputs`. Half a pixel beyond the border it
    is the mean of the border's value and `fill`.
  """
  fill = _check('affine_sample', inputs.shape, fill)
  if matrix.shape != (inputs.shape[0], 2, 3):
    raise ValueError(f'affine_sample: matrix must be [B, 2, 3] for inputs '
                     f'{inputs.shape}; got {matrix.shape}.')
  edge, sizes = fill == 'edge', inputs.shape[1:3]
  x, m = core.to_float(inputs), core.to_float(matrix)[..., None, None]
  center = [(size - 1) / 2 for size in sizes]
  row = jnp.arange(sizes[0])[:, None] - center[0]
  column = jnp.arange(sizes[1]) - center[1]
  low, part = [], []
  for i, size in enumerate(sizes):
    # Not a matmul: accelerators would round the places to bfloat16.
    at = m[:, i, 0] * row + m[:, i, 1] * column + m[:, i, 2] + center[i]
    at = jnp.clip(at, 0, size - 1) if edge else jnp.clip(at, -1, size)
    low.append(jnp.floor(at).astype(jnp.int32))
    part.append((at - jnp.floor(at))[..., None])

  def pixel(i, j):
    inside = (i >= 0) & (i < sizes[0]) & (j >= 0) & (j < sizes[1])
    value = jax.vmap(lambda image, i, j: image[i, j])(
        x, jnp.clip(i, 0, sizes[0] - 1), jnp.clip(j, 0, sizes[1] - 1))
    return value if edge else jnp.where(
        inside[..., None], value, jnp.asarray(fill, x.dtype))

  (i, j), (a, b) = low, part
  out = ((1 - a) * ((1 - b) * pixel(i, j) + b * pixel(i, j + 1))
         + a * ((1 - b) * pixel(i + 1, j) + b * pixel(i + 1, j + 1)))
  return out.astype(inputs.dtype)


def _matrix(u, sizes) -> jax.Array:
  """Inverse `[B, 2, 3]` of the map of the content; each of `u` is `[B]`."""
  down, right, angle, log_size, shear = u
  cos, sin, shrink = jnp.cos(angle), jnp.sin(angle), jnp.exp(-log_size)
  (a, b), (c, d) = [[shrink * cos, shrink * sin],
                    [-shrink * (sin + shear * cos),
                     shrink * (cos - shear * sin)]]
  y, x = down * sizes[0], right * sizes[1]
  return jnp.stack([jnp.stack([a, b, -a * y - b * x], -1),
                    jnp.stack([c, d, -c * y - d * x], -1)], 1)


def _check(fn: str, shape, fill: Fill):
  """`fill` in hashable form; ValueError if it does not fit the shape."""
  if len(shape) != 4:
    raise ValueError(f'{fn}: inputs must be [B, H, W, C], got {tuple(shape)}.')
  if isinstance(fill, str):
    if fill != 'edge':
      raise core.UserError(
          f"{fn}: fill must be 'edge' or numbers, got {fill!r}.")
    return fill
  if isinstance(fill, (int, float)):
    return float(fill)
  if len(fill) != shape[3]:
    raise core.UserError(f'{fn}: fill must have a value for each channel of '
                         f'inputs {tuple(shape)}, got {fill}.')
  return tuple(map(float, fill))
