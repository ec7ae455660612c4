"""Specs: frozen dataclasses as the schema of what a run can be told.

A spec is a dataclass whose fields are numbers, strings, tuples, other specs,
and mappings from names to specs or to free settings. `build` makes one from
nested mappings such as a config or a JSON file; a key that does not exist, at
any depth, is refused with the nearest one that does.
"""
from collections.abc import Callable, Mapping
import dataclasses
import functools
import hashlib
import inspect
import json
import types
import typing
from typing import Any, Literal, TypeVar

from kt_jax.core.names import nearest
from kt_jax.core.names import UserError

T = TypeVar('T')


def build(cls: type[T], value: Any, where: str = 'config') -> T:
  """The spec of class `cls` that nested mappings describe.

  Args:
    cls: a frozen dataclass.
    value: mapping from fields to values (a dict, a ConfigDict), or an instance
      of `cls`, whose fields are checked.
    where: path of `value`, for errors.

  Raises:
    UserError: a field that does not exist, is missing or has another type.

  Example:
    >>> build(Optimizer, {'lr': 0.1}, 'config.optimizer')
    UserError: No key of config.optimizer 'lr'. Did you mean 'learning_rate'?
  """
  replace: Callable[..., T] = dataclasses.replace
  if isinstance(value, cls):
    return replace(value, **{
        key: convert(hint, getattr(value, key), f'{where}.{key}')
        for key, hint in field_types(type(value)).items()})
  hints = field_types(cls)
  items = _items(value, cls, where)
  for key in items:
    if key not in hints:
      raise UserError(nearest(f'key of {where}', key, hints))
  kw = {key: convert(hints[key], item, f'{where}.{key}')
        for key, item in items.items()}
  missing = [f.name for f in _fields(cls) if f.name not in kw
             and f.default is f.default_factory is dataclasses.MISSING]
  if missing:
    raise UserError(f'{where} needs {", ".join(missing)}.')
  return cls(**kw)


def change(spec: T, changes: Any, where: str = 'config') -> T:
  """A copy of `spec` with nested changes.

  Fields that are specs and mappings are changed in turn, everything else is
  replaced. Where changes give the `name` of a function, its settings `kw` start
  empty: those of another function would not fit.

  Args:
    spec: what to change.
    changes: mapping from fields to values or nested changes.
    where: path of `changes`, for errors.

  Raises:
    UserError: as `build`.
  """
  cls = type(spec)
  hints, new = field_types(cls), {}
  items = _items(changes, cls, where)
  for key, item in items.items():
    if key not in hints:
      raise UserError(nearest(f'key of {where}', key, hints))
    old = getattr(spec, key)
    if key == 'kw' and 'name' in items:
      old = {}
    new[key] = _changed(hints[key], old, item, f'{where}.{key}')
  if 'name' in items and 'kw' in hints and 'kw' not in items:
    new['kw'] = {}
  replace: Callable[..., T] = dataclasses.replace
  return replace(spec, **new)


def to_dict(spec: Any) -> Any:
  """Nested dicts, tuples and plain values, fit for JSON but for tuples.

  Functions become `module:function`; other objects the name of their class, or
  what their method `spec_key()` returns. Where names do not tell functions
  apart (lambdas, those that another function has made, optax's
  transformations), a digest of what they hold follows.
  """
  if dataclasses.is_dataclass(spec) and not isinstance(spec, type) and (
      not hasattr(spec, 'spec_key')):
    return {f.name: to_dict(getattr(spec, f.name))
            for f in dataclasses.fields(spec)}
  if isinstance(spec, Mapping):
    return {str(key): to_dict(value) for key, value in spec.items()}
  if isinstance(spec, (tuple, list)) and not hasattr(spec, '_fields'):
    return tuple(map(to_dict, spec))
  if spec is None or isinstance(spec, (bool, int, float, str)):
    return spec
  if hasattr(spec, 'spec_key'):
    return spec.spec_key()
  if hasattr(spec, 'item') and getattr(spec, 'ndim', None) == 0:
    return spec.item()
  content = _content(spec)
  if isinstance(content, str):
    return content
  text = repr(content).encode()
  return f'{_name(spec)}#{hashlib.blake2b(text, digest_size=8).hexdigest()}'


def _name(value) -> str:
  value = value if hasattr(value, '__qualname__') else type(value)
  return f'{value.__module__}:{value.__qualname__}'


def _content(value, outer=()) -> Any:
  """Text, or nested tuples of text, that tell functions apart."""
  value = inspect.unwrap(value) if callable(value) else value
  if any(value is x for x in outer):  # a function that calls itself
    return ''
  nested = lambda *parts: tuple(_content(x, (*outer, value)) for x in parts)
  if isinstance(value, functools.partial):
    return nested(value.func, *value.args, value.keywords)
  if inspect.ismethod(value):
    return nested(value.__func__, value.__self__)
  if inspect.isfunction(value) and '<' in value.__qualname__:
    cells = [x.cell_contents for x in value.__closure__ or ()]
    code = value.__code__ if '<lambda>' in value.__qualname__ else None
    return (_name(value), *nested(
        code, *cells, value.__defaults__, value.__kwdefaults__))
  if inspect.iscode(value):
    return value.co_code.hex(), value.co_names, nested(*value.co_consts)
  if isinstance(value, (tuple, list)):
    return nested(*value)
  if isinstance(value, Mapping):
    return nested(*value.items())
  if value is None or isinstance(value, (bool, int, float, str)):
    return repr(value)
  if hasattr(value, 'dtype') and hasattr(value, 'tobytes'):
    small = value.size <= 1 << 16
    return (str(value.dtype), str(value.shape),
            value.tobytes().hex() if small else '')
  return _name(value)


def to_json(spec: Any) -> Any:
  """`to_dict` as JSON gives it back: lists in place of tuples."""
  return json.loads(json.dumps(to_dict(spec)))


@functools.cache
def field_types(cls: type) -> dict[str, Any]:
  """Field -> type of a dataclass."""
  hints = typing.get_type_hints(cls)
  return {f.name: hints[f.name] for f in _fields(cls)}


def _fields(cls: Any) -> tuple[dataclasses.Field[Any], ...]:
  return dataclasses.fields(cls)


def convert(hint: Any, value: Any, where: str) -> Any:
  """`value` as the type `hint` of a field.

  Raises:
    UserError: it is of another type.
  """
  if hint is Any:
    return plain(value)
  origin, args = typing.get_origin(hint), typing.get_args(hint)
  if dataclasses.is_dataclass(hint):
    return build(typing.cast(type, hint), value, where)
  if origin is Literal:
    if value not in args:
      raise UserError(nearest(f'value of {where}', value, args))
    return value
  if origin in (typing.Union, types.UnionType):
    return _either(args, value, where)
  if origin is tuple:
    return _tuple(args, value, where)
  if origin is not None and issubclass(origin, Mapping):
    return {key: convert(args[1], item, f'{where}.{key}')
            for key, item in _items(value, dict, where).items()}
  if origin is not None and issubclass(origin, Callable):
    if callable(value):
      return value
    raise UserError(f'{where} must be a function, got {value!r}.')
  if hint in (bool, int, float) and getattr(value, 'ndim', None) == 0:
    value = value.item()  # of NumPy
  if hint is float and isinstance(value, int) and not isinstance(value, bool):
    return float(value)
  if hint is tuple and isinstance(value, list):
    return tuple(map(plain, value))
  if not isinstance(value, hint) or (
      isinstance(value, bool) and hint is not bool):
    raise UserError(f'{where} must be {_shown(hint)}, got {value!r}.')
  return value


def plain(value: Any) -> Any:
  """Mappings as dicts, lists as tuples, everything else as it is."""
  if hasattr(value, 'to_dict'):
    value = value.to_dict()
  if isinstance(value, Mapping):
    return {key: plain(item) for key, item in value.items()}
  if isinstance(value, list) or type(value) is tuple:
    return tuple(map(plain, value))
  return value


def _items(value, cls, where) -> dict[str, Any]:
  if isinstance(value, Mapping) or hasattr(value, 'items'):
    return dict(value.items())
  kind = 'a mapping' if cls is dict else f'{_shown(cls)} or a mapping'
  raise UserError(f'{where} must be {kind}, got {value!r}.')


def _changed(hint, old, item, where):
  """One field of `change`."""
  if dataclasses.is_dataclass(old) and not isinstance(item, type(old)):
    if isinstance(item, Mapping) or hasattr(item, 'items'):
      return change(old, item, where)
  elif isinstance(old, Mapping):
    args = typing.get_args(hint)
    entry = args[1] if args else Any
    new = dict(old)
    for key, one in _items(item, dict, where).items():
      there = old.get(key)
      nested = dataclasses.is_dataclass(there) or (
          entry is Any and isinstance(there, Mapping)
          and hasattr(one, 'items'))
      new[key] = (_changed(entry, there, one, f'{where}.{key}') if nested
                  else convert(entry, one, f'{where}.{key}'))
    return new
  return convert(hint, item, where)


def _either(args, value, where):
  """`value` as the first type of a union that takes it."""
  if value is None and type(None) in args:
    return None
  specs = [a for a in args if dataclasses.is_dataclass(a)]
  for spec in specs:
    if isinstance(value, spec):
      return build(spec, value, where)
  if specs and hasattr(value, 'items'):  # the spec that has the most keys of it
    keys = set(value.keys())
    best = max(specs, key=lambda a: len(keys & set(field_types(a))))
    return build(best, value, where)
  problem = None
  for arg in args:
    try:
      return convert(arg, value, where)
    except UserError as e:
      problem = problem or e
  if len([a for a in args if a is not type(None)]) == 1 and problem:
    raise problem
  raise UserError(f'{where} must be {" or ".join(map(_shown, args))}, '
                  f'got {value!r}.')


def _tuple(args, value, where):
  if not isinstance(value, (tuple, list)):
    raise UserError(f'{where} must be a tuple, got {value!r}.')
  if len(args) == 2 and args[1] is Ellipsis:
    return tuple(convert(args[0], x, f'{where}[{i}]')
                 for i, x in enumerate(value))
  if len(args) != len(value):
    raise UserError(f'{where} must have {len(args)} entries, got {value!r}.')
  return tuple(convert(a, x, f'{where}[{i}]')
               for i, (a, x) in enumerate(zip(args, value)))


def _shown(hint) -> str:
  names = {bool: 'True or False', int: 'an integer', float: 'a number',
           str: 'a string', tuple: 'a tuple', type(None): 'None'}
  if hint in names:
    return names[hint]
  if typing.get_origin(hint) is Literal:
    return ' or '.join(map(repr, typing.get_args(hint)))
  if typing.get_origin(hint) is tuple:
    return 'a tuple'
  origin = typing.get_origin(hint)
  if origin is not None and issubclass(origin, Mapping):
    return 'a mapping'
  if origin is not None and issubclass(origin, Callable):
    return 'a function'
  name = getattr(hint, '__name__', str(hint))
  return f'an {name}' if name[0] in 'AEIO' else f'a {name}'
