"""Output directories: made beside their place, published by one rename."""
from collections.abc import Generator, Sequence
import contextlib
import ctypes
import errno
import fcntl
import os
import pathlib
import shutil

from kt_jax import core

_HERE, _EXCHANGE = -100, 2  # AT_FDCWD, RENAME_EXCHANGE of Linux


def choose_output(out, overwrite: bool, inputs: Sequence[str | pathlib.Path]
                  ) -> pathlib.Path:
  """Resolves and checks the directory to make.

  Args:
    out: path, perhaps relative, with links or `~`.
    overwrite: whether an existing checkpoint may be replaced.
    inputs: paths that must not be removed with it.

  Returns:
    Its absolute path without links.

  Raises:
    UserError: something else exists there, or an input lies in it.
  """
  path = pathlib.Path(os.path.realpath(os.path.expanduser(out)))
  if not path.parent.is_dir():
    raise core.UserError(f'{path.parent}: no such directory.')
  if os.path.lexists(path) and not path.is_dir():
    raise core.UserError(f'{out}: exists and is not a directory; name '
                         'another.')
  if not path.is_dir() or not any(path.iterdir()):
    return path
  if not overwrite:
    raise core.UserError(f'{out}: already exists; name another directory or '
                         'add --overwrite.')
  for source in inputs:
    real = pathlib.Path(os.path.realpath(os.path.expanduser(source)))
    if real.exists() and path in real.parents:
      raise core.UserError(f'{out}: contains {source}, which --overwrite would '
                           'remove; name another directory.')
  if not any(path.glob('*.safetensors')):
    raise core.UserError(f'{out}: --overwrite replaces a checkpoint, and this '
                         'is not one; name another directory.')
  return path


@contextlib.contextmanager
def workspace(out: pathlib.Path) -> Generator[pathlib.Path]:
  """A hidden folder beside `out`, removed afterwards; one run at a time.

  Raises:
    UserError: another process writes `out`.
  """
  folder = out.parent / f'.{out.name}.partial'
  lock = out.parent / f'.{out.name}.lock'
  with _locked(lock, out):
    old = folder / 'replaced'
    if old.is_dir() and not out.exists():  # killed between two renames
      os.rename(old, out)
    shutil.rmtree(folder, ignore_errors=True)  # of a run that was killed
    folder.mkdir()
    try:
      yield folder
    finally:
      shutil.rmtree(folder, ignore_errors=True)


def publish(result: pathlib.Path, out: pathlib.Path, overwrite: bool) -> None:
  """Moves a result from its workspace to `out`, in one step.

  An old `out` moves to the workspace and is removed with it.

  Raises:
    UserError: `out` was created in the meantime, without `overwrite`.
  """
  for path in (*result.iterdir(), result):
    _sync(path)
  try:
    os.rename(result, out)  # onto an empty directory too
  except OSError as e:
    if e.errno not in (errno.ENOTEMPTY, errno.EEXIST):
      raise
    if not overwrite:
      raise core.UserError(f'{out}: was created by another process in '
                           'the meantime.') from e
    if not _exchange(result, out):
      os.rename(out, result.parent / 'replaced')
      os.rename(result, out)
  _sync(out.parent)


def _sync(path):
  file = os.open(path, os.O_RDONLY)
  try:
    os.fsync(file)
  finally:
    os.close(file)


def _exchange(a, b) -> bool:
  """Whether the system swapped two directories in one step."""
  try:
    rename = ctypes.CDLL(None).renameat2
  except AttributeError:
    return False
  return not rename(_HERE, os.fsencode(a), _HERE, os.fsencode(b), _EXCHANGE)


@contextlib.contextmanager
def _locked(lock, out):
  with open(lock, 'a') as file:
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
      mine = os.path.samestat(os.fstat(file.fileno()), os.stat(lock))
    except (BlockingIOError, FileNotFoundError):
      mine = False
    if not mine:  # or the process that had it has just removed it
      raise core.UserError(f'{out}: another process is writing it.')
    try:
      yield
    finally:
      lock.unlink(missing_ok=True)
