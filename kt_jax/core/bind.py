"""Calls a function with the arrays its parameter names ask for."""
from collections.abc import Callable, Mapping
import inspect
from typing import Any

from kt_jax.core.names import nearest


def bind(fn: Callable[..., Any], pool: Mapping[str, Any], /, **settings) -> Any:
  """Calls `fn`, taking each array parameter from `pool` by its name.

  Positional-or-keyword parameters are arrays and must be in `pool` unless they
  have a default; keyword-only parameters are settings and come from `settings`.

  Args:
    fn: a loss, a score, a module or the class of one.
    pool: name -> array, at least those that `fn` needs.
    **settings: keyword-only parameters of `fn`.

  Returns:
    What `fn` returns.

  Raises:
    ValueError: an array is lacking or a setting is not one of `fn`'s.
  """
  # A class may have a metaclass that hides the parameters of its __init__.
  makes = inspect.isclass(fn)
  params = list(inspect.signature(fn.__init__ if makes else fn
                                  ).parameters.values())[makes:]
  called = getattr(fn, '__qualname__', type(fn).__qualname__)
  arrays = [p for p in params if p.kind is p.POSITIONAL_OR_KEYWORD]
  known = [p.name for p in params if p.kind is p.KEYWORD_ONLY]
  lacking = [p.name for p in arrays
             if p.default is p.empty and p.name not in pool]
  if lacking:
    raise ValueError(
        f'{called} needs {lacking}; this run has {sorted(pool)}.')
  for name in settings:
    if name not in known:
      raise ValueError(nearest(f'setting of {called}', name, known))
  return fn(**{p.name: pool[p.name] for p in arrays if p.name in pool},
            **settings)
