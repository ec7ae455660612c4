"""The process of a launch: its output, its cache, its exit status."""
import contextlib
import logging
import os
import pathlib
import re
import sys
import sysconfig
import traceback
import warnings
import zlib


def report(e: Exception, debug: bool = False) -> int:
  """Prints an exception; returns 2 for a user error, 1 for an internal one."""
  from kt_jax import core
  stdlib = sysconfig.get_paths()['stdlib']
  frames = traceback.extract_tb(e.__traceback__)
  own = [f for f in frames if 'site-packages' not in f.filename
         and not f.filename.startswith((stdlib, '<'))] or frames
  where = ''.join(f'{os.path.relpath(f.filename)}:{f.lineno}'
                  for f in own[-1:])
  message = ' '.join(str(e).split()) or type(e).__name__
  if hasattr(e, 'run_label'):
    message = f'{e.run_label}: {message}'
  no_memory = 'RESOURCE_EXHAUSTED' in message or isinstance(e, MemoryError)
  # A setting that a function does not have came from the config's `kw`.
  setting = isinstance(e, TypeError) and 'keyword argument' in message
  users = no_memory or setting or isinstance(
      e, (ValueError, OSError, ModuleNotFoundError))
  if debug or not users:
    traceback.print_exception(e)
  if isinstance(e, core.UserError):
    print(f'error: {message}', file=sys.stderr)
  elif users:
    hint = 'Out of memory; a smaller batch needs less. ' * no_memory
    print(f'error: {hint}{message} (at {where}; --debug shows the traceback)',
          file=sys.stderr)
  else:
    print(f'internal error: {type(e).__name__} at {where}: {message}',
          file=sys.stderr)
  return 2 if users else 1


class _Show(logging.Handler):
  """Warnings as `warning: ...` on the current stderr."""

  def emit(self, record):
    print(f'{record.levelname.lower()}: {record.getMessage()}',
          file=sys.stderr)


def quiet() -> None:
  """Shows warnings of kt_jax and hides those of the libraries."""
  os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')  # before jax: XLA reads it
  from absl import logging as absl_logging
  absl_logging.set_verbosity(absl_logging.ERROR)
  logging.getLogger().setLevel(logging.ERROR)
  logger = logging.getLogger('kt_jax')
  logger.setLevel(logging.WARNING)
  logger.propagate = False
  logger.handlers = [_Show()]
  if not sys.warnoptions:
    warnings.filterwarnings(
        'ignore', module=r'(orbax|absl|etils|tensorflow|tensorboardX|google)\b')
    # An entry cut short, a full disk: JAX compiles, nothing else is lost.
    warnings.filterwarnings(
        'ignore', message='Error (reading|writing) persistent compilation')


def use_compilation_cache() -> None:
  """Keeps compiled programs in the user's cache folder."""
  import jax

  from kt_jax import data
  if os.environ.get('JAX_COMPILATION_CACHE_DIR'):
    return
  with contextlib.suppress(OSError):  # not writable: compile each time
    # A home folder may serve machines of several kinds; programs for the CPU
    # are for one. JAX's own key does not hold the kind.
    kind = ''
    with contextlib.suppress(OSError):
      kind = re.findall(r'flags.*|Features.*|$',
                        pathlib.Path('/proc/cpuinfo').read_text())[0]
    folder = os.path.join(data.cache_dir(), 'xla',
                          f'{zlib.crc32(kind.encode()):08x}')
    os.makedirs(folder, exist_ok=True)
    if os.access(folder, os.W_OK):
      jax.config.update('jax_compilation_cache_dir', folder)
      jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.5)
