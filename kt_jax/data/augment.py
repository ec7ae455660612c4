"""Augmentations of uint8 batches: name = function = key of `augment`.

Each function takes settings and returns an `Augmentation`: `draw` makes the
random numbers of a whole global batch, `apply` uses those of the rows that this
process holds. So the numbers depend on the seed and the step only, and any
number of processes computes the same images. Several are applied in the order
of `ORDER`: geometry, then color, then occlusion and noise.

Axes: b examples, h rows, w columns, c channels.
"""
from collections.abc import Callable, Mapping
import inspect
import math
import numbers
from typing import Any, NamedTuple
import zlib

from grain import transforms
import numpy as np
from PIL import Image

from kt_jax.core import nearest
from kt_jax.core import UserError

ORDER = ('random_resized_crop', 'rotate', 'crop', 'shift', 'flip',
         'color_jitter', 'grayscale', 'cutout', 'noise')

LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601
# RGB to luma and two axes of color; a hue is an angle in their plane.
YIQ = np.array([[0.299, 0.587, 0.114],
                [0.5959, -0.2746, -0.3213],
                [0.2115, -0.5227, 0.3112]], np.float32)


class Augmentation(NamedTuple):
  """Random numbers and their application to images.

  Attributes:
    draw: `(rng, b, (h, w, c))` -> arrays with a leading axis b.
    apply: `(images, *arrays)` -> uint8 images of the same shape, not in place.
  """
  draw: Callable[..., tuple]
  apply: Callable[..., np.ndarray]


def random_resized_crop(*, scale=(0.08, 1.0),
                        ratio=(3 / 4, 4 / 3)) -> Augmentation:
  """A box of random area and shape, resized to the full size (bilinear).

  Szegedy et al. (2015). The box has `scale` of the area, uniform, and a ratio
  of width to height from `ratio`, uniform in the logarithm; of ten draws the
  first that fits, else the central square of the shorter side.
  """
  _check('random_resized_crop', 'scale', scale, 0, 1, pair=True)
  _check('random_resized_crop', 'ratio', ratio, 0.01, 100, pair=True)

  def draw(rng, b, shape):
    h, w, _ = shape
    area = h * w * _uniform(rng, (b, 10), *scale)
    shape = np.exp(_uniform(rng, (b, 10), *np.log(ratio)))
    bw, bh = np.sqrt(area * shape).round(), np.sqrt(area / shape).round()
    fits = (bw >= 1) & (bw <= w) & (bh >= 1) & (bh <= h)
    first, rows = fits.argmax(1), np.arange(b)
    any_fits = fits.any(1)
    bw = np.where(any_fits, bw[rows, first], min(h, w))
    bh = np.where(any_fits, bh[rows, first], min(h, w))
    free = np.stack([w - bw, h - bh], 1)
    at = np.where(any_fits[:, None],
                  np.floor(rng.random((b, 2)) * (free + 1)), free // 2)
    boxes = np.concatenate([at, at + np.stack([bw, bh], 1)], 1)
    return boxes.astype(int),

  def apply(images, boxes):
    size = images.shape[2], images.shape[1]
    # Cropped first: `resize(box=...)` would blend in what is beside the box.
    return _with_pillow(images, lambda i, image: image.crop(
        boxes[i].tolist()).resize(size, Image.Resampling.BILINEAR))

  return Augmentation(draw, apply)


def rotate(*, degrees: float = 10.0) -> Augmentation:
  """Rotates by an angle within +- `degrees` about the center; zeros outside."""
  _check('rotate', 'degrees', degrees, 0, 180)

  def draw(rng, b, shape):
    del shape
    return _uniform(rng, b, -degrees, degrees),

  def apply(images, angles):
    return _with_pillow(images, lambda i, image: image.rotate(
        angles[i], Image.Resampling.BILINEAR))

  return Augmentation(draw, apply)


def crop(*, padding: int = 4) -> Augmentation:
  """A window of the image's own size after zero padding on each side."""
  _check('crop', 'padding', padding, 0, 1024, integer=True)

  def draw(rng, b, shape):
    del shape
    return np.floor(rng.random((b, 2)) * (2 * padding + 1)).astype(int),

  def apply(images, corners):
    b, h, w, c = images.shape
    padded = np.zeros((b, h + 2 * padding, w + 2 * padding, c), np.uint8)
    padded[:, padding:padding + h, padding:padding + w] = images
    out = np.empty(images.shape, np.uint8)
    for i, (y, x) in enumerate(corners.tolist()):
      out[i] = padded[i, y:y + h, x:x + w]
    return out

  return Augmentation(draw, apply)


def shift(*, pixels: int = 1) -> Augmentation:
  """Moves by up to `pixels` in each direction: `crop(padding=pixels)`."""
  _check('shift', 'pixels', pixels, 0, 1024, integer=True)
  return crop(padding=pixels)


def flip(*, p: float = 0.5) -> Augmentation:
  """Mirrors left and right with probability `p`."""
  _check('flip', 'p', p, 0, 1)

  def draw(rng, b, shape):
    del shape
    return rng.random(b) < p,

  def apply(images, chosen):
    images = images.copy()
    images[chosen] = images[chosen, :, ::-1]
    return images

  return Augmentation(draw, apply)


def color_jitter(*, brightness: float = 0.4, contrast: float = 0.4,
                 saturation: float = 0.4, hue: float = 0.1,
                 p: float = 0.8) -> Augmentation:
  """Random brightness, contrast, saturation and hue.

  Chen et al. (2020). The first three are factors from `1 - x` to `1 + x`, not
  below zero; the hue is rotated by up to `hue` of a full circle.

  Departures: usually the order is random, each step is clipped, and hues rotate
  in HSV. Here the order is fixed and hues rotate in YIQ, so that all four are
  one affine map of a pixel, clipped once. Gray images have brightness and
  contrast only.
  """
  for name, value in [('brightness', brightness), ('contrast', contrast),
                      ('saturation', saturation)]:
    _check('color_jitter', name, value, 0, 10)
  _check('color_jitter', 'hue', hue, 0, 0.5)
  _check('color_jitter', 'p', p, 0, 1)

  def draw(rng, b, shape):
    del shape
    factors = [_uniform(rng, b, max(0, 1 - x), 1 + x)
               for x in (brightness, contrast, saturation)]
    return *factors, _uniform(rng, b, -hue, hue), rng.random(b) < p

  def apply(images, bright, contrast, saturation, hue, chosen):
    out, x = images.copy(), images[chosen].astype(np.float32)
    b, h, w, c = x.shape
    _rgb_or_gray('color_jitter', c)
    bright, contrast, saturation, hue = (
        v[chosen].astype(np.float32)[:, None, None]
        for v in (bright, contrast, saturation, hue))
    x = x.reshape(b, h * w, c)
    luma = LUMA if c == 3 else np.ones(1, np.float32)
    # Contrast preserves the mean luma.
    center = bright * (x.mean(1, keepdims=True) @ luma[:, None])
    linear = bright * contrast
    if c == 3:
      # Saturation and hue preserve gray, and so the center.
      gray = np.broadcast_to(luma, (3, 3))
      mix = saturation * np.eye(3, dtype=np.float32) + (1 - saturation) * gray
      linear = linear * (_turn(hue) @ mix)
      x = x @ linear.transpose(0, 2, 1)
    else:
      x = x * linear
    out[chosen] = _to_uint8(x + (1 - contrast) * center).reshape(b, h, w, c)
    return out

  return Augmentation(draw, apply)


def grayscale(*, p: float = 0.2) -> Augmentation:
  """Replaces the channels by the luma with probability `p`."""
  _check('grayscale', 'p', p, 0, 1)

  def draw(rng, b, shape):
    del shape
    return rng.random(b) < p,

  def apply(images, chosen):
    _rgb_or_gray('grayscale', images.shape[3])
    out = images.copy()
    if images.shape[3] == 3:
      out[chosen] = _to_uint8(images[chosen] @ LUMA)[..., None]
    return out

  return Augmentation(draw, apply)


def cutout(*, size: int = 16, fill: int = 0) -> Augmentation:
  """Fills a square with a uniform center, cut at the border.

  DeVries and Taylor (2017). `fill` is a pixel value; the paper's zero is after
  normalization, thus the mean pixel.
  """
  _check('cutout', 'size', size, 1, 4096, integer=True)
  _check('cutout', 'fill', fill, 0, 255, integer=True)

  def draw(rng, b, shape):
    at = np.floor(rng.random((b, 2)) * shape[:2]).astype(int) - size // 2
    return at,

  def apply(images, corners):
    out = images.copy()
    for i, (y, x) in enumerate(corners.tolist()):
      out[i, max(y, 0):max(y + size, 0), max(x, 0):max(x + size, 0)] = fill
    return out

  return Augmentation(draw, apply)


def noise(*, std: float = 0.1) -> Augmentation:
  """Adds Gaussian noise to each value; `std` on a scale of 0 to 1."""
  _check('noise', 'std', std, 0, 10)

  def draw(rng, b, shape):
    return rng.standard_normal((b, *shape), np.float32),

  def apply(images, normal):
    return _to_uint8(images + np.float32(255 * std) * normal)

  return Augmentation(draw, apply)


class Transform(transforms.RandomMap):
  """An augmentation as Grain applies it to the rows of a global batch."""

  def __init__(self, augmentation: Augmentation, batch_size: int, rows: slice):
    self._augmentation = augmentation
    self._batch_size, self._rows = batch_size, rows

  def random_map(self, element, rng: np.random.Generator) -> Any:
    images = element['images']
    arrays = self._augmentation.draw(
        rng, self._batch_size, images.shape[1:])
    arrays = [x[self._rows] for x in arrays]
    return {**element, 'images': self._augmentation.apply(images, *arrays)}


def by_example(chosen: list[tuple[str, Augmentation]], seed: int,
               images: np.ndarray, ids: np.ndarray,
               view: np.ndarray) -> np.ndarray:
  """Augments each image by numbers that depend on (seed, id, view) only.

  Args:
    chosen: from `parse_augment`.
    seed: of the run.
    images: uint8 `[b, h, w, c]`.
    ids: `[b]` integers >= 0.
    view: `[b]`, number of the view of each.

  Returns:
    Images of the same shape, row for row the same bits in any batch.
  """
  for name, (draw, apply) in chosen:
    key, shape = seed_of(name, seed), images.shape[1:]
    # Philox counts: from (0, 0, id, view) on, each row has 2^128 numbers.
    per_row = [draw(np.random.Generator(np.random.Philox(
        key=key, counter=(v << 192) + (i << 128))), 1, shape)
               for i, v in zip(ids.tolist(), view.tolist())]
    images = apply(images, *map(np.concatenate, zip(*per_row)))
  return images


def parse_augment(augment) -> list[tuple[str, Augmentation]]:
  """Augmentations by name, in the order of `ORDER`.

  Args:
    augment: name -> settings (None or False: not at all), or names only.

  Raises:
    UserError: an unknown name or setting, with the nearest one.
  """
  if isinstance(augment, str) or not hasattr(augment, '__iter__'):
    raise UserError('augment must map names to settings, such as '
                    f'{{"flip": {{}}}}, got {augment!r}.')
  if not hasattr(augment, 'items'):
    augment = {name: {} for name in augment}
  chosen: dict[str, Augmentation] = {}
  for name, settings in augment.items():
    if name not in ORDER:
      raise UserError(nearest('augmentation', name, ORDER))
    if settings is None or settings is False:
      continue
    if settings is True:
      settings = {}
    if not isinstance(settings, Mapping) and not hasattr(settings, 'items'):
      raise UserError(f'augment.{name} must map settings to values, got '
                      f'{settings!r}.')
    make: Callable[..., Any] = globals()[name]
    allowed = inspect.signature(make).parameters
    for setting in settings.keys():
      if setting not in allowed:
        raise UserError(nearest(f'setting of augment.{name}', setting, allowed))
    chosen[name] = make(**dict(settings.items()))
  return [(name, chosen[name]) for name in ORDER if name in chosen]


def seed_of(name: str, seed: int) -> int:
  """A seed per augmentation: adding one does not change another."""
  entropy = np.random.SeedSequence([seed, zlib.crc32(name.encode())])
  return int(entropy.generate_state(1, np.uint64)[0])


def _uniform(rng, shape, low, high):
  return low + (high - low) * rng.random(shape)


def _to_uint8(x: np.ndarray) -> np.ndarray:
  return np.clip(np.rint(x), 0, 255).astype(np.uint8)


def _turn(hue: np.ndarray) -> np.ndarray:
  """`[b, 3, 3]`: rotates RGB by `hue` `[b, 1, 1]` of a circle about gray."""
  turn = np.zeros((len(hue), 3, 3), np.float32)
  cos, sin = np.cos(2 * np.pi * hue), np.sin(2 * np.pi * hue)
  turn[:, 0, 0] = 1
  turn[:, 1, 1] = turn[:, 2, 2] = cos[:, 0, 0]
  turn[:, 1, 2], turn[:, 2, 1] = -sin[:, 0, 0], sin[:, 0, 0]
  return np.linalg.inv(YIQ) @ turn @ YIQ


def _with_pillow(images: np.ndarray, fn) -> np.ndarray:
  """`fn(i, image)` on each image; by channel unless gray or RGB."""
  out = np.empty(images.shape, np.uint8)
  for i, image in enumerate(images):
    if image.shape[2] == 3:
      out[i] = np.asarray(fn(i, Image.fromarray(image)))
      continue
    for c in range(image.shape[2]):
      plane = np.ascontiguousarray(image[:, :, c])
      out[i, :, :, c] = np.asarray(fn(i, Image.fromarray(plane)))
  return out


def _rgb_or_gray(name: str, channels: int) -> None:
  if channels not in (1, 3):
    raise UserError(f'augment.{name} needs gray or RGB images, got '
                    f'{channels} channels.')


def _check(name: str, setting: str, value, low, high, *, integer: bool = False,
           pair: bool = False) -> None:
  """Checks that a setting is one number (or two, ascending) in range."""
  kind = numbers.Integral if integer else numbers.Real
  values = list(value) if isinstance(value, (tuple, list)) else [value]
  if (len(values) != 1 + pair or isinstance(value, (tuple, list)) != pair
      or not all(isinstance(x, kind) and not isinstance(x, bool)
                 and math.isfinite(x) and low <= x <= high for x in values)
      or values != sorted(values) or (pair and values[1] <= 0)):
    allowed = ('two ascending numbers' if pair else
               'an integer' if integer else 'a number')
    raise UserError(f'augment.{name}.{setting} must be {allowed} from {low} '
                    f'to {high}, got {value!r}.')
