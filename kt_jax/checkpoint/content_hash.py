"""A hash of a checkpoint's content, computed while it streams past."""
from collections.abc import Mapping
import threading

import numpy as np
import xxhash

from kt_jax.checkpoint import tensors as tensors_lib

BLOCK = 2 ** 20  # entries that are hashed together


class ContentHash:
  """Hash of named tensors whose entries arrive in any order.

  Every tensor is cut into blocks; the hash is of names, dtypes, shapes and the
  XXH3 of the blocks, so it depends neither on the layout of files nor on the
  order of reading. It detects accidents, not forgeries.
  """

  def __init__(self):
    self._blocks, self._names = {}, set()
    self._lock = threading.Lock()

  def update(self, name: str, start: int, values: np.ndarray) -> None:
    """Hashes the 1-D `values` at entries `start`...; whole blocks only.

    Args:
      name: of the tensor.
      start: of a block; any other is ignored.
      values: to the end of a block or of the tensor.
    """
    if start % BLOCK:
      return
    for at in range(0, len(values), BLOCK):
      block = values[at:at + BLOCK]
      if (name, start + at, len(block)) not in self._blocks:
        digest = xxhash.xxh3_128_digest(
            np.ascontiguousarray(block).view(np.uint8).data)
        with self._lock:
          self._blocks[name, start + at, len(block)] = digest
          self._names.add(name)

  def covers(self, name: str) -> bool:
    """Whether any block of this tensor was hashed."""
    with self._lock:
      return name in self._names

  def hexdigest(self, tensors: Mapping[str, tensors_lib.Tensor]) -> str:
    """The hash of `tensors`; blocks that are not hashed yet are read now."""
    total = xxhash.xxh3_128()
    for name in sorted(tensors):
      tensor = tensors[name]
      total.update(f'{name} {tensor.dtype} {list(tensor.shape)}'.encode())
      for start in range(0, tensor.size, BLOCK):
        count = min(BLOCK, tensor.size - start)
        if (name, start, count) not in self._blocks:
          values = np.empty(count, tensor.dtype)
          tensor.read(start, values)
          self.update(name, start, values)
        total.update(self._blocks[name, start, count])
    return total.hexdigest()


class HashedTensor(tensors_lib.Tensor):
  """A tensor that passes what is read to a `ContentHash`."""

  def __init__(self, tensor: tensors_lib.Tensor, key: str,
               content: ContentHash, owner: str = ''):
    """Wraps a tensor.

    Args:
      tensor: to read.
      key: its name in the hash.
      content: the hash.
      owner: prefix of the tensor's name in messages.
    """
    super().__init__(f'{owner}: {tensor.name}' if owner else tensor.name,
                     tensor.shape, tensor.dtype)
    self._tensor, self._key, self._content = tensor, key, content

  def read(self, start, out):
    self._tensor.read(start, out)
    self._content.update(self._key, start, out)
