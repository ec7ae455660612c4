"""Fields of a recipe, checked for their kind; errors say where."""
from typing import Any

from kt_jax import core


def model(part, where) -> str:
  found = reference(part.get('model'), where + '.model')
  if not found:
    raise core.UserError(f'{where} has no model.')
  return found


def reference(value, where) -> str | None:
  """'path' or 'path+adapter path'; mergekit's long form becomes the short."""
  if value is None:
    return None
  if isinstance(value, dict):
    value = keys(value, where, ('model', 'lora', 'override_architecture'))
    if value.get('override_architecture'):
      raise core.UserError(f'{where}.override_architecture is not offered: '
                           'tensors are merged by name, whatever the '
                           'architecture is called.')
    parts = [_path(value.get(k), f'{where}.{k}') for k in ('model', 'lora')]
    if parts[0] is None:
      raise core.UserError(f'{where} has no model.')
    value = '+'.join(p for p in parts if p)
  if not isinstance(value, str) or not value:
    raise core.UserError(f'{where} must be the path of a model, got {value!r}.')
  if value.count('+') > 1 or not all(value.split('+')):
    raise core.UserError(f'{where} must be path or path+adapter path, got '
                         f'{value!r}.')
  return value


def _path(value, where):
  if isinstance(value, dict):
    value = keys(value, where, ('path', 'revision'))
    if value.get('revision'):
      raise core.UserError(f'{where}.revision: nothing is downloaded; fetch '
                           f'{value["revision"]!r} and give its directory.')
    value = value.get('path')
  if value is not None and not isinstance(value, str):
    raise core.UserError(f'{where} must be a path, got {value!r}.')
  return value


def keys(value, where, known) -> dict[str, Any]:
  for key in mapping(value, where):
    if key not in known:
      raise core.UserError(core.nearest(f'key of {where}', key, known))
  return value


def mapping(value, where) -> dict:
  if not isinstance(value, dict):
    raise core.UserError(f'{where} must be a mapping, got {value!r:.60}.')
  return value


def sequence(value, where) -> list:
  if not isinstance(value, list) or not value:
    raise core.UserError(f'{where} must be a list of at least one entry, got '
                         f'{value!r:.60}.')
  return value


def text(part, key, where) -> str | None:
  value = part.get(key)
  if value is not None and not isinstance(value, str):
    raise core.UserError(f'{where}: {key} must be text, got {value!r}.')
  return value
