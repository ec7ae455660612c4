"""Look-up of names, with the nearest valid one in the error."""
from collections.abc import Iterable
import difflib
import importlib
import inspect
from types import ModuleType
from typing import Any


class UserError(ValueError):
  """Invalid input; the launcher prints its message without a traceback."""


def nearest(what: str, name: str, choices: Iterable[str]) -> str:
  """`No loss 'kdd'. Did you mean 'kd'? Have: ...` (one line)."""
  choices = sorted(map(str, choices))
  close = difflib.get_close_matches(str(name), choices, n=10, cutoff=0.4)
  hint = f' Did you mean {close[0]!r}?' if close else ''
  have = ', '.join(choices)
  if len(choices) > 40:
    have = ', '.join(close or choices[:10]) + f', ... ({len(choices)} in all)'
  return f'No {what} {name!r}.{hint} Have: {have or "none"}.'


def resolve(namespace: ModuleType, name: str, what: str,
            takes: str | None = None) -> Any:
  """The public function `name` of `namespace`, or the user's `module:function`.

  Args:
    namespace: a package of kt_jax; its exports are the registry.
    name: a public name there, or `package.module:function`.
    what: the word for it in errors ('loss', 'model').
    takes: only functions with a positional parameter of this name are meant.

  Returns:
    The function.

  Raises:
    UserError: no such name; the message has the nearest one.
  """
  if ':' in name:
    module, _, attribute = name.partition(':')
    try:
      module = importlib.import_module(module)
    except (ImportError, TypeError, ValueError) as e:
      raise UserError(f'{what} {name!r}: {e}. The module must be importable '
                      'from where the command runs.') from e
    choices = {n: v for n, v in vars(module).items() if callable(v)}
    name = attribute
  else:
    choices = {n: v for n, v in vars(namespace).items()
               if not n.startswith('_')
               and (inspect.isfunction(v) or inspect.isclass(v))
               and (takes is None or _takes(v, takes))}
  if name not in choices:
    raise UserError(nearest(what, name, choices))
  return choices[name]


def _takes(fn, name: str) -> bool:
  parameter = inspect.signature(fn).parameters.get(name)
  return parameter is not None and (
      parameter.kind is parameter.POSITIONAL_OR_KEYWORD)
