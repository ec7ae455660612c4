"""A merge recipe, read and checked without opening a model.

The language is mergekit's. Keys that mergekit would ignore are refused.
"""
from typing import Any, NamedTuple

from kt_jax import core
from kt_jax.cli import fields
from kt_jax.cli import tokenizer_option
from kt_jax.cli.parameters import Parameters
from kt_jax.cli.parameters import read_parameters

DTYPES = ('bfloat16', 'float16', 'float32')  # float64 is not computed in
_RECIPE = ('merge_method', 'slices', 'models', 'modules', 'base_model',
           'parameters', 'dtype', 'out_dtype', 'tokenizer', 'tokenizer_source',
           'chat_template', 'name')


class SliceInput(NamedTuple):
  """A model that a slice takes layers of."""
  model: str  # path, 'path+adapter path', or the name of an earlier stage
  layers: tuple[int, int] | None  # first, end; None: all
  parameters: Parameters


class Slice(NamedTuple):
  """Layers of the result that are merged from the same models."""
  inputs: tuple[SliceInput, ...]
  base_model: str | None
  parameters: Parameters


class Recipe(NamedTuple):
  """One merge; a file may have several, in which later ones use earlier."""
  method: str
  slices: tuple[Slice, ...]  # one without layers: whole models
  name: str | None = None  # of the stage
  base_model: str | None = None
  module: Parameters = {}
  parameters: Parameters = {}
  dtype: str | None = None  # that inputs are rounded to
  out_dtype: str | None = None
  tokenizer: tokenizer_option.TokenizerOption | None = None
  chat_template: str | None = None

  @property
  def uncut(self) -> bool:
    """Whether models are merged as they are, without cutting layers."""
    return all(s.layers is None for part in self.slices for s in part.inputs)

  @property
  def references(self) -> tuple[str, ...]:
    """Every model of which weights are read, once, the base first."""
    bases = [self.base_model, *(part.base_model for part in self.slices)]
    models = [s.model for part in self.slices for s in part.inputs]
    return tuple(dict.fromkeys([m for m in bases if m in models] + models))


def read_document(document: Any) -> Recipe:
  """One YAML document as a recipe.

  Raises:
    UserError: an unknown key, a value of the wrong kind, keys that exclude one
      another; one line that names the place.
  """
  top = fields.keys(document, 'the recipe', _RECIPE)
  method = fields.text(top, 'merge_method', 'the recipe')
  if method is None:
    raise core.UserError('The recipe has no merge_method.')
  base = fields.reference(top.get('base_model'), 'base_model')
  forms = [k for k in ('models', 'slices', 'modules') if top.get(k)]
  if len(forms) != 1:
    raise core.UserError('A recipe has exactly one of models, slices, modules; '
                         f'this one has {" and ".join(forms) or "none"}.')
  part, module, where = top, {}, ''
  if forms == ['modules']:
    part, module, where = _only_module(top['modules'])
  slices = (_slices(part['slices'], where) if part.get('slices') else
            _uncut(part.get('models'), base, where))
  dtypes = {k: _dtype(fields.text(top, k, 'the recipe'), k)
            for k in ('dtype', 'out_dtype')}
  return Recipe(
      method, slices, fields.text(top, 'name', 'the recipe'), base, module,
      read_parameters(top, ''), **dtypes,
      tokenizer=tokenizer_option.read_tokenizer(top),
      chat_template=_template(fields.text(top, 'chat_template', 'the recipe')))


def _only_module(modules):
  fields.mapping(modules, 'modules')
  if len(modules) != 1:
    raise core.UserError(
        f'modules has {sorted(modules)}; models of several modules are merged '
        'whole (models: without modules:), or one module after the other.')
  (name, part), = modules.items()
  if name != 'default':
    raise core.UserError(
        f'modules: {name!r} is not offered, only models of one module, '
        '\'default\'; merge the others whole, with models:.')
  where = 'modules.default.'
  part = fields.keys(part, where[:-1], ('slices', 'models', 'parameters'))
  if bool(part.get('slices')) == bool(part.get('models')):
    raise core.UserError('modules.default must have slices or models, one of '
                         'the two.')
  return part, read_parameters(part, where), where


def _uncut(models, base, where) -> tuple[Slice, ...]:
  """`models:` as one slice; a base that is not listed is an input too."""
  inputs = []
  for n, entry in enumerate(fields.sequence(models, where + 'models')):
    at = f'{where}models[{n}]'
    entry = fields.keys(entry, at, ('model', 'parameters'))
    inputs.append(SliceInput(fields.model(entry, at), None,
                             read_parameters(entry, at + '.')))
  if base and base not in [s.model for s in inputs]:
    inputs.append(SliceInput(base, None, {}))
  return (Slice(tuple(inputs), None, {}),)


def _slices(slices, where) -> tuple[Slice, ...]:
  result = []
  for n, entry in enumerate(fields.sequence(slices, where + 'slices')):
    at = f'{where}slices[{n}]'
    if isinstance(entry, dict) and entry.get('residual_weight') is not None:
      raise core.UserError(f'{at}: residual_weight has no effect in mergekit '
                           'and is not offered; leave it out.')
    entry = fields.keys(entry, at, ('sources', 'base_model', 'parameters',
                                    'residual_weight'))
    inputs, ranges = [], []
    sources = fields.sequence(entry.get('sources'), at + '.sources')
    for m, source in enumerate(sources):
      inner = f'{at}.sources[{m}]'
      source = fields.keys(source, inner,
                           ('model', 'layer_range', 'parameters'))
      model = fields.model(source, inner)
      ranges.append(_range(source, inner))
      inputs.append(SliceInput(model, ranges[-1],
                               read_parameters(source, inner + '.')))
    if len({end - first for first, end in ranges}) > 1:
      raise core.UserError(
          f'{at}: sources take {list(map(list, ranges))}; all must take the '
          'same number of layers.')
    base = fields.reference(entry.get('base_model'), at + '.base_model')
    result.append(Slice(tuple(inputs), base, read_parameters(entry, at + '.')))
  return tuple(result)


def _range(source, where) -> tuple[int, int]:
  value = source.get('layer_range')
  if not isinstance(value, list) or len(value) != 2 or any(
      isinstance(v, bool) or not isinstance(v, int) for v in value):
    raise core.UserError(f'{where}.layer_range must be [first, end], two whole '
                         f'numbers, got {value!r}.')
  first, end = value
  if not 0 <= first < end:
    raise core.UserError(f'{where}.layer_range must have 0 <= first < end, got '
                         f'{value}.')
  return first, end


def _template(value):
  """A Jinja text or 'auto': the one that most inputs have."""
  if value and value != 'auto' and '{' not in value:
    raise core.UserError(f'chat_template must be auto or the text of a Jinja '
                         f'template, got {value!r}.')
  return value or None


def _dtype(value, where):
  name = value and value.removeprefix('torch.')
  if name and name not in DTYPES:
    raise core.UserError(core.nearest(where, value, DTYPES))
  return name or None
