"""Types: decoded examples, descriptions of data sets, and sources.

Axes: N examples, H rows, W columns, C channels; images are uint8.
"""
from collections.abc import Callable, Mapping
import dataclasses
from typing import Any, NamedTuple
import zlib

import numpy as np

from kt_jax.core import UserError

# A part of a split: (split, first, one past the last).
Piece = tuple[str, int, int]

# A selection up to this size is copied into memory; a larger one stays a view
# of the file on disk, so that ImageNet needs no more memory than digits.
IN_MEMORY = 1 << 30


class Rows:
  """Selected images, gathered when they are indexed.

  Args:
    base: `[N, H, W, C]`.
    index: positions of the selected images.
    pad: number of zeros on every side of each image.
  """

  def __init__(self, base: np.ndarray, index: np.ndarray, pad: int = 0):
    self._base, self._index, self._pad = base, index, pad
    _, h, w, c = base.shape
    self.shape = (len(index), h + 2 * pad, w + 2 * pad, c)
    self.dtype, self.ndim = base.dtype, base.ndim

  def __len__(self) -> int:
    return len(self._index)

  def __getitem__(self, rows):
    images = self._base[self._index[rows]]
    if not self._pad:
      return images
    sides = [(0, 0)] * (images.ndim - 3) + [(self._pad, self._pad)] * 2
    return np.pad(images, [*sides, (0, 0)])

  def __array__(self, dtype=None, copy=None) -> np.ndarray:
    return np.asarray(self[:], dtype)

  def take(self, index: np.ndarray) -> 'Rows':
    return Rows(self._base, self._index[index], self._pad)


@dataclasses.dataclass(frozen=True)
class Arrays:
  """Decoded examples of one split.

  Attributes:
    images: uint8 `[N, H, W, C]`; an array, a memory map or `Rows`.
    labels: int32 `[N]`.
    ids: int64 `[N]`, position in the original split, the key of a cache of
      teacher outputs. Where a split is a sum ('a+b'), the positions in `b`
      follow those in `a`.
  """
  images: Any
  labels: np.ndarray
  ids: np.ndarray

  def __post_init__(self):
    if len(self.images.shape) != 4 or self.images.dtype != np.uint8:
      raise UserError(
          'images must be uint8 [N, H, W, C], got '
          f'{self.images.dtype} {tuple(self.images.shape)}.')
    for name in ('labels', 'ids'):
      shape = np.shape(getattr(self, name))
      if shape != (len(self.images),):
        raise UserError(f'{name} must be [{len(self.images)}], one for each '
                        f'image, got {shape}.')

  def __len__(self) -> int:
    return len(self.labels)

  def take(self, index: np.ndarray) -> 'Arrays':
    """The examples at `index`, in that order."""
    images, index = self.images, np.asarray(index, np.int64)
    if isinstance(images, Rows):
      images = images.take(index)
    else:
      images = Rows(images, index)
    if len(index) * int(np.prod(images.shape[1:])) <= IN_MEMORY:
      images = np.asarray(images)
    return Arrays(images, self.labels[index], self.ids[index])

  def batch(self, index: np.ndarray) -> dict[str, np.ndarray]:
    """The arrays of the examples at `index`."""
    return {'images': np.asarray(self.images[index]),
            'labels': np.asarray(self.labels[index], np.int32),
            'ids': np.asarray(self.ids[index], np.int64)}

  def pad(self, pixels: int) -> 'Arrays':
    """The same examples, with `pixels` zeros on each side of the images."""
    padded = Arrays(Rows(self.images, np.arange(len(self)), pixels),
                    self.labels, self.ids)
    return padded.take(np.arange(len(self)))


@dataclasses.dataclass(frozen=True)
class Info:
  """Description of a data set; all but the last field from headers.

  Attributes:
    name: of the data set.
    classes: number of classes; of text, the size of the vocabulary.
    input_shape: `(H, W, C)`; of text, `(S,)`.
    mean: per channel, images on a scale of 0 to 1; of text, empty.
    std: per channel, same scale; of text, empty.
    class_names: one for each class; of text, empty.
    sizes: examples in train, validation, test.
    fingerprint: hex digest of the examples in use and of their split; empty
      where nothing was decoded.
  """
  name: str
  classes: int
  input_shape: tuple[int, ...]
  mean: tuple[float, ...]
  std: tuple[float, ...]
  class_names: tuple[str, ...]
  sizes: Mapping[str, int]
  fingerprint: str = ''


class Splits(NamedTuple):
  """The splits of a data set, from `load` or `load_text`.

  Each is an `Arrays` or a `TextArrays`, without examples where the config has
  no such split.
  """
  train: Any
  validation: Any
  test: Any
  info: Info


class Decoded(NamedTuple):
  """Output of a source: `images` `[N, H, W, C]`, `labels` and `crcs` `[N]`."""
  images: np.ndarray
  labels: np.ndarray
  crcs: np.ndarray  # crc32 of each image: a fingerprint without a second read


@dataclasses.dataclass(frozen=True)
class Source:
  """A data set that is not decoded yet: its headers and a reader.

  Attributes:
    name: of the data set.
    class_names: one for each class.
    image_shape: `(H, W, C)`; None where images differ in size.
    splits: split -> number of examples.
    read: `(pieces, size)` -> `Decoded`, the pieces one after another.
    mean: per channel on a scale of 0 to 1; empty if not known.
    std: the same.
  """
  name: str
  class_names: tuple[str, ...]
  image_shape: tuple[Any, ...]
  splits: Mapping[str, int]
  read: Callable[[list[Piece], int], Decoded]
  mean: tuple[float, ...] = ()
  std: tuple[float, ...] = ()


def crc_of_each(images: np.ndarray) -> np.ndarray:
  """crc32 `[N]` uint32 of the bytes of each image."""
  images = np.ascontiguousarray(images)
  return np.fromiter(map(zlib.crc32, images), np.uint32, len(images))


def quota(counts: np.ndarray, total: int) -> np.ndarray:
  """Shares `[K]` of `total` in proportion to `counts`, exact to one example.

  The method of the largest remainder, in integers; ties go to lower classes.
  """
  counts = np.asarray(counts, np.int64)
  share, rest = np.divmod(counts * total, max(counts.sum(), 1))
  first = np.argsort(-rest, kind='stable')[:total - share.sum()]
  share[first] += 1
  return share


def stratified(labels: np.ndarray, total: int,
               seed: int | None) -> np.ndarray:
  """Positions of `total` examples that keep the proportion of the classes.

  Args:
    labels: `[N]`, class of each example.
    total: number of examples.
    seed: of the selection within a class; None selects the first ones.

  Returns:
    Ascending positions `[total]`. The order of selection within a class does
    not depend on `total`, nor on the other classes.
  """
  names, counts = np.unique(labels, return_counts=True)
  taken = []
  for name, count in zip(names, quota(counts, total)):
    where = np.flatnonzero(labels == name)
    if seed is not None:
      where = where[permutation(len(where), seed, int(name))]
    taken.append(where[:count])
  return np.sort(np.concatenate(taken)) if taken else np.zeros(0, np.int64)


def permutation(n: int, *entropy: int) -> np.ndarray:
  """A permutation of `range(n)`, the same in every version of NumPy.

  NumPy guarantees the raw stream of a bit generator, but not
  `Generator.permutation`; so this sorts raw 64-bit keys.
  """
  bits = np.random.Philox(np.random.SeedSequence(entropy))
  return np.argsort(bits.random_raw(n), kind='stable')
