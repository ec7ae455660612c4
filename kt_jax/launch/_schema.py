"""The schema of JSON files with results; results.py describes it."""
from collections.abc import Mapping
import json
from typing import Any

PAGES = ('distillation', 'merging', 'language', 'transfer')
VERDICTS = ('holds', 'undecided', 'fails', 'above', 'within noise', 'below')
KINDS = ('primary', 'control', 'ablation', 'sweep')
RESULT = {
    'command': str, 'rule': str, 'seeds': list, 'arms': dict, 'claims': list,
    'notes': list, 'commit': str, 'versions': dict, 'config': str,
    'cost': dict}
CLAIM = {
    'name': str, 'text': str, 'kind': str, 'better': str, 'than': str,
    'against': float, 'metric': str, 'than_metric': str, 'lower': bool,
    'above': list, 'margin': float, 'difference': float, 'se': float,
    'test_se': float, 'p': float, 'n': int, 'verdict': str}
METRIC = {'mean': float, 'sd': float, 'se': float, 'values': list}


def check(content: Mapping[str, Any]) -> None:
  """Raises ValueError where the content of a JSON file breaks the schema."""
  types = {'schema': int, 'page': str, 'results': dict}
  _check_keys('the file', content, types, required=types)
  one_of('schema', content['schema'], (1,))
  one_of('page', content['page'], PAGES)
  for variant, result in content['results'].items():
    _check_keys(variant, result, RESULT, ('command', 'rule', 'claims'))
    count = len(result.get('seeds', ()))
    for arm, metrics in result.get('arms', {}).items():
      for metric, numbers in metrics.items():
        where = f'{variant}.arms.{arm}.{metric}'
        _check_keys(where, numbers, METRIC)
        if len(numbers.get('values', [0] * count)) != count:
          raise ValueError(f'{where}.values must have one value per seed.')
    for claim in result['claims']:
      where = f'{variant}.claims.{claim.get("name")}'
      _check_keys(where, claim, CLAIM,
                  ('name', 'better', 'metric', 'verdict'))
      one_of(f'{where}.verdict', claim['verdict'], VERDICTS)
      one_of(f'{where}.kind', claim.get('kind', KINDS[0]), KINDS)
      if ('than' in claim) == ('against' in claim):
        raise ValueError(f'{where} must have either than or against.')
      if len(claim.get('above', 'ab')) != 2:
        raise ValueError(f'{where}.above must name two arms.')
    names = [claim['name'] for claim in result['claims']]
    if len(set(names)) < len(names):
      raise ValueError(f'{variant}.claims: names must differ, got {names}.')
    primary = [c['name'] for c in result['claims'] if c.get('kind') == KINDS[0]]
    if len(primary) > 1:
      raise ValueError(f'{variant}.claims: one may be primary, got {primary}.')


def dumps(content: Mapping[str, Any]) -> str:
  """JSON, a line per claim and metric, keys in the order of the schema."""
  return _dumps({**content, 'results': {
      variant: _ordered(result, RESULT) | {
          'claims': [_ordered(claim, CLAIM) for claim in result['claims']]}
      for variant, result in content['results'].items()}}) + '\n'


def _check_keys(where, value, types, required=()) -> None:
  if not isinstance(value, dict):
    raise ValueError(f'{where} must be an object, got {value!r}.')
  for key in required:
    if key not in value:
      raise ValueError(f'{where} lacks the key {key!r}.')
  for key, content in value.items():
    one_of(f'{where}: key', key, types)
    kind = types[key]
    if type(content) is not kind and (kind, type(content)) != (float, int):
      raise ValueError(f'{where}.{key} must be of type {kind.__name__}, got '
                       f'{content!r}.')


def one_of(where, value, allowed) -> None:
  if value not in allowed:
    raise ValueError(f'{where} {value!r} does not exist; allowed: '
                     f'{", ".join(map(str, allowed))}.')


def _ordered(value, keys):
  return {key: value[key] for key in keys if key in value}


def _dumps(value, indent='') -> str:
  """Lines of at most 80 columns, but a claim or metric is never broken."""
  text = json.dumps(value, ensure_ascii=False, allow_nan=False)
  if len(indent + text) <= 80 or not isinstance(value, (dict, list)) or (
      isinstance(value, dict) and not any(
          isinstance(x, dict) or x and isinstance(x, list) and isinstance(
              x[0], dict) for x in value.values())):
    return text
  more = indent + ' '
  begin, end = '{}' if isinstance(value, dict) else '[]'
  lines = ([f'{json.dumps(k)}: {_dumps(v, more)}' for k, v in value.items()]
           if isinstance(value, dict) else [_dumps(v, more) for v in value])
  return f'{begin}\n{more}' + f',\n{more}'.join(lines) + f'\n{indent}{end}'
