"""From a recipe and opened models to a list of jobs, one a tensor.

No table of architectures is asked: names say which layer a tensor is of
(`layout`), and the models themselves which tensors there are. These are the
rules for what the models do not share:

- A tensor that an input lacks is an error, whichever input that is. With
  missing='present' those that have it are merged, where the method can do with
  them, and the base's is copied where it cannot.
- A head (`lm_head`) that a model lacks because it is tied to its embedding is
  that embedding, if any other input has a head. Nobody's head stays tied.
- Buffers that follow from the config (masks, rotary frequencies) and tensors
  that are not floating (counters) are copied, from the base or else the first
  input that has them; inputs that differ there are reported when they are read.
- Inputs of several dtypes are brought to the one that holds all of them.
"""
from collections.abc import Mapping
from typing import Any, NamedTuple

from kt_jax import checkpoint
from kt_jax import core
from kt_jax.cli import embeddings
from kt_jax.cli import inputs
from kt_jax.cli import layout
from kt_jax.cli import methods
from kt_jax.cli import output_config
from kt_jax.cli import parameters
from kt_jax.cli import places
from kt_jax.cli import problems as problems_lib
from kt_jax.cli import unused
from kt_jax.merge import stream


class Plan(NamedTuple):
  """What a merge will do, or why it cannot."""
  jobs: tuple[stream.Job, ...]
  config: dict[str, Any] | None  # config.json of the result, without errors
  problems: tuple[problems_lib.Problem, ...]
  renamed: int  # tensors that have another name than in their first input
  # Of what is copied though several inputs have it: the one taken, then the
  # others, which should be equal.
  copies: Mapping[str, tuple[checkpoint.Tensor, ...]]
  tensors: Mapping[str, dict[str, Any]]  # name -> resolved parameters


def make_plan(recipe, sources: Mapping[str, Any], tokens=None, *,
              missing: str = 'error') -> Plan:
  """Lays out a merge; reads no weights.

  Args:
    recipe: one stage, with paths for the names of stages (`stages.replace`).
    sources: reference -> `sources.Source`, for every one of
      `recipe.references`; others are not looked at.
    tokens: `tokens.Tokens`, if the recipe sets a tokenizer.
    missing: 'error' or 'present', see above.

  Returns:
    `Plan`; if any of its problems is an error the jobs are not complete:
    `problems.refuse(plan.problems)` raises it.
  """
  return _Planner(recipe, sources, tokens, missing).plan()


class _Planner:

  def __init__(self, recipe, sources, tokens, missing):
    self.recipe, self.sources, self.tokens = recipe, sources, tokens
    self.method = methods.get(recipe.method)
    self.missing, self.problems = missing, problems_lib.Problems()
    self.used, self.jobs, self.tensors, self.copies = set(), [], {}, {}
    self.renamed, self.tried = 0, set()
    self.heads = list(dict.fromkeys(
        name for model in recipe.references for name in sources[model].tensors
        if layout.is_head(name)))

  def plan(self) -> Plan:
    self._check_models()
    found = places.list_places(self.recipe, self.sources, self.heads,
                               self.problems)
    for place in found:
      try:
        self._place(place)
      except core.UserError as e:
        self.problems.add('error', str(e))
    if not found:
      self.problems.add('error', 'The inputs have no tensors.')
    unused.report(self.recipe, self.method, self.used, self.problems)
    config = None
    if not self.problems.errors():
      config = output_config.make_config(
          self.recipe, self.sources, self.jobs, self.heads,
          self.tokens.vocab_size if self.tokens else None, self.problems)
    return Plan(tuple(self.jobs), config, self.problems.list(), self.renamed,
                self.copies, self.tensors)

  def _check_models(self):
    kinds = {}
    for model in self.recipe.references:
      config = self.sources[model].config or {}
      if config.get('quantization_config') and (
          self.method.name != 'passthrough'):
        self.problems.add('error', f'{model}: is quantized; merge what it was '
                          'made from.')
      if config.get('architectures'):
        kinds.setdefault(str(config['architectures']), []).append(model)
    if len(kinds) > 1:
      self.problems.add('warning', 'The models are of different architectures: '
                        + '; '.join(f'{m[0]} {k}' for k, m in kinds.items()))

  def _place(self, place):
    """Adds the job of one tensor."""
    there = {}
    for source, name in zip(place.part.sources, place.names):
      tensors = self.sources[source.model].tensors
      if name not in tensors and place.name in self.heads:
        name = self._tied(source.model, tensors)
        if name:
          self.problems.add('note', f'{source.model} lacks {place.name}; its '
                            f'embedding {name} is tied to it and taken.')
      if name in tensors:
        there[source.model] = tensors[name]
    if not there:
      return
    base = place.part.base_model or self.recipe.base_model
    if layout.is_buffer(place.name, next(iter(there.values())).shape) or any(
        not inputs.is_floating(tensor) for tensor in there.values()):
      return self._copy_buffer(place, there, base)
    kept = inputs.choose_present(self.method, place, there, base, self.missing,
                                 self.problems)
    if kept == 'skip':
      return
    there = self._same_rows(place, there, base)
    inputs.check_shapes(place.name, there)
    self.renamed += place.name not in place.names
    cast, dtype = inputs.choose_dtypes(self.recipe, place.name, there,
                                       self.problems)
    if kept == 'copy':
      (tensor,) = there.values()
      self.jobs.append(stream.Job(place.name, tensor, dtype=dtype))
      return
    shared, extra, each = self._parameters(place, there, base)
    self.tensors[place.name] = dict(shared=shared, each=each, extra=extra)
    self._merge(place, there, base, shared, extra, each, cast, dtype)

  def _merge(self, place, there, base, shared, extra, each, cast, dtype):
    method = self.method
    based = base if method.base != 'ignored' and base in there else None
    models = [m for m in there if m != based]
    first = next(iter(there.values()))
    if not models:  # the base alone
      self.jobs.append(stream.Job(place.name, there[based], dtype=dtype))
      return
    weight, settings = method.call(shared, [each[m] for m in models],
                                   based is not None)
    settings = dict(settings) | extra
    whole_model = settings.pop('whole_model', False)
    inputs.check_values(weight, settings, self.problems)
    if method.op == 'passthrough' and settings == dict(scale=1.0):
      self.jobs.append(stream.Job(place.name, first, dtype=dtype))
      return
    start = there[based] if based else inputs.Zeros(
        f'no base of {place.name}', first.shape, cast or first.dtype)
    job = stream.Job(
        place.name, start, tuple(there[m] for m in models), method.operator,
        tuple(weight), settings, dtype, cast, whole_model=whole_model)
    if extra or method.own:  # what the recipe's parameters do not vouch for
      tried = repr((start.shape, len(models), sorted(settings.items())))
      if tried not in self.tried:
        inputs.try_operator(job)
      self.tried.add(tried)
    self.jobs.append(job)

  def _tied(self, model, tensors):
    """The embedding that stands for a head, unless the config denies it."""
    if layout.is_tied(self.sources[model].config) is False:
      return None
    return layout.embedding_of(tensors)

  def _copy_buffer(self, place, there, base):
    first = there[base] if base in there else next(iter(there.values()))
    if self.method.name != 'passthrough' and not inputs.is_floating(first) and (
        len(first.shape) > 1 and place.name.endswith('weight')):
      raise core.UserError(f'{place.name} has dtype {first.dtype}: a quantized '
                           'model; merge what it was made from.')
    for model, tensor in there.items():
      if (tensor.dtype, tensor.shape) != (first.dtype, first.shape):
        raise core.UserError(
            f'{place.name} is {first.dtype}{list(first.shape)} in one input '
            f'and {tensor.dtype}{list(tensor.shape)} in {model}; such tensors '
            'are copied and must be equal.')
    if len(there) > 1:
      self.copies[place.name] = (first, *(
          t for t in there.values() if t is not first))
    self.renamed += place.name not in place.names
    self.jobs.append(stream.Job(place.name, first))

  def _same_rows(self, place, there, base):
    """Brings a tensor of the vocabulary to the rows of the result."""
    if (self.tokens is None or self.tokens.vocab is None
        or not embeddings.is_vocabulary(place.name)):
      return there
    return self.tokens.align(place.name, there, base if base in there else None)

  def _parameters(self, place, there, base):
    """Shared values, settings of the operator's own, values of each input."""
    common = [place.level, parameters.Level(
        'modules.default.parameters', self.recipe.module),
              parameters.Level('parameters', self.recipe.parameters)]

    def resolve(parameter, levels, name):
      return parameters.resolve(parameter, levels, name, place.t, self.used)

    shared = {p.name: resolve(p, common, place.name)
              for p in self.method.parameters if p.scope == 'shared'}
    extra = {p.name: resolve(p._replace(default=None), common, place.name)
             for p in self.method.extra}
    each = {}
    for source, name, level in zip(place.part.sources, place.names,
                                   place.levels):
      if source.model in there:
        try:
          each[source.model] = {
              p.name: resolve(p, [level, *common], name)
              for p in self.method.parameters if p.scope == 'input'
              or p.scope == 'model' and source.model != base}
        except core.UserError as e:
          hint = (' (base_model is an input of this method too)'
                  if source.model == base else '')
          raise core.UserError(f'{source.model}: {e}'[:-1] + hint + '.') from e
    return shared, {k: v for k, v in extra.items() if v is not None}, each
