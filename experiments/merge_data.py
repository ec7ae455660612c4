"""Data sets for `merge` that are another one, seen otherwise."""
import dataclasses

import numpy as np

from kt_jax import data
from kt_jax.data import sources
from kt_jax.data.arrays import crc_of_each
from kt_jax.data.arrays import Decoded

SEED, SHARE = 1, 0.5  # of the pattern


def overlaid(config) -> data.Source:
  """MNIST under one pattern of noise: the mean of the digit and the pattern."""
  source = sources.tfds_images('mnist', config['data_dir'])
  pattern = np.random.default_rng(SEED).integers(256, size=source.image_shape)

  def read(pieces, size):
    images, labels, _ = source.read(pieces, size)
    seen = np.round((1 - SHARE) * images + SHARE * pattern).astype(np.uint8)
    return Decoded(seen, labels, crc_of_each(seen))
  return dataclasses.replace(source, name='overlaid_mnist', read=read)
