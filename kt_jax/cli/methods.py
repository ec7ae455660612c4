"""The merge methods of recipes: what they ask for, which operators they are.

The names, parameters and defaults are mergekit's. A `merge_method` may also be
any operator of `kt_jax.merge` or the user's own, `module:function`.
"""
from collections.abc import Callable, Sequence
import functools
import inspect
from typing import Any, NamedTuple

from kt_jax import core
from kt_jax import merge
from kt_jax.cli.parameters import Parameter

_NOT_OFFERED = ('ram', 'ramplus_tl')
_ARRAYS = ('base', 'models', 'weight')


class Method(NamedTuple):
  """What a method asks of a recipe.

  `call(shared, each, based)` gives weights and settings of the operator:
  `shared` has the values of shared parameters, `each` those of every model,
  `based` says whether there is a base.
  """
  name: str
  op: str  # operator of kt_jax.merge, or 'module:function'
  call: Callable[[dict, list[dict], bool], tuple[Sequence[float], dict]]
  parameters: tuple[Parameter, ...] = ()
  base: str = 'ignored'  # one input like the others; 'optional', 'required'
  inputs: tuple[int, int | None] = (1, None)  # how many, with the base
  others: tuple[int, int | None] = (0, None)  # how many beside the base
  missing: str = 'error'  # what to do with optional tensors, see plan.py
  idle: tuple[str, ...] = ()  # parameters that are read and change nothing
  extra: tuple[Parameter, ...] = ()  # settings of the operator by its own names
  own: bool = False  # an operator that mergekit does not know

  @property
  def operator(self) -> Callable[..., Any]:
    return core.resolve(merge, self.op, 'merge operator')


def _rescale(value):
  word = {'true': 'l1', 'false': 'none'}.get(str(value).lower(), value)
  if word not in ('l1', 'none', 'inverse'):
    raise ValueError('true, false, l1, inverse or none')
  return word


def _share(value):
  if not 0 <= (number := float(value)) <= 1:
    raise ValueError('in [0, 1]')
  return number


_WEIGHT = Parameter('weight', float, scope='model')
_IDLE = Parameter('int8_mask', bool, False)


def _per_model(each, name):
  values = [values[name] for values in each]
  return values[0] if len(set(values)) == 1 else tuple(values)


def _task_vectors(name, operator, normalize=False, rescale='none', more=(),
                  **fixed) -> Method:
  """A method that adds task vectors; see `merge.combine`."""
  shares = ('density',) + tuple(more) if operator != 'task_arithmetic' else ()

  def call(shared, each, based):
    del based
    settings = dict(fixed, normalize=shared['normalize'],
                    scale=shared['lambda'])
    settings |= {share: _per_model(each, share) for share in shares}
    if shares:
      settings['rescale'] = shared['rescale']
    if shared.get('whole_model'):
      settings['whole_model'] = True  # of the job, not of the operator
    return _weights(each), settings

  parameters = (
      _IDLE, Parameter('normalize', bool, normalize),
      Parameter('rescale', _rescale, rescale), Parameter('lambda', float, 1.0),
      _WEIGHT, Parameter('density', _share, 1.0, 'model'),
      *(Parameter(n, _share, v, 'model') for n, v in dict(more).items()))
  if operator in ('ties', 'breadcrumbs'):  # not of mergekit: the papers' trim
    parameters += (Parameter('whole_model', bool, False),)
  idle = ('int8_mask',) + (() if shares else ('density', 'rescale'))
  return Method(name, operator, call, parameters, 'required', idle=idle)


def _linear(shared, each, based):
  del based
  weight = _weights(each)
  if shared['normalize']:
    total = sum(weight)
    if not total:
      raise core.UserError(f'linear: weights {weight} sum to 0 and cannot be '
                           'normalized; set normalize: false or other weights.')
    weight = [w / total for w in weight]
  return weight, {}


def _nuslerp(shared, each, based):
  axis = 0 if shared['nuslerp_row_wise'] else -1
  return _weights(each), dict(
      origin='base' if based else 'zero',
      axis=None if shared['nuslerp_flatten'] else axis)


def _weights(each):
  return [values['weight'] for values in each]


def _equal(each):
  return [1 / len(each)] * len(each)


METHODS = {m.name: m for m in (
    Method('linear', 'linear', _linear, (
        Parameter('weight', float, scope='input'),
        Parameter('normalize', bool, True))),
    Method('passthrough', 'passthrough',
           lambda shared, each, based: ((1.0,), dict(each[0])),
           (Parameter('scale', float, 1.0, 'input'),), inputs=(1, 1)),
    Method('karcher', 'karcher',
           lambda shared, each, based: (_equal(each), shared),
           (Parameter('max_iter', int, 10), Parameter('tol', float, 1e-5))),
    Method('slerp', 'slerp', lambda shared, each, based: ((shared['t'],), {}),
           (Parameter('t', float),), 'required', (2, 2), missing='single'),
    Method('nuslerp', 'nuslerp', _nuslerp, (
        _WEIGHT, Parameter('nuslerp_row_wise', bool, False),
        Parameter('nuslerp_flatten', bool, True)), 'optional', others=(2, 2),
           missing='single'),
    Method('multislerp', 'multislerp', lambda shared, each, based: (
        _weights(each), shared | dict(origin='base' if based else 'zero')), (
            _WEIGHT, Parameter('normalize_weights', bool, True),
            Parameter('eps', float, 1e-8)), 'optional', others=(1, None)),
    Method('model_stock', 'model_stock', lambda shared, each, based: (
        _equal(each),
        dict(axis=-1 if shared['filter_wise'] else None, clip=False)),
           (Parameter('filter_wise', bool, False),), 'required', (3, None),
           missing='skip'),
    Method('nearswap', 'nearswap', lambda shared, each, based: ((1.0,), shared),
           (Parameter('t', float),), 'required', (2, 2), missing='base'),
    Method('arcee_fusion', 'arcee_fusion',
           lambda shared, each, based: ((1.0,), {}), (), 'required', (2, 2),
           missing='single'),
    Method('sce', 'sce', lambda shared, each, based: (
        _equal(each), dict(select_topk=shared['select_topk'])),
           (_IDLE, Parameter('select_topk', _share, 1.0)), 'required',
           idle=('int8_mask',)),
    _task_vectors('task_arithmetic', 'task_arithmetic'),
    _task_vectors('ties', 'ties', True, elect='sum'),
    _task_vectors('dare_linear', 'dare', rescale='l1', elect='none'),
    _task_vectors('dare_ties', 'dare', rescale='l1', elect='sum'),
    _task_vectors('breadcrumbs', 'breadcrumbs', more=dict(gamma=0.01),
                  elect='none'),
    _task_vectors('breadcrumbs_ties', 'breadcrumbs', more=dict(gamma=0.01),
                  elect='sum'),
    _task_vectors('della', 'della', True, 'l1', dict(epsilon=0.15),
                  elect='sum', axis=1),
    _task_vectors('della_linear', 'della', False, 'l1', dict(epsilon=0.15),
                  elect='none', axis=1))}


def get(name: str) -> Method:
  """The method of a `merge_method`.

  Raises:
    UserError: there is none of this name; the message has the nearest.
  """
  if name in _NOT_OFFERED:
    raise core.UserError(f'merge_method {name!r} is not offered. Have: '
                         f'{", ".join(sorted(METHODS))}.')
  if name in METHODS:
    method = METHODS[name]
    known = {p.name for p in method.parameters}
    return method._replace(extra=tuple(
        p for p in _settings(method.operator) if p.name not in known))
  if ':' not in name and not is_operator(name):
    raise core.UserError(core.nearest('merge_method', name, METHODS))
  return _own(name)


def is_operator(name: str) -> bool:
  """Whether kt_jax.merge has an operator of this name."""
  op = getattr(merge, name, None)
  return inspect.isfunction(op) and list(
      inspect.signature(op).parameters)[:3] == list(_ARRAYS)


@functools.lru_cache
def _settings(op) -> tuple[Parameter, ...]:
  """Keyword parameters of an operator, as parameters of a recipe."""
  return tuple(Parameter(p.name, _plain, p.default)
               for p in inspect.signature(op).parameters.values()
               if p.kind is p.KEYWORD_ONLY)


def _plain(value):
  """Text that is a number becomes one."""
  if isinstance(value, str):
    try:
      return float(value)
    except ValueError:
      return value
  return value


def _own(name: str) -> Method:
  """A method from the signature of an operator."""
  op = core.resolve(merge, name, 'merge_method')
  parameters = list(inspect.signature(op).parameters.values())
  arrays = [p for p in parameters if p.kind is not p.KEYWORD_ONLY]
  if [p.name for p in arrays[:3]] != list(_ARRAYS):
    raise core.UserError(f'merge_method {name!r} must be an operator (base, '
                         'models, weight, *, settings).')
  lacking = [p.name for p in arrays[3:]
             if p.default is p.empty and p.name not in ('key', 'block')]
  if lacking:
    raise core.UserError(f'merge_method {name!r} needs {", ".join(lacking)}, '
                         'which no recipe can give; call it from Python.')

  def call(shared, each, based):
    del based
    return _weights(each), shared
  settings = tuple(
      p if p.default is not inspect.Parameter.empty else p._replace(default=...)
      for p in _settings(op))
  return Method(name, name, call, (_WEIGHT,) + settings, 'required',
                others=(1, None), own=True)
