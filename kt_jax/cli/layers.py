"""Every tensor of the result: its name, inputs, parameters, depth.

No table of architectures is asked: the layer of a tensor, and whether it is a
head or a buffer, follow from its name.
"""
from collections.abc import Iterable, Iterator, Mapping, Sequence
import re
from typing import Any, NamedTuple

from kt_jax.cli import config as config_lib
from kt_jax.cli import embeddings
from kt_jax.cli import parameters
from kt_jax.cli import problems as problems_lib
from kt_jax.cli import recipe as recipe_lib

_NUMBER = re.compile(r'(.*?)(?<![^./])(\d+)(?![^./])(.*)')
_HEAD = re.compile(r'(.*\.)?(lm_head(\.(decoder|linear))?|embed_out|'
                   r'output_layer|vocab_projector|cls\.predictions\.decoder)'
                   r'\.weight|output\.weight')
_FIRST = re.compile(r'emb|wte|wpe|position|patch|cls_token|pre_conv')
_BUFFER = re.compile(r'inv_freq$|position_ids$|masked_bias$|attn\.bias$|'
                     r'attention\.bias$|num_batches_tracked$')


class LayerName(NamedTuple):
  """`stack + str(layer) + rest` is the name; no layer: all of it is `rest`."""
  stack: str
  layer: int | None
  rest: str


class Stacks(NamedTuple):
  """Names of a model, by the stacks of layers that they are of."""
  names: Mapping[str, LayerName]  # by tensor
  counts: Mapping[str, int]  # number of layers of each stack


class OutputTensor(NamedTuple):
  """One tensor of the result."""
  name: str
  part: recipe_lib.Slice
  names: tuple[str, ...]  # in each input of `part`, which may lack it
  t: float  # depth in [0, 1] for gradients
  level: parameters.Level  # parameters of the slice
  levels: tuple[parameters.Level, ...]  # of each input


def list_outputs(recipe, models: Mapping[str, Any], heads: Sequence[str],
                 problems: problems_lib.Problems) -> list[OutputTensor]:
  """The tensors of the result in the order of the first input.

  Tensors of no layer are those of the first slice if they come before the
  layers, else those of the last; t is 0 there. In layers it goes from 0 to 1
  over a slice, and is 1 in a slice of one layer.

  Args:
    recipe: a recipe.
    models: reference -> opened model.
    heads: names of output layers that any model has.
    problems: takes what is wrong with layers.
  """
  stacks = {model: read_stacks(models[model].tensors, models[model].config)
            for model in recipe.references}
  return list(_uncut(recipe, stacks, problems) if recipe.uncut else
              _sliced(recipe, stacks, heads, problems))


def read_stacks(names: Iterable[str], config: dict[str, Any] | None
                ) -> Stacks:
  """Finds stacks of layers: names that are equal up to their first number.

  The numbers of a stack run from 0 without a gap. A single number 0 makes one
  only if the model has one layer by its config; others belong to no layer.
  """
  by_tensor, layers = {}, {}
  for name in names:
    match = _NUMBER.fullmatch(name)
    by_tensor[name] = LayerName('', None, name)
    if match:
      by_tensor[name] = LayerName(match[1], int(match[2]), match[3])
      layers.setdefault(match[1], set()).add(int(match[2]))
  counts = {stack: len(numbers) for stack, numbers in layers.items()
            if max(numbers) == len(numbers) - 1
            and (len(numbers) > 1 or config_lib.count_layers(config) == 1)}
  return Stacks({name: split if split.stack in counts else
                 LayerName('', None, name)
                 for name, split in by_tensor.items()}, counts)


def is_head(name: str) -> bool:
  """Whether it is the output layer over the vocabulary."""
  return _HEAD.fullmatch(name) is not None


def embedding_of(tensors: Mapping[str, Any]) -> str | None:
  """The input embedding, which a tied head is equal to."""
  return next((name for name, tensor in tensors.items()
               if embeddings.is_vocabulary(name) and not is_head(name)
               and name.endswith('weight') and len(tensor.shape) == 2), None)


def is_buffer(name: str, shape) -> bool:
  """Whether it follows from the config (masks, frequencies, counters)."""
  if name.endswith('.bias'):  # causal masks of old checkpoints
    return len(shape) == 4 and _BUFFER.search(name) is not None
  return _BUFFER.search(name) is not None


def _is_first(name: str) -> bool:
  """Whether it comes before the layers rather than behind them."""
  return not is_head(name) and _FIRST.search(name) is not None


def _uncut(recipe, stacks, problems) -> Iterator[OutputTensor]:
  """Models merged name by name."""
  part, = recipe.slices
  level, levels = parameters.slice_levels(recipe, 0)
  counts = {}
  for model, model_stacks in stacks.items():
    for stack, count in model_stacks.counts.items():
      counts.setdefault(stack, {})[model] = count
  uneven = set()
  for stack, by_model in counts.items():
    if len(set(by_model.values())) > 1:
      uneven.add(stack)
      text = ', '.join(f'{n} in {model}' for model, n in by_model.items())
      problems.add('error', f'{stack}*: the models have different numbers of '
                   f'layers, {text}; take as many of each with slices.')
  for name in _union(stacks[s.model].names for s in part.inputs):
    split = next(stacks[s.model].names[name] for s in part.inputs
                 if name in stacks[s.model].names)
    if split.stack in uneven and split.layer is not None:
      continue
    t = 0.0
    if split.layer is not None:
      t = _t(split.layer, max(counts[split.stack].values()))
    yield OutputTensor(name, part, (name,) * len(part.inputs), t, level, levels)


def _sliced(recipe, stacks, heads, problems) -> Iterator[OutputTensor]:
  """Layers put together from several slices."""
  for model, model_stacks in stacks.items():
    if len(model_stacks.counts) != 1:
      words = ', '.join(f'{s}*' for s in model_stacks.counts) or 'none'
      problems.add('error', f'{model}: slices are for models with one stack of '
                   f'layers, this one has {words}; merge whole models.')
  if any(len(model_stacks.counts) != 1 for model_stacks in stacks.values()):
    return
  prefixes = {model: next(iter(s.counts)) for model, s in stacks.items()}
  counts = {model: next(iter(s.counts.values()))
            for model, s in stacks.items()}
  prefix = prefixes[recipe.slices[0].inputs[0].model]
  yield from _loose(recipe, 0, stacks, (), True)
  start = 0
  for number, part in enumerate(recipe.slices):
    level, levels = parameters.slice_levels(recipe, number)
    count = part.inputs[0].layers[1] - part.inputs[0].layers[0]
    short = [s for s in part.inputs if s.layers[1] > counts[s.model]]
    for each in short:
      problems.add('error', f'slices[{number}]: layer_range '
                   f'{list(each.layers)} of {each.model}, which has '
                   f'{counts[each.model]} layers.')
    for offset in range(0 if short else count):
      rests = _union(
          [split.rest for split in stacks[s.model].names.values()
           if split.layer == s.layers[0] + offset] for s in part.inputs)
      for rest in rests:
        yield OutputTensor(
            f'{prefix}{start + offset}{rest}', part,
            tuple(f'{prefixes[s.model]}{s.layers[0] + offset}{rest}'
                  for s in part.inputs), _t(offset, count), level, levels)
    start += count
  yield from _loose(recipe, -1, stacks, heads, False)


def _loose(recipe, number, stacks, heads, first) -> Iterator[OutputTensor]:
  """Tensors of no layer: of slice 0 before, of slice -1 behind the layers."""
  part = recipe.slices[number]
  level, levels = parameters.slice_levels(recipe, number % len(recipe.slices))
  names = _union(
      [name for name, split in stacks[s.model].names.items()
       if split.layer is None and _is_first(name) == first]
      for s in part.inputs)
  for name in dict.fromkeys([*names, *heads]):
    yield OutputTensor(name, part, (name,) * len(part.inputs), 0.0, level,
                       levels)


def _t(layer: int, count: int) -> float:
  return layer / (count - 1) if count > 1 else 1.0


def _union(lists) -> list[str]:
  return list(dict.fromkeys(name for names in lists for name in names))
