"""Every tensor of the result: its name, inputs, parameters, depth."""
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from kt_jax.cli import layout
from kt_jax.cli import parameters
from kt_jax.cli import problems as problems_lib
from kt_jax.cli import recipe as recipe_lib


class Place(NamedTuple):
  """One tensor of the result."""
  name: str
  part: recipe_lib.Slice
  names: tuple[str, ...]  # in each source of `part`, which may lack it
  t: float  # place in [0, 1] for gradients
  level: parameters.Level  # parameters of the slice
  levels: tuple[parameters.Level, ...]  # of each source


def list_places(recipe, sources: Mapping[str, Any], heads: Sequence[str],
                problems: problems_lib.Problems) -> list[Place]:
  """The tensors of the result in the order of the first source.

  Tensors of no layer are those of the first slice if they come before the
  layers, else those of the last; t is 0 there. In layers it goes from 0 to 1
  over a slice, and is 1 in a slice of one layer.

  Args:
    recipe: a recipe.
    sources: reference -> opened model.
    heads: names of output layers that any model has.
    problems: takes what is wrong with layers.
  """
  layouts = {model: layout.read_layout(sources[model].tensors,
                                       sources[model].config)
             for model in recipe.references}
  make = _whole if recipe.whole else _sliced
  return list(make(recipe, layouts, heads, problems))


def list_levels(recipe) -> Iterator[tuple[str, parameters.Parameters, bool]]:
  """`(where, parameters, of one input only)` at every place of a recipe."""
  for number, part in enumerate(recipe.slices):
    level, levels = _levels(recipe, number)
    yield *level, False
    for source in levels:
      yield *source, True
  yield 'modules.default.parameters', recipe.module, False
  yield 'parameters', recipe.parameters, False


def _levels(recipe, number):
  part = recipe.slices[number]
  where = '' if recipe.whole else f'slices[{number}].'
  word = 'models' if recipe.whole else 'sources'
  return (parameters.Level(f'{where}parameters', part.parameters),
          tuple(parameters.Level(f'{where}{word}[{n}].parameters', s.parameters)
                for n, s in enumerate(part.sources)))


def _whole(recipe, layouts, heads, problems):
  """Models merged name by name."""
  part, = recipe.slices
  level, levels = _levels(recipe, 0)
  counts = {}
  for model, found in layouts.items():
    for stack, count in found.stacks.items():
      counts.setdefault(stack, {})[model] = count
  uneven = set()
  for stack, held in counts.items():
    if len(set(held.values())) > 1:
      uneven.add(stack)
      text = ', '.join(f'{n} in {model}' for model, n in held.items())
      problems.add('error', f'{stack}*: the models have different numbers of '
                   f'layers, {text}; take as many of each with slices.')
  for name in _union(layouts[s.model].places for s in part.sources):
    place = next(layouts[s.model].places[name] for s in part.sources
                 if name in layouts[s.model].places)
    if place.stack in uneven and place.layer is not None:
      continue
    t = 0.0
    if place.layer is not None:
      t = _t(place.layer, max(counts[place.stack].values()))
    yield Place(name, part, (name,) * len(part.sources), t, level, levels)


def _sliced(recipe, layouts, heads, problems):
  """Layers put together from several slices."""
  for model, found in layouts.items():
    if len(found.stacks) != 1:
      stacks = ', '.join(f'{s}*' for s in found.stacks) or 'none'
      problems.add('error', f'{model}: slices are for models with one stack of '
                   f'layers, this one has {stacks}; merge whole models.')
  if any(len(found.stacks) != 1 for found in layouts.values()):
    return
  stacks = {model: next(iter(f.stacks.items())) for model, f in layouts.items()}
  prefix = stacks[recipe.slices[0].sources[0].model][0]
  yield from _loose(recipe, 0, layouts, (), True)
  start = 0
  for number, part in enumerate(recipe.slices):
    level, levels = _levels(recipe, number)
    count = part.sources[0].layers[1] - part.sources[0].layers[0]
    short = [s for s in part.sources if s.layers[1] > stacks[s.model][1]]
    for source in short:
      problems.add('error', f'slices[{number}]: layer_range '
                   f'{list(source.layers)} of {source.model}, which has '
                   f'{stacks[source.model][1]} layers.')
    for offset in range(0 if short else count):
      rests = _union(
          [place.rest for place in layouts[s.model].places.values()
           if place.layer == s.layers[0] + offset] for s in part.sources)
      for rest in rests:
        yield Place(
            f'{prefix}{start + offset}{rest}', part,
            tuple(f'{stacks[s.model][0]}{s.layers[0] + offset}{rest}'
                  for s in part.sources), _t(offset, count), level, levels)
    start += count
  yield from _loose(recipe, -1, layouts, heads, False)


def _loose(recipe, number, layouts, heads, first):
  """Tensors of no layer: of slice 0 before, of slice -1 behind the layers."""
  part = recipe.slices[number]
  level, levels = _levels(recipe, number % len(recipe.slices))
  names = _union(
      [name for name, place in layouts[s.model].places.items()
       if place.layer is None and layout.is_first(name) == first]
      for s in part.sources)
  for name in dict.fromkeys([*names, *heads]):
    yield Place(name, part, (name,) * len(part.sources), 0.0, level, levels)


def _t(layer: int, count: int) -> float:
  return layer / (count - 1) if count > 1 else 1.0


def _union(lists) -> list[str]:
  return list(dict.fromkeys(name for names in lists for name in names))
