"""Operations of a step on the global batch: normalize, mixup, cutmix.

Pure functions of arrays and a key, to be called inside the jitted step: the
batch may be sharded, and the numbers do not depend on the devices.

Axes: b examples, h rows, w columns, c channels, k classes.
"""
import math
import numbers

import jax
from jax import numpy as jnp

from kt_jax.core import to_float
from kt_jax.core import UserError


def normalize(images: jax.Array, mean, std) -> jax.Array:
  """`(images / 255 - mean) / std` in float32.

  Args:
    images: `[..., c]` uint8.
    mean: `[c]`, on a scale of 0 to 1, as in `data.Info`.
    std: `[c]`, the same.
  """
  mean, std = jnp.asarray(mean, jnp.float32), jnp.asarray(std, jnp.float32)
  return (images.astype(jnp.float32) / 255 - mean) / std


def mixup(key: jax.Array, images: jax.Array, labels_onehot: jax.Array,
          alpha: float) -> tuple[jax.Array, jax.Array]:
  """`lam x + (1 - lam) x[partner]`, for images and for labels.

  One lam for the batch from Beta(alpha, alpha); the partners are a random
  permutation of the batch. Zhang et al. (2018).

  Args:
    key: of the step.
    images: `[b, h, w, c]`.
    labels_onehot: `[b, k]`, rows that sum to one.
    alpha: a Python number; 0 leaves the batch as it is.

  Returns:
    Images and labels in at least float32.
  """
  images, labels = to_float(images), to_float(labels_onehot)
  if not _check('mixup', images, labels, alpha):
    return images, labels
  lam, partner = _draw(key, labels, alpha)
  return (lam * images + (1 - lam) * images[partner],
          lam * labels + (1 - lam) * labels[partner])


def cutmix(key: jax.Array, images: jax.Array, labels_onehot: jax.Array,
           alpha: float) -> tuple[jax.Array, jax.Array]:
  """Pastes one box from each partner, and mixes labels by its area.

  One lam for the batch from Beta(alpha, alpha); the box has sides
  `sqrt(1 - lam)` of the image's, its center is uniform, and it is cut at the
  border. Labels are mixed by the share of replaced pixels. Yun et al. (2019),
  Algorithm A1.

  Args:
    key: of the step.
    images: `[b, h, w, c]`, of any dtype.
    labels_onehot: `[b, k]`, rows that sum to one.
    alpha: a Python number; 0 leaves the batch as it is.

  Returns:
    Images of their dtype, and labels in at least float32.
  """
  labels = to_float(labels_onehot)
  if not _check('cutmix', images, labels, alpha):
    return images, labels
  _, h, w, _ = images.shape
  key, at = jax.random.split(key)
  lam, partner = _draw(key, labels, alpha)
  u = jax.random.uniform(at, (2,))
  rows, columns = (_inside(n, u[i], jnp.sqrt(1 - lam))
                   for i, n in enumerate((h, w)))
  box = rows[:, None] & columns
  lam = 1 - jnp.mean(box, dtype=labels.dtype)
  return (jnp.where(box[:, :, None], images[partner], images),
          lam * labels + (1 - lam) * labels[partner])


def _draw(key: jax.Array, labels: jax.Array,
          alpha: float) -> tuple[jax.Array, jax.Array]:
  """lam and the partner of each example."""
  weight, order = jax.random.split(key)
  return (jax.random.beta(weight, alpha, alpha, dtype=labels.dtype),
          jax.random.permutation(order, len(labels)))


def _inside(n: int, center: jax.Array, share: jax.Array) -> jax.Array:
  """`[n]` bool: pixels within `share` of a side around a random pixel."""
  side = jnp.floor(n * share).astype(int)
  first = jnp.floor(n * center).astype(int) - side // 2
  pixel = jnp.arange(n)
  return (pixel >= first) & (pixel < first + side)


def _check(name: str, images, labels, alpha: float) -> bool:
  """Checks the arguments; returns whether there is anything to mix."""
  if images.ndim != 4 or labels.ndim != 2 or len(images) != len(labels):
    raise UserError(f'{name}: images must be [b, h, w, c] and labels_onehot '
                    f'[b, k], got {images.shape} and {labels.shape}.')
  if not isinstance(alpha, numbers.Real) or not (
      math.isfinite(alpha) and float(alpha) >= 0):
    raise UserError(f'{name}: alpha must be a number >= 0, got {alpha!r}.')
  return alpha > 0
