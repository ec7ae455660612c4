"""Where a result is made, and how it comes to its place."""
from collections.abc import Iterator, Sequence
import contextlib
import ctypes
import errno
import fcntl
import os
import pathlib
import shutil

from kt_jax import core

_HERE, _EXCHANGE = -100, 2  # AT_FDCWD, RENAME_EXCHANGE of Linux


def choose(out, overwrite: bool, inputs: Sequence[str | pathlib.Path]
           ) -> pathlib.Path:
  """The directory to make, without links and dots.

  Args:
    out: as the user has it.
    overwrite: whether a checkpoint that is there may be replaced.
    inputs: paths that must not go with it.

  Raises:
    UserError: there is something else, or an input lies in it.
  """
  path = pathlib.Path(os.path.realpath(os.path.expanduser(out)))
  if not path.parent.is_dir():
    raise core.UserError(f'{path.parent}: no such directory.')
  if os.path.lexists(path) and not path.is_dir():
    raise core.UserError(f'{out}: is there already and no directory; name '
                         'another.')
  if not path.is_dir() or not any(path.iterdir()):
    return path
  if not overwrite:
    raise core.UserError(f'{out}: is there already; name another directory or '
                         'add --overwrite.')
  for one in inputs:
    real = pathlib.Path(os.path.realpath(os.path.expanduser(one)))
    if real.exists() and path in real.parents:
      raise core.UserError(f'{out}: has {one} in it, which --overwrite would '
                           'remove; name another directory.')
  if not any(path.glob('*.safetensors')):
    raise core.UserError(f'{out}: --overwrite replaces a checkpoint, and there '
                         'is none; name another directory.')
  return path


@contextlib.contextmanager
def workspace(out: pathlib.Path) -> Iterator[pathlib.Path]:
  """A hidden folder beside `out`, gone afterwards; one run at a time.

  Raises:
    UserError: another process has it.
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


def put(made: pathlib.Path, out: pathlib.Path, overwrite: bool) -> None:
  """Moves the result to its place at once.

  What was there comes to lie in the workspace and goes with it.

  Raises:
    UserError: something came to be there meanwhile, and not `overwrite`.
  """
  for path in (*made.iterdir(), made):
    _sync(path)
  try:
    os.rename(made, out)  # onto an empty directory too
  except OSError as e:
    if e.errno not in (errno.ENOTEMPTY, errno.EEXIST):
      raise
    if not overwrite:
      raise core.UserError(f'{out}: has been made by another meanwhile.') from e
    if not _exchange(made, out):
      os.rename(out, made.parent / 'replaced')
      os.rename(made, out)
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
  with open(lock, 'a') as file:  # pylint: disable=unspecified-encoding
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
      mine = os.path.samestat(os.fstat(file.fileno()), os.stat(lock))
    except (BlockingIOError, FileNotFoundError):
      mine = False
    if not mine:  # or the one who had it has just removed it
      raise core.UserError(f'{out}: another process is writing it.')
    try:
      yield
    finally:
      lock.unlink(missing_ok=True)
