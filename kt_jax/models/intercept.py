"""Handlers around the calls of a model's modules.

`nnx.capture` records what modules return; a handler also sees their inputs.
"""
from collections.abc import Callable, Generator
import contextlib
import contextvars
import functools
from typing import Any

from flax import nnx

_handler = contextvars.ContextVar('handler')


@contextlib.contextmanager
def intercept(model: nnx.Module, kinds: type | tuple[type, ...],
              handler: Callable[..., Any]) -> Generator[None]:
  """A context in which calls of some of a model's modules go to `handler`.

  Only these instances change, and only until the end; other models and threads
  that use the same classes do not.

  Args:
    model: owner of the modules; not shared with other code, as in `call`.
    kinds: classes, subclasses included.
    handler: `(path, module, call, *args, **kw)`; returns the module's output,
      which `call(*args, **kw)` computes.
  """
  modules = [(path, module) for path, module in nnx.iter_modules(model)
             if isinstance(module, kinds)]
  paths = {id(module): '/'.join(map(str, path)) for path, module in modules}
  classes = [type(module) for _, module in modules]
  for _, module in modules:
    object.__setattr__(module, '__class__', _intercepted(type(module)))
  token = _handler.set(lambda module, call, *args, **kw: handler(
      paths[id(module)], module, call, *args, **kw))
  try:
    yield
  finally:
    _handler.reset(token)
    for (_, module), cls in zip(modules, classes):
      object.__setattr__(module, '__class__', cls)


@functools.cache
def _intercepted(cls: type) -> type:
  """The subclass of `cls` with calls that go to the handler."""
  class Intercepted(cls):

    def __call__(self, *args, **kw):
      return _handler.get()(self, super().__call__, *args, **kw)

  return Intercepted
