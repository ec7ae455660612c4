"""Changes of a spec from the command line, typed by its fields."""
import ast
from collections.abc import Mapping, Sequence
import dataclasses
import re
import types
import typing
from typing import Any

from kt_jax import core


def override(spec: Any, overrides: Sequence[tuple[str, str]]) -> Any:
  """`spec` with values set by dotted keys.

  Args:
    spec: a dataclass.
    overrides: `(key, text)`, such as `('loop.steps', '200')`. Entries of
      mappings may be new.

  Raises:
    UserError: no such key, or a value of another type.
  """
  changes: dict[str, Any] = {}
  for key, text in overrides:
    node, parts = changes, key.split('.')
    for name in parts[:-1]:
      node = node.setdefault(name, {})
      if not isinstance(node, dict):
        raise core.UserError(f'--config.{key}: config.{name} is set as a whole '
                             'by another flag.')
    node[parts[-1]] = _value(spec, type(spec), parts, text)
  return core.spec.change(spec, changes)


def _value(spec, hint, parts, text) -> Any:
  """The value that `text` stands for at the end of a path."""
  value, key = spec, '.'.join(parts)
  for i, name in enumerate(parts):
    hint = _spec_class(hint, value)
    if dataclasses.is_dataclass(hint):
      fields = core.spec.field_types(typing.cast(type, hint))
      if name not in fields:
        prefix = '.'.join((*parts[:i], ''))
        raise core.UserError(core.nearest(
            'config key', key, [prefix + field for field in fields]))
      hint, value = fields[name], getattr(value, name, None)
    elif hint is Any or _is_mapping(hint):
      if not name:
        raise core.UserError(f'--config.{key}: a name is missing.')
      arguments = typing.get_args(hint)
      hint = arguments[1] if arguments else Any
      value = value.get(name) if isinstance(value, Mapping) else None
    else:
      raise core.UserError(f'--config.{key}: config.{".".join(parts[:i])} is '
                           'not a group.')
  return parse(hint, value, text, key)


def parse(hint: Any, old: Any, text: str, key: str) -> Any:
  """`text` as a value for a field of type `hint`, now `old`."""
  truth = {'true': True, 'false': False}.get(text.strip().lower())
  try:
    new = ast.literal_eval(text.strip())
  except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
    new = text if truth is None else truth
  options = typing.get_args(hint) if _is_union(hint) else (hint,)
  kinds = {typing.get_origin(option) or option for option in options}
  entries = {a for option in options if typing.get_origin(option) is tuple
             for a in typing.get_args(option)}
  group = _spec_class(hint, old)
  if dataclasses.is_dataclass(group) or _is_mapping(hint) or (
      isinstance(old, Mapping)):
    if isinstance(new, dict):
      return new
    names = list(core.spec.field_types(typing.cast(type, group))) if (
        dataclasses.is_dataclass(group)) else list(old or {})
    raise core.UserError(
        f'--config.{key} is a group; set one of its keys: '
        f'{", ".join(f"{key}.{name}" for name in names) or f"{key}.NAME"}.')
  if tuple in kinds or isinstance(old, tuple):
    if isinstance(new, str) and not re.search(r'[()\[\]{}]', new) and (
        ',' in new or str not in kinds):
      return tuple(s.strip() for s in new.split(',') if s.strip())
    if isinstance(new, (tuple, list)):
      return tuple(new)
    if type(new) in (int, float, bool) and not kinds & {int, float}:
      return (text.strip(),) if str in entries else (new,)
  if str in kinds or typing.Literal in kinds or isinstance(old, str):
    return new if isinstance(new, str) and truth is None else text
  return new


def _spec_class(hint, value) -> Any:
  """The dataclass of a field whose type may be a union."""
  if dataclasses.is_dataclass(value) and not isinstance(value, type):
    return type(value)
  if _is_union(hint) and value is None:
    specs = [a for a in typing.get_args(hint) if dataclasses.is_dataclass(a)]
    return specs[0] if specs else hint
  return hint


def _is_union(hint) -> bool:
  return typing.get_origin(hint) in (typing.Union, types.UnionType)


def _is_mapping(hint) -> bool:
  origin = typing.get_origin(hint)
  return isinstance(origin, type) and issubclass(origin, Mapping)
