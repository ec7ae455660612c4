"""Call-by-name of losses, scores and modules."""
from collections.abc import Callable, Mapping
import inspect
from typing import Any

from kt_jax.core.names import nearest
from kt_jax.core.names import UserError


def bind(fn: Callable[..., Any], pool: Mapping[str, Any], /, **settings) -> Any:
  """Calls `fn`, taking each array parameter from `pool` by name.

  Positional-or-keyword parameters are arrays and must be in `pool` unless they
  have a default; keyword-only parameters are settings and come from `settings`.

  Args:
    fn: a loss, a score, a module or the class of one.
    pool: name -> array, at least those that `fn` needs.
    **settings: keyword-only parameters of `fn`.

  Returns:
    The result of `fn`.

  Raises:
    UserError: an array is missing or `fn` has no such setting.
  """
  # A class may have a metaclass that hides the parameters of its __init__.
  is_class = inspect.isclass(fn)
  params = list(inspect.signature(fn.__init__ if is_class else fn
                                  ).parameters.values())[is_class:]
  fn_name = getattr(fn, '__qualname__', type(fn).__qualname__)
  arrays = [p for p in params if p.kind is p.POSITIONAL_OR_KEYWORD]
  allowed = [p.name for p in params if p.kind is p.KEYWORD_ONLY]
  missing = [p.name for p in arrays
             if p.default is p.empty and p.name not in pool]
  if missing:
    raise UserError(
        f'{fn_name} needs {missing}; this run has {sorted(pool)}.')
  for name in settings:
    if name not in allowed:
      raise UserError(nearest(f'setting of {fn_name}', name, allowed))
  return fn(**{p.name: pool[p.name] for p in arrays if p.name in pool},
            **settings)
