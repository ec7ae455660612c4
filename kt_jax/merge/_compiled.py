"""Operators compiled once for many leaves and many values of their settings."""
from collections.abc import Callable, Mapping
import functools
from typing import Any

import jax
from jax import numpy as jnp
import numpy as np


class Compiled:
  """A leaf operator, or a measure of one, ready to be called.

  Settings that are fractions or arrays are arguments of the program, so that a
  gradient over a hundred layers compiles once; equal programs are shared.
  Trees and streams both call operators through this class: a compiler may fuse
  a product into a sum, and the same operator compiled in another way may differ
  in the last bit.
  """

  def __init__(self, fn: Callable[..., Any], settings: Mapping[str, Any],
               static: tuple[str, ...] = (),
               finish: Callable[..., Any] | None = None,
               finish_key: Any = ()):
    """Splits the settings.

    Args:
      fn: takes `base, models, weight, *extras` and settings.
      settings: of one leaf.
      static: names of settings that are not traced (`Contract.static`).
      finish: `(result, base, models, weight)` -> result, compiled with `fn`.
      finish_key: hashable; equal for equal `finish`.
    """
    self._fn, self._finish = fn, finish
    self._traced = {n: v for n, v in settings.items()
                    if _traceable(v) and (n not in static or _traced(v))}
    self._fixed = {n: v for n, v in settings.items() if n not in self._traced}
    self._key = fn, repr(sorted(self._fixed.items())), finish_key

  def __hash__(self):
    return hash(self._key)

  def __eq__(self, other):
    return self._key == other._key  # pylint: disable=protected-access

  def check(self, base, models, weight, *extras, **more) -> None:
    """Raises what the operator raises at settings that are not traced."""
    settings = self._fixed | self._traced | more
    jax.eval_shape(lambda b, *m: self._fn(b, jnp.stack(m), weight, *extras,
                                          **settings), base, *models)

  def __call__(self, base, models, weight, *extras, **more):
    """The result for one leaf; `models` is `[T, ...]` or T arrays."""
    traced = {n: jnp.asarray(v) if _traced(v) else v
              if isinstance(v, jax.Array) else np.asarray(v, np.float32)
              for n, v in self._traced.items()}
    return _program(self)(base, models, weight, extras, traced | more)


@functools.lru_cache(maxsize=256)
def _program(call):
  # pylint: disable-next=protected-access
  fn, fixed, finish = call._fn, call._fixed, call._finish

  def run(base, models, weight, extras, traced):
    stack = jnp.stack(models) if isinstance(models, tuple) else models
    out = fn(base, stack, weight, *extras, **traced, **fixed)
    return finish(out, base, models, weight) if finish else out
  return jax.jit(run)


def _traced(value) -> bool:
  """Whether a value belongs to an outer program: no cache key can hold it."""
  if isinstance(value, (list, tuple)):
    return any(map(_traced, value))
  return isinstance(value, jax.core.Tracer)


def _traceable(value) -> bool:
  if isinstance(value, (list, tuple)):
    return bool(value) and all(map(_traceable, value))
  return isinstance(value, (float, jax.Array, np.ndarray, np.floating))
