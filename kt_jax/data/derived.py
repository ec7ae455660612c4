"""Sources made of another: fewer classes, turned images; in memory once read.
"""
import math
import numbers
import re

import numpy as np
from PIL import Image

from kt_jax.core import UserError
from kt_jax.data.arrays import crc_of_each
from kt_jax.data.arrays import Decoded
from kt_jax.data.arrays import Source


def of_classes(source: Source, classes, config) -> Source:
  """The examples with these labels; labels and class names stay.

  Which examples those are only labels tell, so the splits of `config` are
  decoded at once.
  """
  known = len(source.class_names)
  whole = all(isinstance(k, numbers.Integral) and 0 <= k < known
              for k in classes)
  if not whole or len(set(classes)) < len(classes):
    raise UserError(f'data.classes must be labels from 0 to {known - 1}, each '
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
  """Images turned counterclockwise about the centre; bilinear, zeros outside.
  """
  real = isinstance(degrees, numbers.Real) and not isinstance(degrees, bool)
  if not real or not math.isfinite(degrees):
    raise UserError(f'data.rotation must be a number of degrees, got '
                    f'{degrees!r}.')

  def read(pieces, size):
    images, labels, _ = source.read(pieces, size)
    turned = np.empty_like(images)
    for i, image in enumerate(images):
      gray = image.shape[-1] == 1
      turned[i] = np.asarray(Image.fromarray(
          image[..., 0] if gray else image).rotate(
              degrees, Image.Resampling.BILINEAR)).reshape(image.shape)
    return Decoded(turned, labels, crc_of_each(turned))
  return Source(source.name, source.class_names, source.image_shape,
                source.splits, read, source.mean, source.std)
