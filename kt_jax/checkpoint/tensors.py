"""Arrays of a checkpoint, read and written a stretch at a time.

Reads and writes are positioned, so that threads share a file, and go through
the caller's buffers: a checkpoint of any size passes through a few megabytes.
"""
from collections.abc import Mapping, Sequence
import io
import json
import math
import os
import pathlib
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from kt_jax import core
from kt_jax.checkpoint import safetensors

# The format's name of a dtype.
DTYPES = {
    'F64': np.float64, 'F32': np.float32, 'F16': np.float16,
    'BF16': ml_dtypes.bfloat16, 'F8_E4M3': ml_dtypes.float8_e4m3fn,
    'F8_E5M2': ml_dtypes.float8_e5m2, 'I64': np.int64, 'I32': np.int32,
    'I16': np.int16, 'I8': np.int8, 'U64': np.uint64, 'U32': np.uint32,
    'U16': np.uint16, 'U8': np.uint8, 'BOOL': np.bool_}
_FORMAT_NAMES = {np.dtype(dtype): word for word, dtype in DTYPES.items()}
_INDEX = 'model.safetensors.index.json'


class Tensor:
  """One array, read on demand.

  Attributes:
    name: for messages.
    shape: of the array.
    dtype: of the array.
  """

  def __init__(self, name: str, shape: Sequence[int], dtype):
    self.name, self.shape = name, tuple(shape)
    self.dtype = np.dtype(dtype)

  @property
  def size(self) -> int:
    return math.prod(self.shape)

  @property
  def nbytes(self) -> int:
    return self.size * self.dtype.itemsize

  def read(self, start: int, out: np.ndarray) -> None:
    """Fills the 1-D `out`, of `dtype`, with entries from `start` on.

    Entries are counted in the flattened array. Threads may call it at once.
    """
    raise NotImplementedError

  def array(self) -> np.ndarray:
    """All of it, in memory."""
    flat = np.empty(self.size, self.dtype)
    self.read(0, flat)
    return flat.reshape(self.shape)


class ArrayTensor(Tensor):
  """An array that is in memory."""

  def __init__(self, name: str, array):
    array = np.asarray(array)
    super().__init__(name, array.shape, array.dtype)
    self._flat = np.ascontiguousarray(array).reshape(-1)

  def read(self, start, out):
    out[:] = self._flat[start:start + len(out)]


class FileTensor(Tensor):
  """An array within a safetensors file."""

  def __init__(self, name, shape, dtype, file: io.FileIO, offset: int):
    super().__init__(name, shape, dtype)
    self._file, self._offset = file, offset

  def read(self, start, out):
    view = out.view(np.uint8).data
    at = self._offset + start * self.dtype.itemsize
    while len(view):
      count = os.preadv(self._file.fileno(), [view], at)
      if not count:
        raise core.UserError(f'{self._file.name}: ends within {self.name!r}; '
                             'it was truncated while being read.')
      view, at = view[count:], at + count


def open_tensors(path) -> dict[str, Tensor]:
  """The tensors of a safetensors file, index or directory, by name.

  Headers are read and checked (`open_safetensors` says what is refused);
  weights are not touched.
  """
  tensors, files = {}, {}
  for name, file in safetensors.open_safetensors(path).files().items():
    if file not in files:
      opened = open(file, 'rb', buffering=0)  # closed with its last tensor
      files[file] = opened, *_header(opened)
    opened, header, start = files[file]
    entry = header[name]
    if entry['dtype'] not in DTYPES:
      raise core.UserError(
          f'{file}: {name!r} has dtype {entry["dtype"]}; supported '
          f'are {", ".join(DTYPES)}.')
    tensors[name] = FileTensor(name, entry['shape'], DTYPES[entry['dtype']],
                               opened, start + entry['data_offsets'][0])
  return tensors


def _header(file):
  """The header of a valid file, and the offset of its data."""
  length = int.from_bytes(file.read(8), 'little')
  return json.loads(file.read(length)), 8 + length


class _Extent(NamedTuple):
  file: io.FileIO
  offset: int
  dtype: np.dtype


class TensorWriter:
  """Allocates safetensors shards, then takes values in any order.

  All space is claimed at once, so that a full disk is an error at the start.
  """

  def __init__(self, directory,
               entries: Sequence[tuple[str, Sequence[int], Any]],
               *, shard_bytes: int = 5_000_000_000,
               metadata: Mapping[str, str] | None = None):
    """Makes the files.

    Args:
      directory: an existing directory without `model*.safetensors`.
      entries: `(name, shape, dtype)` of everything that will be written.
      shard_bytes: largest shard; a larger tensor has a shard of its own.
      metadata: strings for the headers.

    Raises:
      UserError: a dtype that the format lacks; too little space on the disk.
    """
    self.directory = pathlib.Path(directory)
    self._extents, self._files = {}, []
    shards = _shards(entries, shard_bytes)
    total = sum(size for shard in shards for *_, size in shard)
    for number, shard in enumerate(shards, 1):
      name = ('model.safetensors' if len(shards) == 1 else
              f'model-{number:05}-of-{len(shards):05}.safetensors')
      self._make(self.directory / name, shard, metadata or {}, total)
    self._index = len(shards) > 1 and dict(
        metadata=dict(total_size=total),
        weight_map={name: os.path.basename(extent.file.name)
                    for name, extent in self._extents.items()})

  def write(self, name: str, start: int, values: np.ndarray) -> None:
    """Writes the 1-D `values` at entries `start`... of a tensor."""
    extent = self._extents[name]
    assert values.dtype == extent.dtype, (name, values.dtype, extent.dtype)
    view = np.ascontiguousarray(values).view(np.uint8).data
    at = extent.offset + start * extent.dtype.itemsize
    while len(view):
      count = os.pwrite(extent.file.fileno(), view, at)
      view, at = view[count:], at + count

  def close(self) -> None:
    """Returns when everything is on disk, the index last."""
    for file in self._files:
      os.fsync(file.fileno())
      file.close()
    self._extents, self._files = {}, []
    if self._index:
      path = self.directory / _INDEX
      path.write_text(json.dumps(self._index, indent=2, sort_keys=True))

  def _make(self, path, shard, metadata, total):
    header, offset = {'__metadata__': dict(metadata)}, 0
    for name, shape, dtype, size in shard:
      header[name] = dict(dtype=_FORMAT_NAMES[dtype], shape=list(shape),
                          data_offsets=[offset, offset + size])
      offset += size
    text = json.dumps(header, separators=(',', ':')).encode()
    text += b' ' * (-len(text) % 8)  # data start aligned
    try:
      file = open(path, 'xb', buffering=0)
      os.posix_fallocate(file.fileno(), 0, 8 + len(text) + offset)
      os.pwrite(file.fileno(), len(text).to_bytes(8, 'little') + text, 0)
    except OSError as e:
      raise core.UserError(f'{path}: cannot be made, {total / 1e9:.3g} GB are '
                           f'needed in all: {e.strerror}.') from e
    self._files.append(file)
    for name, _, dtype, _ in shard:
      at = 8 + len(text) + header[name]['data_offsets'][0]
      self._extents[name] = _Extent(file, at, dtype)


def _shards(entries, shard_bytes):
  """Lists of `(name, shape, dtype, bytes)`, each at most `shard_bytes`."""
  shards = [[]]
  for name, shape, dtype in entries:
    dtype = np.dtype(dtype)
    if dtype not in _FORMAT_NAMES:
      raise core.UserError(f'{name!r} has dtype {dtype}, which safetensors '
                           'lacks.')
    size = math.prod(shape) * dtype.itemsize
    if shards[-1] and sum(s[-1] for s in shards[-1]) + size > shard_bytes:
      shards.append([])
    shards[-1].append((name, shape, dtype, size))
  # Widest dtype first keeps every tensor aligned to its own entries.
  return [sorted(shard, key=lambda s: -s[2].itemsize) for shard in shards]
