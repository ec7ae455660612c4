"""Yes/no questions about an image that need no label: tall? with a loop?

For a light figure on a dark ground, such as a digit. Every answer is a
probability: the sigmoid of a measure less its threshold.

Axes: N images, H rows, W columns, C channels, Q questions, T thresholds.
"""
from collections.abc import Callable

import numpy as np

from kt_jax.core import UserError
from kt_jax.data.arrays import permutation

LEVELS = np.linspace(0.25, 0.75, 5)  # T thresholds of what counts as ink
CHUNK = 4096  # images
SURE = 1e-3  # answers are clipped to [SURE, 1 - SURE]


def image_aspects(images: np.ndarray) -> np.ndarray:
  """Answers to the questions of `ASPECTS`.

  Args:
    images: uint8 `[N, H, W, C]`, light on dark.

  Returns:
    float32 `[N, Q]`, probabilities of yes, strictly between 0 and 1. A blank
    image gives one half wherever the question has no meaning.
  """
  images = np.asarray(images)
  if images.ndim != 4 or images.dtype != np.uint8:
    raise UserError('image_aspects: images must be uint8 [N, H, W, C], got '
                    f'{images.dtype} {images.shape}.')
  out = np.empty((len(images), len(ASPECTS)), np.float32)
  for first in range(0, len(images), CHUNK):
    rows = slice(first, first + CHUNK)
    ink = images[rows].mean(axis=3, dtype=np.float64) / 255
    margins = np.stack([ask(ink) for ask in QUESTIONS.values()], axis=1)
    out[rows] = 1 / (1 + np.exp(-np.clip(margins, -30, 30)))
  return np.clip(out, SURE, 1 - SURE)


def _heavy(ink: np.ndarray, axis: int) -> np.ndarray:
  """Ink in the first half less that in the second, over all of it."""
  n = ink.shape[axis]
  first, second = np.split(np.moveaxis(ink, axis, 1), [(n + 1) // 2], axis=1)
  return 8 * _over(first[:, :n // 2].sum((1, 2)) - second.sum((1, 2)),
                   ink.sum((1, 2)))


def _symmetric(ink: np.ndarray, axis: int) -> np.ndarray:
  """Overlap of the image with its mirror image, against 0.6."""
  total = ink.sum((1, 2))
  both = np.minimum(ink, np.flip(ink, axis)).sum((1, 2))
  return 12 * np.where(total > 0, _over(both, total) - 0.6, 0)


def _parts(ink: np.ndarray, at_least: int, holes: bool) -> np.ndarray:
  """Share of thresholds with `at_least` parts, against one half."""
  from scipy import ndimage  # slow to import
  # Neighbors are in the same image; ink meets at corners, its ground does not.
  near = np.zeros((3, 3, 3), bool)
  near[1] = ndimage.generate_binary_structure(2, 1 if holes else 2)
  share = np.zeros(len(ink))
  for level in LEVELS:
    if holes:
      mask = np.pad(ink < level, [(0, 0), (1, 1), (1, 1)],
                    constant_values=True)
    else:
      mask = ink >= level
    labels, _ = ndimage.label(mask, near)
    # Labels go up from image to image.
    last = np.maximum.accumulate(labels.max((1, 2)))
    count = np.diff(last, prepend=0) - holes  # less the outside
    share += (count >= at_least) / len(LEVELS)
  return 8 * (share - 0.5)


def _moments(ink: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Variance down, variance across and covariance of the place of the ink."""
  _, h, w = ink.shape
  y, x = np.arange(h)[:, None], np.arange(w)
  mean = lambda v: _over((ink * v).sum((1, 2)), ink.sum((1, 2)))[:, None, None]
  down, across = y - mean(y), x - mean(x)
  moment = lambda v: mean(v)[:, 0, 0]
  return moment(down**2), moment(across**2), moment(down * across)


def _tall(ink: np.ndarray) -> np.ndarray:
  """Height over width, in the logarithm, against 1.3."""
  down, across, _ = _moments(ink)
  known = down + across > 0
  ratio = 0.5 * (np.log(down + 0.1) - np.log(across + 0.1))
  return np.where(known, 6 * (ratio - np.log(1.3)), 0)


def _leans_right(ink: np.ndarray) -> np.ndarray:
  """Correlation of up and right."""
  down, across, both = _moments(ink)
  return -8 * _over(both, np.sqrt(down * across))


def _bold(ink: np.ndarray) -> np.ndarray:
  """Ink over the area of a rectangle with its moments, against 0.5."""
  down, across, _ = _moments(ink)
  area = 12 * np.sqrt((down + 1 / 12) * (across + 1 / 12))
  total = ink.sum((1, 2))
  return np.where(total > 0, 10 * (total / area - 0.5), 0)


def _center(ink: np.ndarray) -> np.ndarray:
  """Mean ink in the middle third of both axes, against that of all."""
  _, h, w = ink.shape
  third = ink[:, h // 3:h - h // 3, w // 3:w - w // 3].mean((1, 2))
  return 3 * np.where(third + ink.mean((1, 2)) > 0, _over(
      third, ink.mean((1, 2))) - 1.8, 0)


def _flat_strokes(ink: np.ndarray) -> np.ndarray:
  """Change down over change across, in the logarithm."""
  energy = lambda axis: (np.diff(ink, axis=axis)**2).sum((1, 2)) + 1e-3
  return 4 * (np.log(energy(1)) - np.log(energy(2)))


def _over(a: np.ndarray, b: np.ndarray) -> np.ndarray:
  """a / b, 0 where b is."""
  return np.divide(a, b, out=np.zeros_like(a), where=b > 0)


# ink [N, H, W] in [0, 1] -> margins [N], positive for yes.
QUESTIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    'heavy_top': lambda ink: _heavy(ink, 1),
    'heavy_left': lambda ink: _heavy(ink, 2),
    'symmetric_left_right': lambda ink: _symmetric(ink, 2),
    'symmetric_up_down': lambda ink: _symmetric(ink, 1),
    'has_loop': lambda ink: _parts(ink, 1, True),
    'has_two_loops': lambda ink: _parts(ink, 2, True),
    'in_pieces': lambda ink: _parts(ink, 2, False),
    'tall': _tall,
    'leans_right': _leans_right,
    'bold': _bold,
    'ink_in_center': _center,
    'flat_strokes': _flat_strokes,
}
ASPECTS = tuple(QUESTIONS)


def class_aspects(images: np.ndarray, labels: np.ndarray) -> np.ndarray:
  """`image_aspects`, each the mean over its class: attributes of classes."""
  answers, labels = image_aspects(images), np.asarray(labels)
  means = {k: answers[labels == k].mean(0) for k in np.unique(labels)}
  return np.stack([means[k] for k in labels])


def shuffled_aspects(images: np.ndarray, labels: np.ndarray) -> np.ndarray:
  """`image_aspects`, each image with those of another one of its class."""
  answers, labels = image_aspects(images), np.asarray(labels)
  for k in np.unique(labels):
    where = np.flatnonzero(labels == k)
    answers[where] = answers[where[permutation(len(where), int(k))]]
  return answers
