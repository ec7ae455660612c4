"""A hash of what a checkpoint holds, taken while it streams past."""
from collections.abc import Mapping
import threading

import numpy as np
import xxhash

from kt_jax.checkpoint import tensors as tensors_lib

BLOCK = 2 ** 20  # entries that are hashed together


class Content:
  """Hash of named tensors whose entries are seen in any order.

  Every tensor is cut into blocks; the hash is of names, dtypes, shapes and the
  XXH3 of the blocks, so it hangs neither on the files' layout nor on who read
  first. It tells accidents, not forgeries.
  """

  def __init__(self):
    self._blocks, self._names = {}, set()
    self._lock = threading.Lock()

  def see(self, name: str, start: int, values: np.ndarray) -> None:
    """Notes the 1-D `values` at entries `start`...; only whole blocks count.

    Args:
      name: of the tensor.
      start: what is not the beginning of a block is passed over.
      values: to the end of a block or of the tensor.
    """
    if start % BLOCK:
      return
    for at in range(0, len(values), BLOCK):
      block = values[at:at + BLOCK]
      if (name, start + at, len(block)) not in self._blocks:
        raw = np.ascontiguousarray(block).view(np.uint8)
        found = xxhash.xxh3_128_digest(raw)
        with self._lock:
          self._blocks[name, start + at, len(block)] = found
          self._names.add(name)

  def knows(self, name: str) -> bool:
    """Whether anything of this tensor was seen."""
    with self._lock:
      return name in self._names

  def hexdigest(self, tensors: Mapping[str, tensors_lib.Tensor]) -> str:
    """The hash of `tensors`; blocks that were not seen yet are read now."""
    total = xxhash.xxh3_128()
    for name in sorted(tensors):
      tensor = tensors[name]
      total.update(f'{name} {tensor.dtype} {list(tensor.shape)}'.encode())
      for start in range(0, tensor.size, BLOCK):
        count = min(BLOCK, tensor.size - start)
        if (name, start, count) not in self._blocks:
          values = np.empty(count, tensor.dtype)
          tensor.read(start, values)
          self.see(name, start, values)
        total.update(self._blocks[name, start, count])
    return total.hexdigest()


class Watched(tensors_lib.Tensor):
  """A tensor of which a `Content` sees what is read."""

  def __init__(self, tensor: tensors_lib.Tensor, key: str, content: Content,
               owner: str = ''):
    """Makes it; messages say `owner` before the tensor's name."""
    super().__init__(f'{owner}: {tensor.name}' if owner else tensor.name,
                     tensor.shape, tensor.dtype)
    self._tensor, self._key, self._content = tensor, key, content

  def read(self, start, out):
    self._tensor.read(start, out)
    self._content.see(self._key, start, out)
