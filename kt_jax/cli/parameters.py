"""Parameters of a recipe: read, resolved for a tensor, checked for effect."""
from collections.abc import Callable, Iterator, Mapping, Sequence
import math
from typing import Any, NamedTuple

from kt_jax import core
from kt_jax.cli import fields

Scalar = bool | int | float | str
_BOOLS = {word: value for value, words in (
    (True, ('true', 't', 'yes', 'y', 'on', '1')),
    (False, ('false', 'f', 'no', 'n', 'off', '0'))) for word in words}


class Choice(NamedTuple):
  """One value of a parameter, for the tensors that its filter allows."""
  value: Scalar | tuple[Scalar, ...]  # several: a gradient over layers
  filter: str | None = None


# Name -> choices; the first with a filter that the tensor's name has counts.
Parameters = Mapping[str, tuple[Choice, ...]]


class Parameter(NamedTuple):
  """A parameter of a merge method.

  `scope`: 'shared' by all inputs, of each 'input', or of each 'model' beside
  the base. Shared ones are not looked for under an input.
  """
  name: str
  kind: Callable[[Any], Any]  # float, int, bool, or what checks and converts
  default: Any = ...  # ...: must be given
  scope: str = 'shared'


class Level(NamedTuple):
  """Parameters at one place of a recipe."""
  where: str
  parameters: Parameters


def read_parameters(part, where: str) -> Parameters:
  """The `parameters` of a part of a recipe.

  Args:
    part: mapping that may have them.
    where: path of the part, which ends in a dot or is empty.
  """
  value = part.get('parameters')
  where += 'parameters'
  return {name: _choices(setting, f'{where}.{name}')
          for name, setting in fields.mapping(value or {}, where).items()}


def slice_levels(recipe, number: int) -> tuple[Level, tuple[Level, ...]]:
  """Parameters of slice `number` and of each of its inputs."""
  part = recipe.slices[number]
  where = '' if recipe.uncut else f'slices[{number}].'
  word = 'models' if recipe.uncut else 'sources'
  return (Level(f'{where}parameters', part.parameters),
          tuple(Level(f'{where}{word}[{n}].parameters', s.parameters)
                for n, s in enumerate(part.inputs)))


def resolve(parameter: Parameter, levels: Sequence[Level], tensor: str,
            t: float, used: set[tuple[str, str, int]]) -> Any:
  """The value for a tensor: the first that a level has, else the default.

  Args:
    parameter: to resolve.
    levels: highest precedence first.
    tensor: name that filters are looked for in.
    t: position in [0, 1] for gradients.
    used: gets `(where, parameter, index of the choice)`.

  Raises:
    UserError: no value where there must be one, or one of another kind.
  """
  for level in levels:
    for number, choice in enumerate(level.parameters.get(parameter.name, ())):
      if choice.filter in (None, '*') or choice.filter in tensor:
        used.add((level.where, parameter.name, number))
        return _at(choice.value, t, parameter.kind,
                   f'{level.where}.{parameter.name}')
  if parameter.default is ...:
    filtered = any(parameter.name in level.parameters for level in levels)
    raise core.UserError(f'parameter {parameter.name!r} must be given'
                         + f' for {tensor!r}, no filter fits.' * filtered
                         + '.' * (not filtered))
  return parameter.default


def report_unused(recipe, method, used: set[tuple[str, str, int]],
                  problems) -> None:
  """Reports parameters and filters that have no effect.

  mergekit ignores them in silence.

  Args:
    recipe: a recipe.
    method: its `methods.Method`.
    used: `(where, parameter, index of the choice)` of what `resolve` returned.
    problems: `check.Problems`, which takes a line for each.
  """
  known = {p.name: p for p in (*method.parameters, *method.extra)}
  read = {(where, name) for where, name, _ in used}
  for where, settings, per_input in _list_levels(recipe):
    for name, choices in settings.items():
      at = f'{where}.{name}'
      if name not in known:
        problems.add('warning', f'{at} is not read. ' + core.nearest(
            f'parameter of {method.name}', name, known))
      elif problems.errors():
        continue  # tensors that failed have read nothing
      elif name in method.idle:
        problems.add('note', f'{at} has no effect with {method.name}.')
      elif per_input and known[name].scope == 'shared':
        problems.add('warning', f'{at} is not read: {name} is one for all '
                     'inputs; put it under the parameters of the recipe.')
      elif (where, name) in read or any(c.filter for c in choices):
        for number, choice in enumerate(choices):
          if (where, name, number) not in used:
            which = (f'filter {choice.filter!r}' if choice.filter else
                     'the choice without filter')
            problems.add('warning', f'{at}: {which} applies to no tensor.')
      else:
        problems.add('note', f'{at} has no effect: every model overrides it, '
                     'or it is of the base only.')


def _list_levels(recipe) -> Iterator[tuple[str, Parameters, bool]]:
  """`(where, parameters, of one input only)` at every place of a recipe."""
  for number in range(len(recipe.slices)):
    level, levels = slice_levels(recipe, number)
    yield *level, False
    for each in levels:
      yield *each, True
  yield 'modules.default.parameters', recipe.module, False
  yield 'parameters', recipe.parameters, False


def _at(value, t, kind, where):
  if not isinstance(value, tuple):
    return _convert(value, kind, where)
  values = [_convert(v, kind, where) for v in value]
  position = t * (len(values) - 1)
  low = int(position)
  if any(isinstance(v, bool) or not isinstance(v, (int, float))
         for v in values):  # nothing lies between words
    return values[low]
  high, share = min(low + 1, len(values) - 1), position - low
  return _convert((1 - share) * values[low] + share * values[high], kind, where)


def _convert(value: Scalar, kind, where: str) -> Any:
  """YAML reads 1e-3 as text; a number in text is a number all the same."""
  try:
    if kind is bool:
      return _BOOLS[str(value).lower().removesuffix('.0')]
    if kind not in (float, int):
      return kind(value)
    number = float(value)
    if not math.isfinite(number) or kind is int and number != int(number):
      raise ValueError
    return kind(number)
  except (KeyError, ValueError, OverflowError) as e:
    word = {float: 'a finite number', int: 'a whole number',
            bool: 'true or false'}.get(kind) or e
    raise core.UserError(f'{where} must be {word}, got {value!r}.') from e


def _choices(value, where) -> tuple[Choice, ...]:
  if isinstance(value, dict):
    value = [value]
  if not isinstance(value, list) or not any(isinstance(v, dict) for v in value):
    return (Choice(_value(value, where)),)
  if not all(isinstance(v, dict) for v in value):
    raise core.UserError(f'{where} mixes filters and plain values; the last '
                         'choice for all others is {value: ...}.')
  choices = []
  for n, entry in enumerate(value):
    at = f'{where}[{n}]'
    entry = fields.keys(entry, at, ('value', 'filter'))
    if 'value' not in entry:
      raise core.UserError(f'{at} has no value.')
    choices.append(Choice(_value(entry['value'], at),
                          fields.text(entry, 'filter', at)))
  return tuple(choices)


def _value(value, where):
  if isinstance(value, list):
    if not value:
      raise core.UserError(f'{where} is an empty list; a gradient has at least '
                           'one value.')
    return tuple(_scalar(v, where) for v in value)
  return _scalar(value, where)


def _scalar(value, where) -> Scalar:
  if not isinstance(value, Scalar):
    raise core.UserError(f'{where} must be a number, true, false, a list of '
                         f'them or {{value, filter}}, got {value!r}.')
  if isinstance(value, float) and not math.isfinite(value):
    raise core.UserError(f'{where} must be finite, got {value}.')
  return value
