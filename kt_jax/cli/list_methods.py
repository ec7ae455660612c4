"""--list-methods: the merge methods with their inputs, parameters, defaults."""
import inspect
import json
import textwrap

from kt_jax import merge
from kt_jax.cli import methods

_LEGEND = """\
Parameters have their defaults behind them; those without one must be given.
Those per model stand under a model or, for all models, under the recipe;
shared ones and those of the operator under the recipe."""
_OWN = """\
module:function
  A function of your own, (base, models, weight, *, settings) -> array, in a
  module that can be imported from where the command runs. Its settings are
  parameters of the recipe."""


def list_methods() -> str:
  """A paragraph for each method: mergekit's, then other operators."""
  others = sorted(name for name in vars(merge) if methods.is_operator(name))
  names = dict.fromkeys([*methods.METHODS, *others])
  return '\n\n'.join([_LEGEND, *map(describe, names), _OWN])


def describe(name: str) -> str:
  """A paragraph on one method, from its operator's signature and docstring.

  Args:
    name: a `merge_method`.

  Raises:
    UserError: there is no such method.
  """
  method = methods.get(name)
  read = [p for p in method.parameters if p.name not in method.idle]
  rows = {
      'inputs': [_inputs(method)],
      'per model': [_text(p) for p in read if p.scope != 'shared'],
      'shared': [_text(p) for p in read if p.scope == 'shared'],
      'operator': [_operator(method)] * (bool(method.extra)
                                         or method.op != name),
      'no effect': method.idle}
  lines = [name, '  ' + inspect.getdoc(method.operator).partition('\n')[0]]
  for title, texts in rows.items():
    if texts:
      lines.append(textwrap.fill(', '.join(texts), 80, break_on_hyphens=False,
                                 initial_indent=f'  {title + ":":12}',
                                 subsequent_indent=' ' * 14))
  return '\n'.join(lines)


def _inputs(method) -> str:
  least, most = method.inputs
  if method.base == 'ignored':
    return _count(least, most)
  least = max(method.others[0], least - 1)
  most = method.others[1] if most is None else most - 1
  base = 'base_model' + ' (optional)' * (method.base == 'optional')
  return f'{base} and {_count(least, most)}'


def _count(least: int, most: int | None) -> str:
  count = (str(least) if least == most else f'{least} or more' if least else
           'any number of')
  return f'{count} model{"s" * (count != "1")}'


def _operator(method) -> str:
  """Name and further settings, which have the values that the method gives."""
  values = {p.name: 1.0 if p.default is ... else p.default
            for p in method.parameters}
  _, settings = method.call(values, [values] * 3, True)
  extra = [_text(p._replace(default=settings.get(p.name, p.default)))
           for p in method.extra]
  return method.op + (f'({", ".join(extra)})' if extra else '')


def _text(parameter) -> str:
  """`name=default`, the default as YAML has it; `name` if it must be given."""
  value = parameter.default
  if value is ...:
    return parameter.name
  if value is not None and not isinstance(value, str):
    value = json.dumps(value)
  return f'{parameter.name}={value or "(none)"}'
