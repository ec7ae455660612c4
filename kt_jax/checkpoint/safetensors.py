"""safetensors files as a lazy read-only mapping, name -> numpy array."""
from collections.abc import Iterator, Mapping
import os
import pathlib
from typing import Any

import numpy as np
import safetensors

from kt_jax import core
from kt_jax.checkpoint import workdir

_PICKLES = ('.bin', '.pt', '.pth', '.ckpt', '.pkl')
_INDEX = '.safetensors.index.json'


class SafeTensors(Mapping[str, np.ndarray]):
  """Headers are read and checked at once, an array when it is looked up."""

  def __init__(self, files: Mapping[str, tuple[pathlib.Path, Any]]):
    self._files = files  # name -> path and open handle, shared by its shard

  def __getitem__(self, name: str) -> np.ndarray:
    path, handle = self._files[name]
    try:
      return handle.get_tensor(name)
    # The library looks dtypes up in numpy, which has no 8-bit floats.
    except (safetensors.SafetensorError, AttributeError, TypeError) as e:
      raise core.UserError(f'{path}: cannot read {name!r} '
                           f'({self.dtype(name)}): {e}.') from e

  def __contains__(self, name) -> bool:
    return name in self._files

  def __iter__(self) -> Iterator[str]:
    return iter(self._files)

  def __len__(self) -> int:
    return len(self._files)

  def files(self) -> dict[str, pathlib.Path]:
    """Name -> its file."""
    return {name: path for name, (path, _) in self._files.items()}

  def shape(self, name: str) -> tuple[int, ...]:
    """From the header; reads no array."""
    return tuple(self._files[name][1].get_slice(name).get_shape())

  def dtype(self, name: str) -> str:
    """The format's own name for it ('F32', 'BF16'); reads no array."""
    return self._files[name][1].get_slice(name).get_dtype()


def open_safetensors(path) -> SafeTensors:
  """Opens one file, a sharded index, or the directory that has either.

  Args:
    path: `X.safetensors`, `X.safetensors.index.json`, or a directory; of
      several files there, `model` is opened.

  Returns:
    Name -> array; its order is that of the file or the index.

  Raises:
    UserError: no such file, a pickle, a missing or misplaced shard, a file that
      is truncated or has an invalid header.
  """
  path = pathlib.Path(os.path.expanduser(path))
  if path.is_dir():
    path = _choose(path)
  if path.suffix in _PICKLES:
    raise core.UserError(_pickle(path))
  if not path.is_file():
    raise core.UserError(f'{path}: no such file or directory.')
  if path.name.endswith('.json'):
    return SafeTensors(_open_index(path))
  handle = _open(path)
  return SafeTensors({name: (path, handle) for name in handle.keys()})


def read_object(path) -> dict[str, Any]:
  """A JSON file that holds one object; UserError if it does not."""
  try:
    value = workdir.read_json(path)
  except core.UserError:
    raise
  except (RecursionError, ValueError) as e:  # nested or a number without end
    raise core.UserError(f'Cannot read {path}: {e}.') from e
  if not isinstance(value, dict):
    raise core.UserError(f'{path}: must hold one JSON object, has a '
                         f'{type(value).__name__}.')
  return value


def _choose(path: pathlib.Path) -> pathlib.Path:
  for name in ('model.safetensors', 'model' + _INDEX):
    if (path / name).is_file():
      return path / name
  for pattern in ('*' + _INDEX, '*.safetensors'):
    files = sorted(path.glob(pattern))
    if len(files) == 1:
      return files[0]
    if files:
      raise core.UserError(f'{path}: which of {[f.name for f in files]}? Give '
                           'the path of one.')
  for file in sorted(path.iterdir()):
    if file.suffix in _PICKLES:
      raise core.UserError(_pickle(file))
  raise core.UserError(f'{path}: has neither *.safetensors nor *{_INDEX}.')


def _pickle(path: pathlib.Path) -> str:
  return (f'{path}: is a pickle, which can run any code when it is read; '
          'convert it to safetensors (in torch: '
          'safetensors.torch.save_file(torch.load(..., weights_only=True), '
          '"model.safetensors")).')


def _open(path: pathlib.Path) -> Any:
  try:
    # This checks the header's length and JSON, and that offsets are within the
    # file, in order and without holes.
    return safetensors.safe_open(path, framework='np')
  except (safetensors.SafetensorError, OSError, ValueError) as e:
    with path.open('rb') as file:
      lfs = file.read(24).startswith(b'version https://git-lfs')
    hint = ('it is a Git LFS pointer; run git lfs pull' if lfs else
            'the file is damaged or not safetensors; fetch it again')
    raise core.UserError(f'{path}: {e}: {hint}.') from e


def _open_index(path: pathlib.Path) -> dict[str, tuple[pathlib.Path, Any]]:
  shards = read_object(path).get('weight_map')
  if not isinstance(shards, dict) or not shards:
    raise core.UserError(f'{path}: must have a "weight_map", name -> file.')
  handles, contents = {}, {}
  for file in shards.values():
    # A plain name: nothing outside of the directory.
    if (not isinstance(file, str) or not file.endswith('.safetensors')
        or '/' in file or '\\' in file or '\0' in file):
      raise core.UserError(f'{path}: shard {file!r} must be the name of a '
                           '.safetensors file beside the index.')
    if file not in handles:
      shard = path.parent / file
      if not shard.is_file():
        raise core.UserError(f'{path}: shard {file} is missing; fetch it into '
                             f'{path.parent}.')
      handles[file] = _open(shard)
      contents[file] = set(handles[file].keys())
  listed = {(file, name) for name, file in shards.items()}
  actual = {(file, name) for file, names in contents.items() for name in names}
  if listed != actual:
    file, name = min(listed ^ actual)
    verb = 'lacks' if (file, name) in listed else 'has, unlisted,'
    raise core.UserError(f'{path}: shard {file} {verb} {name!r}; index and '
                         'shards are not of one checkpoint.')
  return {name: (path.parent / file, handles[file])
          for name, file in shards.items()}
