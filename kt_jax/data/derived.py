"""Sources derived from another: fewer classes, rotated or overlaid images."""
import dataclasses
import math
import numbers
import re

import numpy as np
from PIL import Image

from kt_jax.core import UserError
from kt_jax.data import sources
from kt_jax.data.arrays import crc_of_each
from kt_jax.data.arrays import Decoded
from kt_jax.data.arrays import Source


def of_classes(source: Source, classes, config) -> Source:
  """The examples with these labels; labels and class names stay.

  Labels come with the images, so the splits of `config` are decoded at once.
  """
  total = len(source.class_names)
  valid = all(isinstance(k, numbers.Integral) and 0 <= int(k) < total
              for k in classes)
  if not valid or len(set(classes)) < len(classes):
    raise UserError(f'data.classes must be labels from 0 to {total - 1}, each '
                    f'once, got {tuple(classes)}.')
  named = {name for key in ('train', 'test')
           for name in re.findall(r'[\w.-]+(?=\[|\+|\s|$)', config[key])}
  decoded = {name: source.read([(name, 0, count)], config['size'])
             for name, count in source.splits.items() if name in named}
  where = {name: np.flatnonzero(np.isin(x.labels, classes))
           for name, x in decoded.items()}

  def read(pieces, size):
    del size  # as it was decoded
    chosen = [(decoded[name], where[name][a:b]) for name, a, b in pieces]
    return Decoded(*(np.concatenate([x[i][rows] for x, rows in chosen])
                     for i in range(3)))
  return Source(source.name, source.class_names, source.image_shape,
                {name: len(rows) for name, rows in where.items()}, read,
                source.mean, source.std)


def rotated(source: Source, degrees: float) -> Source:
  """Images rotated counterclockwise about the center; bilinear, zeros outside.
  """
  real = isinstance(degrees, numbers.Real) and not isinstance(degrees, bool)
  if not real or not math.isfinite(degrees):
    raise UserError(f'data.rotation must be a number of degrees, got '
                    f'{degrees!r}.')

  def read(pieces, size):
    images, labels, _ = source.read(pieces, size)
    rotated_images = np.empty_like(images)
    for i, image in enumerate(images):
      gray = image.shape[-1] == 1
      rotated_images[i] = np.asarray(Image.fromarray(
          image[..., 0] if gray else image).rotate(
              degrees, Image.Resampling.BILINEAR)).reshape(image.shape)
    return Decoded(rotated_images, labels, crc_of_each(rotated_images))
  return dataclasses.replace(source, read=read)


def overlaid(config) -> Source:
  """MNIST under one pattern of noise: the mean of the digit and the pattern.

  As data.name: 'kt_jax.data:overlaid'.
  """
  source = sources.tfds_images('mnist', config['data_dir'])
  pattern = np.random.default_rng(1).integers(256, size=source.image_shape)

  def read(pieces, size):
    images, labels, _ = source.read(pieces, size)
    mixed = np.round(0.5 * images + 0.5 * pattern).astype(np.uint8)
    return Decoded(mixed, labels, crc_of_each(mixed))
  return dataclasses.replace(source, name='overlaid_mnist', read=read)
