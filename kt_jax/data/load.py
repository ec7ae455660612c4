"""Data sets by name: train, validation and test, and what is known of them."""
from collections.abc import Mapping
import dataclasses
import hashlib
import inspect
import math
import numbers
import re
import sys
from typing import Any

import numpy as np

from kt_jax.core import nearest
from kt_jax.core import resolve
from kt_jax.core import spec
from kt_jax.core import UserError
from kt_jax.data import derived
from kt_jax.data import sources
from kt_jax.data._skew import imbalanced
from kt_jax.data._skew import long_tailed
from kt_jax.data._skew import mislabeled
from kt_jax.data._skew import shared
from kt_jax.data.arrays import Arrays
from kt_jax.data.arrays import Info
from kt_jax.data.arrays import Piece
from kt_jax.data.arrays import Source
from kt_jax.data.arrays import Splits
from kt_jax.data.arrays import stratified
from kt_jax.data.specs import Images

_PART = re.compile(r'([\w.-]+)(?:\[([^:\]]*):([^:\]]*)\])?')


def load(config: Images | Mapping[str, Any]) -> Splits:
  """Decodes a data set, or opens what was decoded before, and splits it.

  Args:
    config: an `Images` spec, or a mapping with some of its keys.

  Returns:
    `(train, validation, test, info)`. The split depends on the names, the
    numbers and `split_seed` only.

  Raises:
    UserError: one line about what cannot be had, and what can.
  """
  config, source, pieces, sizes = _plan(config)
  train, train_crcs = _read(source, pieces['train'], config['size'])
  test, test_crcs = _read(source, pieces['test'], config['size'])
  held_out = np.zeros(len(train), bool)
  held_out[stratified(train.labels, sizes['validation'],
                      config['split_seed'])] = True
  left, validation = np.flatnonzero(~held_out), np.flatnonzero(held_out)
  classes, seed = len(source.class_names), config['split_seed']
  subset = _count(config, 'subset', len(left)) or len(left)
  if subset < len(left):
    left = left[stratified(train.labels[left], subset, seed)]
  if config['imbalance']:
    counts = long_tailed(subset, classes, config['imbalance'])
    left = left[imbalanced(train.labels[left], counts, seed)]
  if config['class_shares']:
    left = left[shared(train.labels[left], config['class_shares'], seed)]
    sizes['train'] = len(left)
    if not sizes['train']:
      raise UserError(f'data.class_shares={tuple(config["class_shares"])} '
                      'leaves none to train on.')
  first = np.arange(len(test))
  if sizes['test'] < len(test):
    first = stratified(test.labels, sizes['test'], None)

  digest = hashlib.blake2b(digest_size=16)
  parts = {}
  for name, arrays, crcs, index in [
      ('train', train, train_crcs, left),
      ('validation', train, train_crcs, validation),
      ('test', test, test_crcs, first)]:
    whole = len(index) == len(arrays)
    parts[name] = arrays if whole else arrays.take(index)
    if name == 'train' and config['label_noise']:
      parts[name] = dataclasses.replace(parts[name], labels=mislabeled(
          parts[name].labels, classes, config['label_noise'], seed))
    if config['pad']:
      parts[name] = parts[name].pad(config['pad'])
    for content in (parts[name].ids, parts[name].labels, crcs[index]):
      # The length goes first, so that no two ways to split look the same.
      digest.update(np.int64(len(content)).tobytes() + content.tobytes())
  if config['pad']:
    digest.update(f'pad {config["pad"]}'.encode())
  return Splits(**parts, info=_info(config, source, sizes, digest.hexdigest()))


def abstract(config: Images | Mapping[str, Any]) -> Info:
  """What `load` would say of the data set, from headers: nothing is decoded.

  Only `classes` and `class_shares` ask for labels, which are with the images.
  """
  if _fill(config)['class_shares']:
    return dataclasses.replace(load(config).info, fingerprint='')
  config, source, _, sizes = _plan(config)
  return _info(config, source, sizes)


def _plan(config):
  """The full config, its source, pieces of train and test, and final sizes."""
  config = _fill(config)
  source = _source(config)
  height, width, _ = source.image_shape
  if not config['size'] and None in (height, width):
    raise UserError(f'Images of {source.name} differ in size: set data.size to '
                    'the side of the square they are resized to, such as 224.')
  pieces = {k: parse_split(source, k, config[k]) for k in ('train', 'test')}
  all_train, all_test = (sum(b - a for _, a, b in pieces[k])
                         for k in ('train', 'test'))
  validation = _count(config, 'validation', all_train)
  left = all_train - validation
  if not left:
    raise UserError(f'data.validation={config["validation"]} leaves none of '
                    f'the {all_train} examples of {config["train"]!r} to '
                    'train on.')
  limit = _count(config, 'test_limit', all_test, clip=True)
  sizes = {'train': _count(config, 'subset', left) or left,
           'validation': validation, 'test': limit or all_test}
  classes = len(source.class_names)
  _check_skew(config, classes, sizes['train'])
  if config['imbalance']:
    sizes['train'] = int(long_tailed(
        sizes['train'], classes, config['imbalance']).sum())
  return config, source, pieces, sizes


def _check_skew(config, classes: int, n: int) -> None:
  """Refuses imbalance and noise that `n` examples of train cannot have."""
  for key, low, high, what in [
      ('imbalance', 1, 1e6, '0 (off) or the ratio of the largest class to the '
       'smallest, from 1 on'), ('label_noise', 0, 1, 'a share from 0 to 1')]:
    value = config[key]
    if not (value == 0 or low <= value <= high):
      raise UserError(f'data.{key} must be {what}, got {value!r}.')
  shares = config['class_shares']
  if shares and (len(shares) != classes or not sum(shares) or not all(
      0 <= x <= 1 for x in shares)):
    raise UserError(f'data.class_shares must be {classes} shares from 0 to 1, '
                    f'one for each class, not all 0, got {tuple(shares)}.')
  if shares and config['imbalance']:
    raise UserError('data.class_shares and data.imbalance say the same thing: '
                    'set one of them.')
  if config['imbalance'] and n < classes:
    raise UserError(f'data.imbalance needs an example of each of the {classes} '
                    f'classes; train has {n}.')
  if config['label_noise'] and classes < 2:
    raise UserError('data.label_noise needs two classes.')


def _fill(config) -> dict[str, Any]:
  config = vars(spec.build(Images, config, 'data')).copy()
  if not config['name']:
    raise UserError('data.name must be the name of a data set.')
  for key, top in (('size', 1 << 12), ('pad', 1 << 10),
                   ('split_seed', 1 << 62)):
    if not 0 <= config[key] < top:
      raise UserError(f'data.{key} must be an integer from 0 to {top - 1}, '
                      f'got {config[key]!r}.')
  return config


def _source(config) -> Source:
  source = _named(config)
  if config['classes']:
    source = derived.of_classes(source, config['classes'], config)
  return derived.rotated(source, config['rotation']) if (
      config['rotation']) else source


def _named(config) -> Source:
  name, kw = config['name'], config['kw']
  if isinstance(name, Source):
    return name
  # 'module:function', not TFDS's 'name:version'.
  if callable(name) or re.match(r'[^:]+:[A-Za-z_]', name):
    make = name if callable(name) else resolve(
        sys.modules[__name__], name, 'data set')
    name = spec.to_dict(name)
    try:
      inspect.signature(make).bind(config, **kw)
    except TypeError as e:
      raise UserError(f'data set {name!r}: {e}; it is called with (config) and '
                      'the settings in data.kw.') from e
    source = make(config, **kw)
    if not isinstance(source, Source):
      raise UserError(f'data set {name!r} must return a data.Source, such as '
                      'data.from_arrays returns, got '
                      f'{type(source).__name__}.')
    return source
  if kw:
    raise UserError(f'data.kw: {name!r} has no settings.')
  if name == 'digits':
    return sources.digits()
  return sources.tfds_images(name, config['data_dir'])


def parse_split(source: Source, key: str, text: str) -> list[Piece]:
  """'train[:10%]+extra' as pieces, with the rounding of TFDS.

  Args:
    source: has the splits and their sizes.
    key: which setting `text` is, for errors.
    text: names of splits joined by '+', each with an optional slice
      `[from:to]` in examples or percent; negative ones count from the end.

  Returns:
    Pieces in the order of `text`; no example is in two of them.
  """
  pieces = []
  for part in text.split('+'):
    match = _PART.fullmatch(part.strip())
    if not match:
      raise UserError(f'data.{key}={text!r} is not a split such as '
                      "'train', 'train[:10%]' or 'train[100:200]+extra'.")
    split, *bounds = match.groups()
    if split not in source.splits:
      raise UserError(nearest(f'split of {source.name}', split, source.splits))
    n = source.splits[split]
    start, stop = (_bound(x, n, default, key, text)
                   for x, default in zip(bounds, (0, n)))
    if start >= stop:
      raise UserError(f'data.{key}={text!r} selects no example of {split!r}, '
                      f'which has {n}.')
    pieces.append((split, start, stop))
  ordered = sorted(pieces)
  for (a, _, stop), (b, start, _) in zip(ordered, ordered[1:]):
    if a == b and start < stop:
      raise UserError(f'data.{key}={text!r} names some examples of {a!r} '
                      'twice.')
  return pieces


def _bound(text: str | None, n: int, default: int, key: str,
           whole: str) -> int:
  if not text:
    return default
  try:
    if text.endswith('%'):
      value = round(float(text[:-1]) * n / 100)
    else:
      value = int(text)
  except (ValueError, OverflowError):
    value = n + 1
  if not -n <= value <= n:
    raise UserError(f'data.{key}={whole!r}: {text!r} must be a number of '
                    f'examples up to {n}, or a percentage up to 100%.')
  return value + n if text.startswith('-') else value


def _count(config, key: str, n: int, clip: bool = False) -> int:
  """A share (below 1) or a number of `n` examples, as a number."""
  value = config[key]
  if not math.isfinite(value) or value < 0 or (
      value >= 1 and value != int(value)):
    raise UserError(f'data.{key} must be a share from 0 to 1 or a whole number '
                    f'of examples, got {value!r}.')
  if 0 < value < 1:
    return max(1, round(value * n))
  if value > n and not clip:
    raise UserError(f'data.{key}={value} is more than the {n} examples there '
                    'are to take from.')
  return min(int(value), n)


def _read(source: Source, pieces: list[Piece],
          size: int) -> tuple[Arrays, np.ndarray]:
  images, labels, crcs = source.read(pieces, size)
  if labels.size and not (
      0 <= labels.min() and labels.max() < len(source.class_names)):
    raise UserError(
        f'{source.name} has labels from {labels.min()} to {labels.max()} in '
        f'{pieces[0][0]!r}, but {len(source.class_names)} classes: a split '
        'without public labels cannot be used here.')
  offset = {split: 0 for split, _, _ in pieces}
  total = 0
  for split in offset:
    offset[split], total = total, total + source.splits[split]
  ids = np.concatenate([offset[split] + np.arange(start, stop)
                        for split, start, stop in pieces])
  return Arrays(images, labels, ids.astype(np.int64)), crcs


def _info(config, source: Source, sizes: dict[str, int],
          fingerprint: str = '') -> Info:
  *_, channels = source.image_shape
  moments = {}
  for key in ('mean', 'std'):
    given = tuple(config[key]) or getattr(source, key) or (0.5,) * channels
    real = all(isinstance(x, numbers.Real) and math.isfinite(x) for x in given)
    if len(given) != channels or not real or (
        key == 'std' and min(given) <= 0):
      raise UserError(f'data.{key} must be {channels} numbers, one for each '
                      f'channel of {source.name}, on a scale of 0 to 1, got '
                      f'{given}.')
    moments[key] = tuple(map(float, given))
  height, width = (config['size'],) * 2 if config['size'] else (
      source.image_shape[:2])
  margin = 2 * config['pad']
  return Info(source.name, len(source.class_names),
              (height + margin, width + margin, channels),
              class_names=source.class_names, sizes=sizes,
              fingerprint=fingerprint, **moments)
