"""YAML of unknown origin as plain dicts and lists, one per document."""
import itertools
import math
import re
from typing import Any

import yaml

from kt_jax import core

BYTES = 1_000_000
_DEPTH = 24
_NODES = 10_000  # with every alias written out
_OPENS = (yaml.FlowSequenceStartToken, yaml.FlowMappingStartToken,
          yaml.BlockSequenceStartToken, yaml.BlockMappingStartToken)
_CLOSES = (yaml.FlowSequenceEndToken, yaml.FlowMappingEndToken,
           yaml.BlockEndToken)
_MERGE = 'tag:yaml.org,2002:merge'
_FLOAT = 'tag:yaml.org,2002:float'
_INT = 'tag:yaml.org,2002:int'


def load_documents(text: str) -> list[Any]:
  """The documents of a YAML text.

  Beside what SafeLoader refuses: tags, keys given twice or that are not text,
  nesting beyond 24, more than 10000 nodes with aliases written out, numbers
  that are not finite.

  Raises:
    UserError: says what and in which line.
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


def _scan(text):
  """Depth and tags, before anything recurses over the nesting."""
  depth = 0
  for token in yaml.scan(text, yaml.SafeLoader):
    depth += isinstance(token, _OPENS) - isinstance(token, _CLOSES)
    if depth > _DEPTH:
      _refuse(token, f'is nested deeper than {_DEPTH}')
    if isinstance(token, yaml.TagToken):
      _refuse(token, 'has a tag; a recipe is plain YAML')


def _check(node, count, above):
  if next(count) > _NODES:
    _refuse(node, f'makes more than {_NODES} values with aliases written out')
  if any(node is parent for parent in above):
    _refuse(node, 'contains itself')
  if isinstance(node, yaml.ScalarNode):
    if node.tag == _FLOAT and not _finite(node.value):
      _refuse(node, f'has {node.value}; numbers must be finite')
    if node.tag == _INT and len(node.value) > 40:
      _refuse(node, 'has a number of more than 40 digits')
  elif isinstance(node, yaml.SequenceNode):
    for child in node.value:
      _check(child, count, above + (node,))
  else:
    seen = set()
    for key, value in node.value:
      merges = key.tag == _MERGE
      if not merges:
        if not isinstance(key, yaml.ScalarNode) or not key.tag.endswith(':str'):
          _refuse(key, 'has a key that is not text; put it in quotes')
        if key.value in seen:
          _refuse(key, f'has key {key.value!r} twice')
        seen.add(key.value)
      _check(value, count, above + (node,))


def _finite(text: str) -> bool:
  if re.fullmatch(r'[-+]?\.(inf|nan)', text.lower()):
    return False
  try:
    return math.isfinite(float(text.replace('_', '')))
  except ValueError:  # sexagesimal
    return True


def _refuse(at, problem):
  line = at.start_mark.line + 1
  raise core.UserError(f'Line {line} of the recipe {problem}.')
