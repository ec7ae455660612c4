"""Libraries that come with an extra of the package, not with its core."""
import importlib.util


def require(extra: str, user: str, *libraries: str) -> None:
  """Checks that libraries are installed, without importing them.

  Args:
    extra: of `setup.py`, which has them.
    user: package or command that needs them, for the message.
    *libraries: names of modules.

  Raises:
    ImportError: one of them is missing; one line that names the extra.
  """
  missing = [name for name in libraries
             if importlib.util.find_spec(name) is None]
  if missing:
    raise ImportError(f'{user} needs {", ".join(missing)}; install the extra: '
                      f"pip install 'kt_jax[{extra}]'")
