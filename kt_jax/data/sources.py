"""Data sets by name: digits, prepared sets of TFDS, and the user's arrays.

A source reads headers when it is created, and images when `read` is called.
TFDS is read from array_record files through its data source, without
TensorFlow.
"""
from collections.abc import Mapping
from concurrent import futures
import contextlib
import hashlib
import importlib.util
import io
import json
import os
import re
from typing import Any

import numpy as np
from PIL import Image
import tqdm

from kt_jax.core import nearest
from kt_jax.core import UserError
from kt_jax.data.arrays import crc_of_each
from kt_jax.data.arrays import Decoded
from kt_jax.data.arrays import Piece
from kt_jax.data.arrays import Source
from kt_jax.data.arrays import stratified
from kt_jax.data.cache import cached

# Mean and standard deviation of the training pixels on a scale of 0 to 1, as
# commonly quoted; a table, so that headers are enough to describe a set.
STATISTICS = {
    'digits': ((0.3044,), (0.3755,)),
    'mnist': ((0.1307,), (0.3081,)),
    'fashion_mnist': ((0.2860,), (0.3530,)),
    'cifar10': ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    'cifar100': ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    'svhn_cropped': ((0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970)),
}
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))

MODES = {1: 'L', 3: 'RGB', 4: 'RGBA'}  # channels -> Pillow's name
CHUNK = 256  # examples per job of a decoding thread
DECODER = 1  # part of the cache key: raise it if results of `decode` change

DIGITS_TEST, DIGITS_SEED = 500, 0


def digits() -> Source:
  """Handwritten digits of scikit-learn: 8 x 8, gray, shipped in its wheel.

  1797 images without an official test split: here 500 of them, stratified and
  always the same, are `test` and 1297 are `train`. The gray levels 0..16 are
  scaled to 0..255.
  """
  # The file that load_digits reads; importing scikit-learn takes 0.7 s.
  spec = importlib.util.find_spec('sklearn')
  if spec is None or not spec.submodule_search_locations:
    raise UserError("data.name='digits' needs scikit-learn.")
  package = spec.submodule_search_locations[0]
  table = np.loadtxt(os.path.join(package, 'datasets/data/digits.csv.gz'),
                     delimiter=',')
  images, labels = table[:, :-1], table[:, -1].astype(int)
  images = np.round(images * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8, 1)
  test = np.zeros(len(labels), bool)
  test[stratified(labels, DIGITS_TEST, DIGITS_SEED)] = True
  return from_arrays('digits', {'train': (images[~test], labels[~test]),
                                'test': (images[test], labels[test])},
                     mean=STATISTICS['digits'][0], std=STATISTICS['digits'][1])


def from_arrays(name: str, splits: Mapping[str, tuple],
                class_names: tuple[str, ...] = (), mean=(), std=()) -> Source:
  """A source from arrays, for a user's own `module:function`.

  Args:
    name: of the data set.
    splits: split -> (images uint8 `[N, H, W, C]`, labels `[N]`).
    class_names: default: '0', '1', ... up to the largest label.
    mean: per channel on a scale of 0 to 1; default: `STATISTICS` or one half.
    std: the same.
  """
  if not splits:
    raise UserError(f'{name}: no splits.')
  arrays = {k: (np.asarray(x), np.asarray(y)) for k, (x, y) in splits.items()}
  shapes = {x.shape[1:] for x, _ in arrays.values()}
  for split, (x, y) in arrays.items():
    if x.dtype != np.uint8 or x.ndim != 4 or len(shapes) > 1:
      raise UserError(f'{name}: images of {split!r} must be uint8 [N, H, W, C] '
                      f'of one size, got {x.dtype} {x.shape}.')
    if y.shape != x.shape[:1] or y.dtype.kind not in 'iu':
      raise UserError(f'{name}: labels of {split!r} must be {len(x)} integers, '
                      f'got {y.dtype} {y.shape}.')
  if not class_names:
    top = max((int(y.max()) for _, y in arrays.values() if len(y)), default=0)
    class_names = tuple(map(str, range(top + 1)))

  def read(pieces: list[Piece], size: int) -> Decoded:
    images = np.concatenate([arrays[k][0][a:b] for k, a, b in pieces])
    labels = np.concatenate([arrays[k][1][a:b] for k, a, b in pieces])
    if size and images.shape[1:3] != (size, size):
      mode = _mode(name, images.shape[3])
      small = [_resize(Image.fromarray(x.squeeze(-1) if mode == 'L' else x),
                       size) for x in images]
      images = np.stack([np.asarray(x) for x in small])
      images = images.reshape(len(labels), size, size, -1)
    return Decoded(images, labels.astype(np.int32), crc_of_each(images))

  return Source(name, tuple(class_names), shapes.pop(),
                {k: len(y) for k, (_, y) in arrays.items()}, read,
                tuple(mean), tuple(std))


def tfds_images(name: str, data_dir: str = '') -> Source:
  """An image set that TFDS has prepared as array_record files.

  Args:
    name: as TFDS writes it: 'mnist', 'imagenet2012', 'cifar10:3.0.2'.
    data_dir: default: $TFDS_DATA_DIR, else that of TFDS.

  Raises:
    UserError: there is no such set, it is not prepared, or not of labeled
      images; the message has the remedy.
  """
  builder = _builder(name, data_dir)
  image, label = _image_and_label(name, builder.info.features)
  splits = builder.info.splits
  if not splits:
    raise UserError(
        f'Data set {name!r} is not prepared under {builder.data_dir}. Prepare '
        'it where there is a network: python -c "import tensorflow_datasets as '
        f"tfds; tfds.builder('{name}', file_format='array_record')"
        '.download_and_prepare()", or point data.data_dir or TFDS_DATA_DIR at '
        'the folder that has it.')
  height, width, channels = image.shape
  channels = channels or 3
  _mode(name, channels)
  mean, std = STATISTICS.get(builder.name) or (
      IMAGENET if channels == 3 else ((), ()))

  def read(pieces: list[Piece], size: int) -> Decoded:
    h, w = (size, size) if size else (height, width)
    total = sum(stop - start for _, start, stop in pieces)
    files = [(str(f), f.stat().length, f.stat().mtime)
             for split in sorted({piece[0] for piece in pieces})
             for f in splits[split].filepaths]
    content = json.dumps([DECODER, builder.info.full_name, pieces, size, files])
    digest = hashlib.blake2b(content.encode(), digest_size=8).hexdigest()
    plain = re.sub(r'[^\w.]+', '-', builder.info.full_name)
    return cached(f'{plain}-{pieces[0][0]}-{size}-{digest}',
                  (total, h, w, channels),
                  lambda to: _decode_into(builder, pieces, size, to))

  return Source(name, tuple(label.names or map(str, range(label.num_classes))),
                (height, width, channels),
                {k: v.num_examples for k, v in splits.items()}, read, mean, std)


def tfds_text(name: str, data_dir: str = '') -> dict[str, str] | None:
  """Split -> the text of its examples; None if the set is not prepared."""
  builder = _builder(name, data_dir)
  if not builder.info.splits:
    return None
  with _quiet():
    return {split: ''.join(x['text'].decode()
                           for x in builder.as_data_source(split))
            for split in builder.info.splits}


def _builder(name: str, data_dir: str) -> Any:
  import tensorflow_datasets as tfds  # slow to import
  try:
    # Sets that need TensorFlow print a banner.
    with _quiet(), contextlib.redirect_stdout(io.StringIO()):
      # TFDS itself reads the variable only when it is imported.
      return tfds.builder(
          name, data_dir=data_dir or os.environ.get('TFDS_DATA_DIR') or None)
  except tfds.core.DatasetNotFoundError as e:
    names = ['digits', *tfds.list_builders(with_community_datasets=False)]
    raise UserError(nearest('data set', name, names)) from e
  except Exception as e:  # a set may need any package in any version
    line = (str(e).strip().splitlines() or [type(e).__name__])[-1]
    raise UserError(f'Data set {name!r} cannot be opened: {line}') from e


def _image_and_label(name: str, features):
  import tensorflow_datasets as tfds
  kinds = {'image': tfds.features.Image, 'label': tfds.features.ClassLabel}
  for key, kind in kinds.items():
    if key not in features or not isinstance(features[key], kind):
      raise UserError(
          f'Data set {name!r} is not for image classification: it has no '
          f'feature {key!r} of kind {kind.__name__}, only {sorted(features)}.')
  if features['image'].np_dtype != np.uint8:
    raise UserError(f'Data set {name!r} has images of '
                    f'{features["image"].np_dtype}; only uint8 can be read.')
  return features['image'], features['label']


def _decode_into(builder, pieces: list[Piece], size: int, to: Decoded) -> None:
  """Decodes the pieces, one after another, into the arrays of `to`."""
  import tensorflow_datasets as tfds
  skip = {k: tfds.decode.SkipDecoding() for k in builder.info.features
          if k != 'label'}
  jobs, at = [], 0
  for split, start, stop in pieces:
    for first in range(start, stop, CHUNK):
      last = min(first + CHUNK, stop)
      jobs.append((split, first, last, at))
      at += last - first

  def work(job):
    split, first, last, at = job
    examples = records[split].__getitems__(list(range(first, last)))
    for i, example in enumerate(examples):
      try:
        image = decode(example['image'], size, to.images.shape[3])
        to.images[at + i] = image
      except Exception as e:
        raise UserError(f'{builder.info.full_name} {split}[{first + i}]: the '
                        f'image cannot be decoded: {e}') from e
      to.labels[at + i] = example['label']
      to.crcs[at + i] = crc_of_each(image[None])[0]

  with _quiet():  # array_record complains when it opens some files
    try:
      records = {split: builder.as_data_source(split, decoders=skip)
                 for split, _, _ in pieces}
    except (NotImplementedError, ValueError) as e:
      raise UserError(
          f'Data set {builder.name!r} under {builder.data_dir} is stored as '
          f'{builder.info.file_format}, which cannot be read without '
          "TensorFlow. Prepare it with file_format='array_record'.") from e
    # Reading and Pillow release the GIL most of the time.
    with futures.ThreadPoolExecutor(os.cpu_count()) as pool:
      with tqdm.tqdm(total=at, delay=5, unit=' images',
                     desc=f'decode {builder.name}') as bar:
        for job, _ in zip(jobs, pool.map(work, jobs)):
          bar.update(job[2] - job[1])


def decode(data: bytes, size: int, channels: int) -> np.ndarray:
  """An encoded image as uint8 `[H, W, C]`; `size` as in `data.load`."""
  with Image.open(io.BytesIO(data)) as image:
    if size:  # JPEG can be decoded at a fraction: at least twice the size
      image.draft(MODES[channels], (2 * size, 2 * size))
    image = image.convert(MODES[channels])
    if size:
      image = _resize(image, size)
    return np.asarray(image).reshape(image.height, image.width, channels)


def _resize(image: Image.Image, size: int) -> Image.Image:
  """The central square of `image`, resized."""
  if image.size == (size, size):
    return image
  width, height = image.size
  side = min(width, height)
  left, top = (width - side) / 2, (height - side) / 2
  return image.resize((size, size), Image.Resampling.BICUBIC,
                      box=(left, top, left + side, top + side))


def _mode(name: str, channels: int) -> str:
  if channels not in MODES:
    raise UserError(f'{name}: images of {channels} channels; Pillow resizes '
                    f'and decodes those of {sorted(MODES)}.')
  return MODES[channels]


@contextlib.contextmanager
def _quiet():
  """Silences absl's log and its warning about unparsed flags."""
  from absl import flags
  from absl import logging
  if not flags.FLAGS.is_parsed():
    flags.FLAGS.mark_as_parsed()
  before = logging.get_verbosity()
  logging.set_verbosity(logging.FATAL)
  try:
    yield
  finally:
    logging.set_verbosity(before)
