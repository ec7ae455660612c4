"""Look-up of names, with the nearest valid one in the error."""
from collections.abc import Iterable
import difflib
import importlib
import inspect
from types import ModuleType
from typing import Any

# Words of the field -> names of this library, in the order of preference; the
# last may be the group that has the key. difflib finds what is only misspelled.
_SYNONYMS = {
    'arch': ('model',),
    'batch_size': ('size', 'batch'),
    'bs': ('batch_size', 'size', 'batch'),
    'ckpt': ('checkpoint', 'init_from'),
    'dataset': ('data',),
    'epochs': ('steps', 'loop'),
    'iterations': ('steps', 'loop'),
    'lr': ('learning_rate', 'optimizer'),
    'opt': ('optimizer',),
    'pretrained': ('init_from',),
    't': ('temperature',),
    'tau': ('temperature',),
    'temp': ('temperature',),
    'wd': ('weight_decay', 'l2', 'optimizer'),
    'weight_decay': ('l2', 'optimizer'),
}


class UserError(ValueError):
  """Invalid input; the launcher prints its message without a traceback."""


def nearest(what: str, name: str, choices: Iterable[str]) -> str:
  """`No loss 'kdd'. Did you mean 'kd'? Have: ...` (one line).

  Args:
    what: the word for it ('loss', 'setting of kd').
    name: the unknown name; of a dotted one the last part may be a synonym.
    choices: the names that are allowed.
  """
  choices = sorted(map(str, choices))
  close = difflib.get_close_matches(str(name), choices, n=10, cutoff=0.4)
  group, dot, word = str(name).rpartition('.')
  synonyms = [group + dot + other for other in _SYNONYMS.get(word.lower(), ())]
  close = list(dict.fromkeys([s for s in synonyms if s in choices] + close))
  hint = f' Did you mean {close[0]!r}?' if close else ''
  shown = ', '.join(choices)
  if len(choices) > 40:
    shown = ', '.join(close or choices[:10]) + f', ... ({len(choices)} in all)'
  return f'No {what} {name!r}.{hint} Have: {shown or "none"}.'


def resolve(namespace: ModuleType | None, name: str, what: str,
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
    choices = {n: v for n, v in (vars(namespace) if namespace else {}).items()
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
