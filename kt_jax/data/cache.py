"""Decoded images on disk, so that a set is decoded once on a machine."""
from collections.abc import Callable
import contextlib
import logging
import os
import pathlib
import shutil
import tempfile

import numpy as np

from kt_jax.core import UserError
from kt_jax.data.arrays import crc_of_each
from kt_jax.data.arrays import Decoded

# How many images of a cached file are compared with their checksums at opening.
SPOT_CHECKS = 256


def cache_dir() -> pathlib.Path:
  """$KT_JAX_CACHE, else $XDG_CACHE_HOME/kt_jax, else ~/.cache/kt_jax."""
  own = os.environ.get('KT_JAX_CACHE')
  if own:
    return pathlib.Path(own).expanduser().absolute()
  base = os.environ.get('XDG_CACHE_HOME') or '~/.cache'
  return pathlib.Path(base).expanduser().absolute() / 'kt_jax'


def cached(key: str, shape: tuple[int, int, int, int],
           fill: Callable[[Decoded], None]) -> Decoded:
  """The decoded arrays under `key`, made by `fill` if they are not there.

  Concurrent processes wait for the one that decodes; readers only ever see a
  complete folder, which appears under its name by one rename.

  Args:
    key: names everything that the content depends on; a valid file name.
    shape: of the images, `(N, H, W, C)`.
    fill: writes images, labels and checksums into the arrays it is given.

  Returns:
    The arrays; the images are a memory map.

  Raises:
    UserError: the folder cannot be written or the disk is too small.
  """
  root = cache_dir() / 'data'
  final = root / key
  decoded = _open(final, shape)
  if decoded is not None:
    return decoded
  try:
    root.mkdir(parents=True, exist_ok=True)
    with lock(root / f'.{key}.lock') as alone:
      decoded = _open(final, shape)  # another process may have been faster
      if decoded is not None:
        return decoded
      if final.exists():
        logging.getLogger('kt_jax').warning(
            '%s is damaged; decoding again.', final)
        shutil.rmtree(final)
      if alone:  # what a killed process has left
        for stale in root.glob(f'.{key}.part-*'):
          shutil.rmtree(stale, ignore_errors=True)
      _build(root, key, shape, fill)
  except OSError as e:
    raise UserError(f'Cannot write decoded images to {root}: {e}. Set '
                    'KT_JAX_CACHE to a folder that can be written.') from e
  decoded = _open(final, shape)
  if decoded is None:
    raise UserError(f'{final} is damaged just after it was written; check the '
                    'disk or set KT_JAX_CACHE to another.')
  return decoded


def _build(root: pathlib.Path, key: str, shape, fill) -> None:
  need, free = int(np.prod(shape)), shutil.disk_usage(root).free
  if need > free:
    raise UserError(f'Decoded images need {need / 2**30:.1f} GiB, {root} has '
                    f'{free / 2**30:.1f} left. Set KT_JAX_CACHE to another '
                    'disk, or data.size to smaller images.')
  part = pathlib.Path(tempfile.mkdtemp(dir=root, prefix=f'.{key}.part-'))
  try:
    images = np.lib.format.open_memmap(
        part / 'images.npy', mode='w+', dtype=np.uint8, shape=shape)
    decoded = Decoded(images, np.zeros(shape[0], np.int32),
                      np.zeros(shape[0], np.uint32))
    fill(decoded)
    images.flush()
    np.save(part / 'labels.npy', decoded.labels)
    np.save(part / 'crcs.npy', decoded.crcs)
    try:
      os.replace(part, root / key)
    except OSError:
      if not (root / key).exists():
        raise  # otherwise another process without a lock was faster
  finally:
    shutil.rmtree(part, ignore_errors=True)


def _open(folder: pathlib.Path, shape) -> Decoded | None:
  """The arrays in `folder`; None if any is lacking, short or altered."""
  try:
    images = np.load(folder / 'images.npy', mmap_mode='r')
    labels = np.load(folder / 'labels.npy')
    crcs = np.load(folder / 'crcs.npy')
  except (OSError, ValueError, EOFError):  # absent or truncated
    return None
  if (images.shape != tuple(shape) or images.dtype != np.uint8
      or labels.shape != shape[:1] or labels.dtype != np.int32
      or crcs.shape != shape[:1] or crcs.dtype != np.uint32):
    return None
  some = np.linspace(0, shape[0] - 1, min(SPOT_CHECKS, shape[0])).astype(int)
  if not np.array_equal(crc_of_each(images[some]), crcs[some]):
    return None
  return Decoded(images, labels, crcs)


@contextlib.contextmanager
def lock(path: pathlib.Path):
  """Holds `path` alone; yields False where files cannot be locked."""
  try:
    import fcntl
  except ImportError:
    yield False
    return
  with open(path, 'w') as f:
    try:
      fcntl.flock(f, fcntl.LOCK_EX)
    except OSError:
      yield False
      return
    yield True
