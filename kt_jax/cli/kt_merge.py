"""`kt-merge`: what must be said before JAX is imported, then `main`."""
import contextlib
import ctypes
import os
import sys

_ARENA_MAX, _MMAP_THRESHOLD, _TRIM_THRESHOLD = -8, -3, -1  # of glibc's mallopt


def main() -> int:
  """Entry point of the console script."""
  # Merging is bound by memory and disk; an accelerator would only be in the
  # way. Workers are the parallelism: XLA runs one thread for each.
  os.environ.setdefault('JAX_PLATFORMS', 'cpu')
  os.environ['XLA_FLAGS'] = (os.environ.get('XLA_FLAGS', '') +
                             ' --xla_cpu_multi_thread_eigen=false').strip()
  keep_pages()
  # pylint: disable=import-outside-toplevel
  from kt_jax.core import _extras
  try:
    _extras.require('merge', 'kt-merge', 'etils', 'ml_dtypes', 'orbax',
                    'safetensors', 'tqdm', 'xxhash', 'yaml')
  except ImportError as e:
    print(e, file=sys.stderr)
    return 2
  from kt_jax.cli import main as command
  return command.main()


def keep_pages() -> None:
  """Blocks that are freed and taken again all the time come from one arena.

  glibc's arena for each thread would grow, and fresh pages cost more than the
  merge itself.
  """
  with contextlib.suppress(AttributeError, OSError):  # another libc
    libc = ctypes.CDLL(None)
    for option, value in ((_ARENA_MAX, 1), (_MMAP_THRESHOLD, 2 ** 25),
                          (_TRIM_THRESHOLD, 2 ** 28)):
      libc.mallopt(option, value)


if __name__ == '__main__':
  sys.exit(main())
