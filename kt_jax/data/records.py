"""Arrays of one example side by side in a record, and a file of such records.

Axes: b examples, K classes, k of them kept; logits of tokens have an axis S
before K.
"""
from collections.abc import Mapping
import hashlib
import os
import pathlib
import shutil
from typing import Any

from array_record.python import array_record_module
import jax
import numpy as np

from kt_jax.core import UserError

# A file up to this size is read when it is opened, a larger one as it is used.
RESIDENT = 1 << 30
AT_ONCE = 1 << 16  # records read together, at opening
LARGEST = {'float16': 65504.0, 'float32': float(np.finfo(np.float32).max)}


class Damaged(UserError):
  """A file is not what was written."""

  def __init__(self, path):
    super().__init__(f'{path} is damaged or not whole: delete its folder and '
                     'write it again.')


class Layout:
  """How named arrays make a record.

  Args:
    shapes: name -> shape of the array of one example.
    dtype: of the values that are kept.
    top_k: how many of the logits are kept; 0: all.

  Attributes:
    names: of the arrays.
    dtype: of a record.
  """

  def __init__(self, shapes: Mapping[str, tuple[int, ...]], dtype: str,
               top_k: int = 0):
    self._shapes = {name: tuple(shape) for name, shape in shapes.items()}
    self._values, self._top_k = dtype, top_k
    self.names = tuple(self._shapes)
    fields = []
    for name, shape in self._shapes.items():
      if top_k and name == 'logits':
        *line, classes = shape
        index = 'uint16' if classes <= 1 << 16 else 'uint32'
        fields += [('logits', dtype, (*line, top_k)),
                   ('logits/class', index, (*line, top_k)),
                   ('logits/rest', 'float32', (*line,))]
      else:
        fields.append((name, dtype, shape))
    self.dtype = np.dtype([(f[0], *(np.dtype(f[1]).newbyteorder('<'), *f[2:]))
                           for f in fields])

  def to_json(self) -> dict[str, Any]:
    return dict(shapes={n: list(s) for n, s in self._shapes.items()},
                order=list(self.names), dtype=self._values, top_k=self._top_k)

  @classmethod
  def from_json(cls, value: Mapping[str, Any]) -> 'Layout':
    return cls({n: tuple(value['shapes'][n]) for n in value['order']},
               value['dtype'], value['top_k'])

  def pack(self, arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    """name -> finite `[b, ...]` that `dtype` can hold, as records `[b]`."""
    records = np.zeros(len(next(iter(arrays.values()))), self.dtype)
    for name, value in arrays.items():
      if self._top_k and name == 'logits':
        order = np.argsort(-value, axis=-1, kind='stable')
        top, rest = np.split(order, [self._top_k], axis=-1)
        records['logits/class'] = top
        records['logits/rest'] = _logsumexp(
            np.take_along_axis(value, rest, axis=-1).astype(np.float64))
        value = np.take_along_axis(value, top, axis=-1)
      records[name] = value
    return records

  def unpack(self, records: np.ndarray) -> dict[str, np.ndarray]:
    """Records `[b]` as name -> `[b, ...]`, see `shapes`."""
    return {name: records[name].astype(shape.dtype)
            for name, shape in self.shapes().items()}

  def shapes(self) -> dict[str, jax.ShapeDtypeStruct]:
    """Shape and dtype of what `unpack` returns for one example.

    float32; of logits of which only some are kept, `logits/class` int32 `[k]`
    and `logits/rest`, the log sum of the exponentials of the others, join.
    """
    return {name: jax.ShapeDtypeStruct(
        self.dtype[name].shape,
        np.int32 if name == 'logits/class' else np.float32)
            for name in self.dtype.names or ()}


class Writer:
  """A file of records; `close` tells whether all of them arrived."""

  def __init__(self, path: pathlib.Path, total_bytes: int):
    free = shutil.disk_usage(path.parent).free
    if total_bytes > free:
      raise UserError(
          f'{total_bytes / 2**30:.1f} GiB are needed at {path.parent}, which '
          f'has {free / 2**30:.1f} left: keep fewer logits (top_k), fewer '
          'views, or name another disk.')
    self._path = path
    self._writer = array_record_module.ArrayRecordWriter(
        str(path), 'group_size:1,uncompressed')

  def write(self, records: np.ndarray) -> None:
    try:
      for record in records:
        self._writer.write(record.tobytes())
    except RuntimeError as e:
      raise OSError(e) from e

  def close(self) -> None:
    try:
      self._writer.close()
    except RuntimeError as e:
      raise OSError(e) from e


class Records:
  """Random access to a file of `count` records; `records[index]` is `[b]`.

  The file must be as long as when it was written. A small one is compared with
  its digest at once; of a larger one, checksums of what is read are compared.
  """

  def __init__(self, path: pathlib.Path, dtype: np.dtype, count: int,
               size: int, digest: str):
    self._path, self._dtype = path, dtype
    try:
      if os.path.getsize(path) != size or (
          size <= RESIDENT and self.digest(path) != digest):
        raise Damaged(path)
      self._reader = array_record_module.ArrayRecordReader(
          str(path), 'readahead_buffer_size:0')
      records = self._reader.num_records()
    except (OSError, RuntimeError, ValueError) as e:
      raise Damaged(path) from e
    if records != count:
      raise Damaged(path)
    self._resident = None
    if size <= RESIDENT:
      resident = np.empty(count, dtype)
      for first in range(0, count, AT_ONCE):
        last = min(first + AT_ONCE, count)
        resident[first:last] = self._read(first, last)
      self._resident = resident
      self._reader.close()

  def __getitem__(self, index: np.ndarray) -> np.ndarray:
    if self._resident is not None:
      return self._resident[index]
    return self._read(index.tolist())

  def _read(self, *what) -> np.ndarray:
    try:
      return np.frombuffer(b''.join(self._reader.read(*what)), self._dtype)
    except (RuntimeError, ValueError, IndexError) as e:
      raise Damaged(self._path) from e

  @staticmethod
  def digest(path: pathlib.Path) -> str:
    with open(path, 'rb') as f:
      return hashlib.file_digest(f, 'sha256').hexdigest()


def _logsumexp(x: np.ndarray) -> np.ndarray:
  """Of `[..., n]`, in the dtype of x."""
  top = x.max(axis=-1, keepdims=True)
  return (top + np.log(np.exp(x - top).sum(axis=-1, keepdims=True)))[..., 0]
