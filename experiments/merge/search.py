"""Arms that search by a score alone."""
from collections.abc import Mapping
import dataclasses
import functools
from typing import Any, Literal

import jax
from jax import numpy as jnp
import numpy as np

from experiments.merge import operators
from experiments.merge.context import MergeContext
from experiments.merge.result import MergeResult
from experiments.merge.result import of_model
from experiments.merge.result import settings_of
from experiments.merge.spec import Arm
from kt_jax import core
from kt_jax import merge
from kt_jax import models
from kt_jax import procedures
from kt_jax.models.intercept import intercept


@dataclasses.dataclass(frozen=True)
class Search:
  """Settings of a search."""
  search: Literal['cma_es', 'random_search'] = 'cma_es'
  evaluations: int = 300  # at most
  sigma: float = 1 / 6
  population: int = 0  # 0: 4 + 3 log(genes)
  bounds: tuple[float, ...] = ()  # (low, high) of a gene; () none
  batch_size: int = 1  # genomes evaluated side by side


@dataclasses.dataclass(frozen=True)
class Evolve(Search):
  """Settings of `evolve`."""
  groups: str | tuple[str, ...] = 'layer'  # of leaves; see parameter_space
  genes: tuple[str, ...] = ('weight',)  # settings that are searched
  start: float = 0.5
  op_settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class LayerPath(Search):
  """Settings of `layer_path`."""
  repeats: int = 2
  scaled: bool = True


def evolve(arm: Arm, context: MergeContext) -> MergeResult:
  """Recipes of groups of leaves, by validation accuracy."""
  s = settings_of(Evolve, arm)
  experts = operators.experts(arm, context)
  base, params = context.base.params, [model[0] for model in experts]
  op = operators.operator(arm)
  space, score = _space(
      op, context.fns.logits, tuple((p, x.shape, str(x.dtype))
                                    for p, x in base.items()), len(params),
      s.groups, s.genes, s.start, tuple(s.op_settings.items()),
      context.seed if operators.takes_key(op) else None)
  stats = operators.batch_statistics(arm, context, base, experts)
  state = _search(s, context, space.mean, score,
                  (base, params, stats, *_validation(arm, context)))
  merged = jax.jit(space.decode)(state['best_genome'], base, params)
  return of_model(
      context,
      (merged, operators.batch_statistics(arm, context, merged, experts)),
      dict(fitness=float(state['best_fitness']), genes=float(space.size)))


def layer_path(arm: Arm, context: MergeContext) -> MergeResult:
  """A path through the blocks of all experts; other leaves are averaged.

  The network is a stack of residual blocks of one size, `blocks/i`.
  """
  s = settings_of(LayerPath, arm)
  params = [model[0] for model in operators.experts(arm, context)]
  stacked, depth = _stack(params)
  rest = merge.over_tree(merge.linear, params[0], params,
                         [1 / len(params)] * len(params))
  space, forward = _flow(context.base.net, depth, len(params), s.repeats,
                         s.scaled)
  normalize = context.fns.normalize
  state = _search(s, context, space.mean, _score_of_flow(forward, normalize),
                  (rest, stacked, *_validation(arm, context)))
  best = jnp.asarray(state['best_genome'], jnp.float32)
  def logits(_, arrays):
    size = context.spec.evaluate.batch_size
    return np.concatenate([np.asarray(_jitted(forward)(
        best, rest, stacked, normalize(np.asarray(arrays.images[at:at + size]))
    )) for at in range(0, len(arrays), size)])
  path = space.path(state['best_genome'])
  return MergeResult(logits, dict(
      fitness=float(state['best_fitness']), genes=float(space.size),
      layers=float(len(path)), path=' '.join(map(str, path))))


def _validation(arm, context):
  """Images and labels on which fitness is measured."""
  parts = [context.splits[t].validation for t in arm.tasks]
  if not all(map(len, parts)):
    raise core.UserError('A search needs data.validation of all its tasks.')
  return (jnp.asarray(np.concatenate([x.images for x in parts])),
          jnp.asarray(np.concatenate([x.labels for x in parts])))


def _search(s: Search, context, mean, score, args):
  """The last state of a search of at most `s.evaluations` scores."""
  population = s.population or 4 + int(3 * np.log(len(mean)))
  search = getattr(procedures, s.search)(
      mean, s.sigma, population=population, seed=context.seed,
      bounds=s.bounds or None)
  if s.evaluations < population:
    raise core.UserError(f'evaluations must be at least one generation of '
                         f'{population}, got {s.evaluations}.')
  state = search.init()
  for _ in range(s.evaluations // population):
    genomes = search.ask(state)
    state = search.tell(state, genomes, procedures.evaluate_population(
        score, genomes, *args, batch_size=min(s.batch_size, population)))
  return state


@functools.lru_cache
def _space(op, logits, shapes, count, groups, genes, start, op_settings, seed):
  """`(Space, score)`, the same objects for all seeds: compiled once."""
  base = {p: jax.ShapeDtypeStruct(shape, dtype) for p, shape, dtype in shapes}
  key = {} if seed is None else dict(key=jax.random.key(seed))
  space = procedures.parameter_space(
      op, base, count, groups=groups, genes=genes, start=start,
      **dict(op_settings), **key)
  def score(genome, base, params, buffers, images, labels):
    return _accuracy(logits(space.decode(genome, base, params), images,
                            buffers), labels)
  return space, score


def _accuracy(logits, labels):
  return jnp.mean(jnp.argmax(logits, -1) == labels)


def _stack(params):
  """The blocks of all models on a leading axis, and how many a model has."""
  prefix = 'blocks/'
  blocks = {}
  for path in params[0]:
    if path.startswith(prefix):
      number, _, name = path.removeprefix(prefix).partition('/')
      blocks.setdefault(int(number), set()).add(name)
  names = set(blocks.get(0, ()))
  if not names or any(other != names for other in blocks.values()):
    raise core.UserError('layer_path needs a network of equal blocks, '
                         'blocks/i.')
  stacked = {}
  for name in sorted(names):
    leaves = [m[f'{prefix}{n}/{name}'] for m in params for n in sorted(blocks)]
    if len({x.shape for x in leaves}) > 1:
      raise core.UserError('layer_path needs blocks of one size; '
                           f'blocks/i/{name} differ.')
    stacked[name] = jnp.stack(leaves)
  return stacked, len(blocks)


@functools.lru_cache
def _flow(net, depth, count, repeats, scaled):
  """`(Flow, forward(genome, rest, stacked, x))`."""
  def space(rest):
    def block(layer, h):  # the first one of the network, with these parameters
      layer = {f'blocks/0/{name}': x for name, x in layer.items()}
      return models.call(net, {**rest, **layer}, {},
                         lambda model: model.blocks[0](h))[0]
    return procedures.data_flow(block, depth * count, repeats=repeats,
                                first=depth, scaled=scaled)

  def forward(genome, rest, stacked, x):
    def handler(path, module, call, h):
      del module, call
      return space(rest).apply(genome, stacked, h) if path == 'blocks/0' else h
    def run(model):
      with intercept(model, (type(model.blocks[0]),), handler):
        return model(x)
    return models.call(net, rest, {}, run)[0]
  return space({}), forward


@functools.lru_cache
def _score_of_flow(forward, normalize):
  def score(genome, rest, stacked, images, labels):
    return _accuracy(forward(genome, rest, stacked, normalize(images)), labels)
  return score


_jitted = functools.lru_cache(jax.jit)
