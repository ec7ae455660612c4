"""YAML of unknown origin, and its fields; errors name the place."""
import itertools
import math
import re
from typing import Any

import yaml

from kt_jax import core

BYTES = 1_000_000
_DEPTH = 24
_NODES = 10_000  # with every alias expanded
_OPENS = (yaml.FlowSequenceStartToken, yaml.FlowMappingStartToken,
          yaml.BlockSequenceStartToken, yaml.BlockMappingStartToken)
_CLOSES = (yaml.FlowSequenceEndToken, yaml.FlowMappingEndToken,
           yaml.BlockEndToken)
_MERGE = 'tag:yaml.org,2002:merge'
_FLOAT = 'tag:yaml.org,2002:float'
_INT = 'tag:yaml.org,2002:int'


def load_documents(text: str) -> list[Any]:
  """The documents of a YAML text, as plain dicts and lists.

  Refused beyond what SafeLoader refuses: tags, keys that are duplicated or not
  text, nesting beyond 24, more than 10000 nodes with aliases expanded, numbers
  that are not finite.

  Raises:
    UserError: the problem and its line.
  """
  if len(text.encode('utf-8', 'surrogatepass')) > BYTES:
    raise core.UserError(f'The recipe has more than {BYTES} bytes.')
  try:
    _scan(text)
    loader = yaml.SafeLoader(text)
    documents = []
    while loader.check_node():
      node = loader.get_node()
      _check(node, itertools.count(1), ())
      documents.append(loader.construct_document(node))
    return documents
  except yaml.MarkedYAMLError as e:
    mark = e.problem_mark or e.context_mark
    line = f' in line {mark.line + 1}' if mark else ''
    raise core.UserError(f'Not YAML{line}: {e.problem or e.context}.') from e
  except (yaml.YAMLError, ValueError, OverflowError) as e:
    if isinstance(e, core.UserError):
      raise
    raise core.UserError(f'Not YAML: {" ".join(str(e).split())}.') from e


def model(part, where: str) -> str:
  """The reference under the key 'model', which must be given."""
  value = reference(part.get('model'), where + '.model')
  if not value:
    raise core.UserError(f'{where} has no model.')
  return value


def reference(value, where: str) -> str | None:
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


def keys(value, where: str, allowed) -> dict[str, Any]:
  """A mapping with keys of `allowed` only."""
  for key in mapping(value, where):
    if key not in allowed:
      raise core.UserError(core.nearest(f'key of {where}', key, allowed))
  return value


def mapping(value, where: str) -> dict:
  """A mapping."""
  if not isinstance(value, dict):
    raise core.UserError(f'{where} must be a mapping, got {value!r:.60}.')
  return value


def sequence(value, where: str) -> list:
  """A list that is not empty."""
  if not isinstance(value, list) or not value:
    raise core.UserError(f'{where} must be a list of at least one entry, got '
                         f'{value!r:.60}.')
  return value


def text(part, key: str, where: str) -> str | None:
  """The text under a key, or None where it is absent."""
  value = part.get(key)
  if value is not None and not isinstance(value, str):
    raise core.UserError(f'{where}: {key} must be text, got {value!r}.')
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


def _scan(text):
  """Checks depth and tags, before anything recurses over the nesting."""
  depth = 0
  for token in yaml.scan(text, yaml.SafeLoader):
    depth += isinstance(token, _OPENS) - isinstance(token, _CLOSES)
    if depth > _DEPTH:
      _refuse(token, f'is nested deeper than {_DEPTH}')
    if isinstance(token, yaml.TagToken):
      _refuse(token, 'has a tag; a recipe is plain YAML')


def _check(node, count, parents):
  if next(count) > _NODES:
    _refuse(node, f'makes more than {_NODES} values with aliases expanded')
  if any(node is parent for parent in parents):
    _refuse(node, 'contains itself')
  if isinstance(node, yaml.ScalarNode):
    if node.tag == _FLOAT and not _finite(node.value):
      _refuse(node, f'has {node.value}; numbers must be finite')
    if node.tag == _INT and len(node.value) > 40:
      _refuse(node, 'has a number of more than 40 digits')
  elif isinstance(node, yaml.SequenceNode):
    for child in node.value:
      _check(child, count, parents + (node,))
  else:
    names = set()
    for key, value in node.value:
      if key.tag != _MERGE:
        if not isinstance(key, yaml.ScalarNode) or not key.tag.endswith(':str'):
          _refuse(key, 'has a key that is not text; put it in quotes')
        if key.value in names:
          _refuse(key, f'has key {key.value!r} twice')
        names.add(key.value)
      _check(value, count, parents + (node,))


def _finite(text: str) -> bool:
  if re.fullmatch(r'[-+]?\.(inf|nan)', text.lower()):
    return False
  try:
    return math.isfinite(float(text.replace('_', '')))
  except ValueError:  # sexagesimal
    return True


def _refuse(node, problem):
  line = node.start_mark.line + 1
  raise core.UserError(f'Line {line} of the recipe {problem}.')
