"""Genomes that are merge recipes: weights and densities of layers and models.

Axes: G groups of leaves, T models, K kinds of genes; a genome is `[G * T * K]`.
"""
from collections.abc import Callable, Sequence
import re
from typing import NamedTuple

import jax
from jax import numpy as jnp
import numpy as np

from kt_jax import core
from kt_jax import merge


class Space(NamedTuple):
  """The meaning of genomes `[size]`.

  Attributes:
    decode: `(genome, base, models)` -> merged parameters; traceable.
    recipe: genome -> `{regex: {gene: [T] numbers}}`, its settings as data.
    mean: `[size]`, mean of the first generation of a search.
    size: number of genes.
  """
  decode: Callable[..., dict[str, jax.Array]]
  recipe: Callable[[jax.Array], dict[str, dict[str, list[float]]]]
  mean: np.ndarray
  size: int


def parameter_space(op, base, count: int, *,
                    groups: str | Sequence[str] = 'layer',
                    genes: Sequence[str] = ('weight',), start: float = 0.5,
                    **settings) -> Space:
  """The search space of merges with settings of their own per group of leaves.

    leaf of group g <- op(base, models, w_g, density=d_g)

    space = parameter_space(merge.ties, base, T, genes=('weight', 'density'))
    search = cma_es(space.mean)
    score = lambda genome, base, models, data: accuracy(
        space.decode(genome, base, models), data)
    state = search.init()
    genomes = search.ask(state)
    fitness = evaluate_population(score, genomes, base, models, data,
                                  batch_size=8)
    state = search.tell(state, genomes, fitness)

  Measure fitness on data that is not the test set; report both.

  Args:
    op: a leaf operator, such as `linear`, `ties`, `dare`.
    base: flat dict, path -> array; shapes will do.
    count: T, the number of models.
    groups: 'layer', one group per number of a layer and one for leaves outside
      of layers (embeddings, heads); 'leaf', one per leaf; 'model', a single
      one; or regexes, of which the first that matches in a path is used (a leaf
      that none matches is copied from the base).
    genes: settings of `op` that take `[T]` numbers; without 'weight' every
      weight is 1. A density is clipped to [0, 1].
    start: the mean of every gene.
    **settings: of `op` and of `over_tree`, the same everywhere: key, normalize.
      With `key`, all genomes have the same random masks.

  Returns:
    A `Space`.

  Raises:
    UserError: no genes, no models, groups that are not one of those.

  Departures: the paper's searches begin at 0.5 with sigma 1/6; mergekit's begin
    at 1/T and density 1 and take absolute values; here genes may be negative.

  References: akiba2024evolutionary, Sec. 3.1; zhang2024unconstrained.
  """
  name = 'parameter_space'
  if count < 1 or not genes:
    raise core.UserError(f'{name}: needs at least one model and one gene, got '
                         f'count {count}, genes {tuple(genes)}.')
  patterns = _patterns(name, base, groups)
  shape = (len(patterns), count, len(genes))
  size = int(np.prod(shape))

  def settings_of(genome) -> list[dict]:
    if genome.shape != (size,):
      raise core.UserError(f'{name}: a genome has {size} genes, got shape '
                           f'{genome.shape}.')
    table = genome.reshape(shape)
    return [{gene: table[g, :, k].clip(0, 1) if gene == 'density'
             else table[g, :, k] for k, gene in enumerate(genes)}
            for g in range(len(patterns))]

  def decode(genome, base, models):
    rules = list(zip(patterns, settings_of(jnp.asarray(genome))))
    return merge.over_tree(op, base, models, [1.0] * count,
                           rules=[*rules, ('', None)], **settings)

  def recipe(genome):
    return {pattern: {gene: values.tolist() for gene, values in one.items()}
            for pattern, one in zip(patterns, settings_of(np.asarray(genome)))}

  return Space(decode, recipe, np.full(size, float(start)), size)


def _patterns(name, base, groups) -> list[str]:
  """A regex for each group."""
  if not isinstance(groups, str):
    return list(groups)
  if groups == 'model':
    return ['']
  exact = lambda paths: '|'.join(f'^{re.escape(path)}$' for path in paths)
  paths = [path for path, leaf in base.items()
           if jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)]
  if groups == 'leaf':
    return [exact([path]) for path in paths]
  if groups != 'layer':
    raise core.UserError(f'{name}: ' + core.nearest(
        'value of groups', groups, ('layer', 'leaf', 'model'))
        + ' Or a list of regexes.')
  layers: dict[int | None, list[str]] = {}
  for path in paths:
    layers.setdefault(merge.layer_of(path), []).append(path)
  return [exact(layers[layer]) for layer in sorted(
      layers, key=lambda n: (n is not None, n))]
