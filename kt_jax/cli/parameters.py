"""Parameters of a recipe: read, and resolved for a tensor."""
from collections.abc import Callable, Mapping, Sequence
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


# Name -> choices; the first whose filter is found in the tensor's name counts.
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
  """Parameters given at one place of a recipe."""
  where: str
  parameters: Parameters


def resolve(parameter: Parameter, levels: Sequence[Level], tensor: str,
            t: float, used: set[tuple[str, str, int]]) -> Any:
  """The value for a tensor: the first that a level has, else the default.

  Args:
    parameter: which.
    levels: highest precedence first.
    tensor: name that filters are looked for in.
    t: place in [0, 1] for gradients.
    used: gets `(where, parameter, number of the choice)` of what was taken.

  Raises:
    UserError: none is given where one must be, or it is of another kind.
  """
  for level in levels:
    for number, choice in enumerate(level.parameters.get(parameter.name, ())):
      if choice.filter in (None, '*') or choice.filter in tensor:
        used.add((level.where, parameter.name, number))
        return _at(choice.value, t, parameter.kind,
                   f'{level.where}.{parameter.name}')
  if parameter.default is ...:
    given = any(parameter.name in level.parameters for level in levels)
    raise core.UserError(f'parameter {parameter.name!r} must be given'
                         + f' for {tensor!r}, no filter fits.' * given
                         + '.' * (not given))
  return parameter.default


def _at(value, t, kind, where):
  if not isinstance(value, tuple):
    return _convert(value, kind, where)
  values = [_convert(v, kind, where) for v in value]
  place = t * (len(values) - 1)
  low = int(place)
  if any(isinstance(v, bool) or not isinstance(v, (int, float))
         for v in values):  # nothing lies between words
    return values[low]
  high, share = min(low + 1, len(values) - 1), place - low
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


def read_parameters(part, where) -> Parameters:
  value = part.get('parameters')
  where += 'parameters'
  return {name: _setting(setting, f'{where}.{name}')
          for name, setting in fields.mapping(value or {}, where).items()}


def _setting(value, where) -> tuple[Choice, ...]:
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


