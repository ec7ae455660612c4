"""From a recipe and opened models to a list of jobs, one a tensor.

Names give the layer that a tensor is of (`layers`), and the models themselves
the tensors that there are. These are the rules for what the models do not
share:

- A tensor that an input lacks is an error, whichever input that is. With
  missing='present' those that have it are merged, where the method can do with
  them, and the base's is copied where it cannot.
- A head (`lm_head`) that a model lacks because it is tied to its embedding is
  that embedding, if any other input has a head. No head stays tied then.
- Buffers that follow from the config (masks, rotary frequencies) and tensors
  that are not floating (counters) are copied, from the base or else the first
  input that has them; inputs that differ there are reported when they are read.
- Inputs of several dtypes are converted to the one that contains all of them.
"""
from collections.abc import Mapping
from typing import Any, NamedTuple

from kt_jax import checkpoint
from kt_jax import core
from kt_jax.cli import config as config_lib
from kt_jax.cli import embeddings
from kt_jax.cli import inputs
from kt_jax.cli import layers
from kt_jax.cli import methods
from kt_jax.cli import parameters
from kt_jax.cli import problems as problems_lib
from kt_jax.merge import stream


class Plan(NamedTuple):
  """The jobs of a merge, or the reasons why it is not possible."""
  jobs: tuple[stream.Job, ...]
  config: dict[str, Any] | None  # config.json of the result, without errors
  problems: tuple[problems_lib.Problem, ...]
  renamed: int  # tensors that have another name than in their first input
  # Of what is copied though several inputs have it: the one copied, then the
  # others, which should be equal.
  copies: Mapping[str, tuple[checkpoint.Tensor, ...]]
  parameters: Mapping[str, dict[str, Any]]  # name of a tensor -> resolved


def make_plan(recipe, models: Mapping[str, Any], tokens=None, *,
              missing: str = 'error') -> Plan:
  """Plans a merge; reads no weights.

  Args:
    recipe: one stage, with paths for the names of stages (`stages.replace`).
    models: reference -> `OpenedModel`, for every one of `recipe.references`;
      others are ignored.
    tokens: `tokens.Tokens`, if the recipe sets a tokenizer.
    missing: 'error' or 'present', see above.

  Returns:
    `Plan`; if any of its problems is an error the jobs are not complete:
    `problems.refuse(plan.problems)` raises it.
  """
  return _Planner(recipe, models, tokens, missing).plan()


class _Planner:

  def __init__(self, recipe, models, tokens, missing):
    self.recipe, self.models, self.tokens = recipe, models, tokens
    self.method = methods.get(recipe.method)
    self.missing, self.problems = missing, problems_lib.Problems()
    self.used, self.jobs, self.parameters, self.copies = set(), [], {}, {}
    self.renamed, self.tried = 0, set()
    self.heads = list(dict.fromkeys(
        name for model in recipe.references for name in models[model].tensors
        if layers.is_head(name)))

  def plan(self) -> Plan:
    self._check_models()
    outputs = layers.list_outputs(self.recipe, self.models, self.heads,
                                  self.problems)
    for output in outputs:
      try:
        self._add(output)
      except core.UserError as e:
        self.problems.add('error', str(e))
    if not outputs:
      self.problems.add('error', 'The inputs have no tensors.')
    parameters.report_unused(self.recipe, self.method, self.used, self.problems)
    config = None
    if not self.problems.errors():
      config = config_lib.make_config(
          self.recipe, self.models, self.jobs, self.heads,
          self.tokens.vocab_size if self.tokens else None, self.problems)
    return Plan(tuple(self.jobs), config, self.problems.list(), self.renamed,
                self.copies, self.parameters)

  def _check_models(self):
    kinds = {}
    for model in self.recipe.references:
      config = self.models[model].config or {}
      if config.get('quantization_config') and (
          self.method.name != 'passthrough'):
        self.problems.add('error', f'{model}: is quantized; merge the model '
                          'that it was made from.')
      if config.get('architectures'):
        kinds.setdefault(str(config['architectures']), []).append(model)
    if len(kinds) > 1:
      self.problems.add('warning', 'The models are of different architectures: '
                        + '; '.join(f'{m[0]} {k}' for k, m in kinds.items()))

  def _add(self, output):
    """Adds the job of one tensor."""
    tensors = {}
    for each, name in zip(output.part.inputs, output.names):
      model = self.models[each.model].tensors
      if name not in model and output.name in self.heads:
        name = self._tied(each.model, model)
        if name:
          self.problems.add('note', f'{each.model} lacks {output.name}; its '
                            f'embedding {name} is tied to it and used.')
      if name in model:
        tensors[each.model] = model[name]
    if not tensors:
      return
    base = output.part.base_model or self.recipe.base_model
    if layers.is_buffer(output.name, next(iter(tensors.values())).shape) or any(
        not inputs.is_floating(tensor) for tensor in tensors.values()):
      return self._copy_buffer(output, tensors, base)
    treatment = inputs.choose_treatment(self.method, output, tensors, base,
                                        self.missing, self.problems)
    if treatment == 'skip':
      return
    tensors = self._same_rows(output, tensors, base)
    inputs.check_shapes(output.name, tensors)
    self.renamed += output.name not in output.names
    cast, dtype = inputs.choose_dtypes(self.recipe, output.name, tensors,
                                       self.problems)
    if treatment == 'copy':
      (tensor,) = tensors.values()
      self.jobs.append(stream.Job(output.name, tensor, dtype=dtype))
      return
    shared, extra, each = self._resolve(output, tensors, base)
    self.parameters[output.name] = dict(shared=shared, each=each, extra=extra)
    self._merge(output, tensors, base, shared, extra, each, cast, dtype)

  def _merge(self, output, tensors, base, shared, extra, each, cast, dtype):
    method = self.method
    based = base if method.base != 'ignored' and base in tensors else None
    models = [m for m in tensors if m != based]
    first = next(iter(tensors.values()))
    if not models:  # the base alone
      self.jobs.append(stream.Job(output.name, tensors[based], dtype=dtype))
      return
    weight, settings = method.call(shared, [each[m] for m in models],
                                   based is not None)
    settings = dict(settings) | extra
    whole_model = settings.pop('whole_model', False)
    inputs.check_values(weight, settings, self.problems)
    if method.op == 'passthrough' and settings == dict(scale=1.0):
      self.jobs.append(stream.Job(output.name, first, dtype=dtype))
      return
    start = tensors[based] if based else inputs.Zeros(
        f'no base of {output.name}', first.shape, cast or first.dtype)
    job = stream.Job(
        output.name, start, tuple(tensors[m] for m in models), method.operator,
        tuple(weight), settings, dtype, cast, whole_model=whole_model)
    if extra or method.own:  # settings that no `Parameter` checks
      tried = repr((start.shape, len(models), sorted(settings.items())))
      if tried not in self.tried:
        inputs.try_operator(job)
      self.tried.add(tried)
    self.jobs.append(job)

  def _tied(self, model, tensors):
    """The embedding that is also the head, unless the config denies it."""
    if config_lib.is_tied(self.models[model].config) is False:
      return None
    return layers.embedding_of(tensors)

  def _copy_buffer(self, output, tensors, base):
    first = (tensors[base] if base in tensors else
             next(iter(tensors.values())))
    if self.method.name != 'passthrough' and not inputs.is_floating(first) and (
        len(first.shape) > 1 and output.name.endswith('weight')):
      raise core.UserError(f'{output.name} has dtype {first.dtype}: a '
                           'quantized model; merge the one that it was made '
                           'from.')
    for model, tensor in tensors.items():
      if (tensor.dtype, tensor.shape) != (first.dtype, first.shape):
        raise core.UserError(
            f'{output.name} is {first.dtype}{list(first.shape)} in one input '
            f'and {tensor.dtype}{list(tensor.shape)} in {model}; such tensors '
            'are copied and must be equal.')
    if len(tensors) > 1:
      self.copies[output.name] = (first, *(
          t for t in tensors.values() if t is not first))
    self.renamed += output.name not in output.names
    self.jobs.append(stream.Job(output.name, first))

  def _same_rows(self, output, tensors, base):
    """Gives a tensor of the vocabulary the rows of the result."""
    if (self.tokens is None or self.tokens.vocab is None
        or not embeddings.is_vocabulary(output.name)):
      return tensors
    return self.tokens.align(output.name, tensors,
                             base if base in tensors else None)

  def _resolve(self, output, tensors, base):
    """Shared values, settings of the operator's own, values of each input."""
    common = [output.level, parameters.Level(
        'modules.default.parameters', self.recipe.module),
              parameters.Level('parameters', self.recipe.parameters)]

    def resolve(parameter, levels, name):
      return parameters.resolve(parameter, levels, name, output.t, self.used)

    shared = {p.name: resolve(p, common, output.name)
              for p in self.method.parameters if p.scope == 'shared'}
    extra = {p.name: resolve(p._replace(default=None), common, output.name)
             for p in self.method.extra}
    each = {}
    for one, name, level in zip(output.part.inputs, output.names,
                                output.levels):
      if one.model in tensors:
        try:
          each[one.model] = {
              p.name: resolve(p, [level, *common], name)
              for p in self.method.parameters if p.scope == 'input'
              or p.scope == 'model' and one.model != base}
        except core.UserError as e:
          hint = (' (base_model is an input of this method too)'
                  if one.model == base else '')
          raise core.UserError(f'{one.model}: {e}'[:-1] + hint + '.') from e
    return shared, {k: v for k, v in extra.items() if v is not None}, each
