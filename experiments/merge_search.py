"""Arms of `merge` that search with a score only."""
import functools

import jax
from jax import numpy as jnp
import numpy as np

from experiments import merge_apply
from experiments import merge_kinds
from experiments.merge_options import OneOf
from experiments.merge_options import options
from experiments.merge_options import read
from kt_jax import core
from kt_jax import merge
from kt_jax import models
from kt_jax import procedures

SEARCH = dict(search=OneOf(('cma_es', 'random_search')), evaluations=300,
              sigma=1 / 6, population=0, bounds=(), at_once=1)


@options(groups='layer', genes=('weight',), start=0.5, of_op={}, **SEARCH)
def evolve(config, arm, scene) -> merge_kinds.Made:
  """Recipes of groups of leaves, by accuracy on what the tasks hold out."""
  s = read(config, arm, evolve)
  found = merge_apply.experts(config, arm, scene)
  base, params = scene.base.params, [model[0] for model in found]
  op = merge_apply.operator(arm)
  space, score = _space(
      op, scene.fns.logits, tuple((p, x.shape, str(x.dtype))
                                  for p, x in base.items()), len(params),
      s.groups if isinstance(s.groups, str) else tuple(s.groups),
      tuple(s.genes), s.start, tuple(dict(s.of_op).items()),
      scene.seed if merge_apply.draws(op) else None)
  buffers = merge_apply.buffers(config, arm, scene, base, found)
  state = _search(s, scene, space.mean, score,
                  (base, params, buffers, *_held_out(arm, scene)))
  merged = jax.jit(space.decode)(state['best_genome'], base, params)
  return merge_kinds.of_model(
      scene, (merged, merge_apply.buffers(config, arm, scene, merged, found)),
      dict(fitness=float(state['best_fitness']), genes=float(space.size)))


@options(repeats=2, scaled=True, **SEARCH)
def flow(config, arm, scene) -> merge_kinds.Made:
  """A path through the blocks of all experts; their other leaves' mean.

  The network is a stack of residual blocks of one size, `blocks/i`.
  """
  s = read(config, arm, flow)
  found = merge_apply.experts(config, arm, scene)
  params = [model[0] for model in found]
  stacked, depth = _stack(params)
  rest = merge.over_tree(merge.linear, params[0], params,
                         [1 / len(params)] * len(params))
  space, forward = _flow(scene.base.net, depth, len(params), s.repeats,
                         s.scaled)
  score = _score_of_flow(forward, scene.fns.normal)
  state = _search(s, scene, space.mean, score,
                  (rest, stacked, *_held_out(arm, scene)))
  best = jnp.asarray(state['best_genome'], jnp.float32)
  def logits(_, arrays):
    size = config.eval_batch_size
    return np.concatenate([np.asarray(_logits_of_flow(
        forward, scene.fns.normal, best, rest, stacked,
        np.asarray(arrays.images[at:at + size])))
        for at in range(0, len(arrays), size)])
  return merge_kinds.Made(logits, dict(
      fitness=float(state['best_fitness']), genes=float(space.size),
      layers=float(len(space.path(state['best_genome']))),
      path=' '.join(map(str, space.path(state['best_genome'])))))


def _held_out(arm, scene):
  """Images and labels on which fitness is measured."""
  parts = [scene.splits[t].validation for t in arm.tasks]
  if not all(map(len, parts)):
    raise core.UserError('A search asks for data.validation of all its tasks.')
  return (jnp.asarray(np.concatenate([x.images for x in parts])),
          jnp.asarray(np.concatenate([x.labels for x in parts])))


def _search(s, scene, mean, score, args):
  """The last state; no more than `s.evaluations` scores are asked for."""
  bounds = tuple(s.bounds) or None
  population = s.population or 4 + int(3 * np.log(len(mean)))
  search = getattr(procedures, s.search)(
      mean, s.sigma, population=population, seed=scene.seed, bounds=bounds)
  if s.evaluations < population:
    raise core.UserError(f'evaluations must be at least one generation of '
                         f'{population}, got {s.evaluations}.')
  state = search.init()
  for _ in range(s.evaluations // population):
    genomes = search.ask(state)
    state = search.tell(state, genomes, procedures.evaluate_population(
        score, genomes, *args, batch_size=min(s.at_once, population)))
  return state


@functools.lru_cache
def _space(op, logits, shapes, count, groups, genes, start, of_op, seed):
  """`(Space, score)`, the same objects for all seeds: compiled once."""
  base = {p: jax.ShapeDtypeStruct(shape, dtype) for p, shape, dtype in shapes}
  key = {} if seed is None else dict(key=jax.random.key(seed))
  space = procedures.parameter_space(
      op, base, count, groups=groups, genes=genes, start=start, **dict(of_op),
      **key)
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
  if not names or any(have != names for have in blocks.values()):
    raise core.UserError('A flow asks for a network of equal blocks, blocks/i.')
  stacked = {}
  for name in sorted(names):
    leaves = [m[f'{prefix}{n}/{name}'] for m in params for n in sorted(blocks)]
    if len({x.shape for x in leaves}) > 1:
      raise core.UserError('A flow asks for blocks of one size; '
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
      with models.intercept(model, (type(model.blocks[0]),), handler):
        return model(x)
    return models.call(net, rest, {}, run)[0]
  return space({}), forward


@functools.lru_cache
def _score_of_flow(forward, normal):
  def score(genome, rest, stacked, images, labels):
    return _accuracy(forward(genome, rest, stacked, normal(images)), labels)
  return score


def _logits_of_flow(forward, normal, genome, rest, stacked, images):
  return _jitted(forward)(genome, rest, stacked, normal(images))


_jitted = functools.lru_cache(jax.jit)
