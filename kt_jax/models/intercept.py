"""Stands between a model and calls of its modules, for as long as it is asked.

`nnx.capture` sees what modules return; this sees what they are given.
"""
from collections.abc import Callable, Iterator
import contextlib
import contextvars
import functools
from typing import Any

from flax import nnx

_handler = contextvars.ContextVar('handler')


@contextlib.contextmanager
def intercept(model: nnx.Module, kinds: type | tuple[type, ...],
              handler: Callable[..., Any]) -> Iterator[None]:
  """Within it, calls of the model's modules of some kinds go to `handler`.

  Only these instances change, and only until the end: other models, and other
  threads that use the same classes, see nothing.

  Args:
    model: whose modules; take one that nobody else holds, as in `call`.
    kinds: classes, subclasses included.
    handler: `(path, module, call, *args, **kw)`; returns the module's output,
      which `call(*args, **kw)` computes.
  """
  found = [(path, module) for path, module in nnx.iter_modules(model)
           if isinstance(module, kinds)]
  paths = {id(module): '/'.join(map(str, path)) for path, module in found}
  classes = [type(module) for _, module in found]
  for _, module in found:
    object.__setattr__(module, '__class__', _intercepted(type(module)))
  token = _handler.set(lambda module, call, *args, **kw: handler(
      paths[id(module)], module, call, *args, **kw))
  try:
    yield
  finally:
    _handler.reset(token)
    for (_, module), cls in zip(found, classes):
      object.__setattr__(module, '__class__', cls)


@functools.cache
def _intercepted(cls: type) -> type:
  """A subclass whose calls go to the handler; one per class, for ever."""
  class Intercepted(cls):

    def __call__(self, *args, **kw):
      return _handler.get()(self, super().__call__, *args, **kw)

  return Intercepted
