"""What a search over genomes is, and what all searches share.

A search is `init() -> state`, `ask(state) -> genomes [N, n]` and `tell(state,
genomes, fitness [N]) -> state`. Nothing lives outside the state, a flat dict of
NumPy arrays: Orbax, npz or JSON keep it, and a search goes on bit for bit from
what was saved. Genomes are float64, on the host; keep the state so, for JAX
would round it to float32.

Axes: n genes, N genomes of a generation.
"""
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from kt_jax import core

State = dict[str, np.ndarray]


class Search(NamedTuple):
  """`init`, `ask`, `tell` and how many genomes a generation has."""
  init: Callable[[], State]
  ask: Callable[[State], np.ndarray]
  tell: Callable[[State, np.ndarray, np.ndarray], State]
  population: int


def start(name, mean, sigma, bounds):
  """Mean `[n]` and bounds `[n, 2]`, checked."""
  mean = np.atleast_1d(np.array(mean, np.float64))
  core.check_positive(name, sigma=sigma)
  if mean.ndim != 1 or not np.isfinite(mean).all():
    raise core.UserError(f'{name}: mean must be [n] finite numbers, got shape '
                         f'{mean.shape}.')
  if bounds is None:
    return mean, None
  bounds = np.broadcast_to(np.asarray(bounds, np.float64), (len(mean), 2))
  if not ((bounds[:, 0] <= mean) & (mean <= bounds[:, 1])).all():
    raise core.UserError(f'{name}: mean must lie within bounds.')
  return mean, bounds.copy()


def seed_of(seed, generation) -> int:
  """A 32-bit seed for one generation."""
  return int(np.random.SeedSequence(
      [int(seed), int(generation)]).generate_state(1)[0])


def told(name, genomes, fitness, population, size):
  """Genomes and fitness in float64, with NaN as the worst."""
  genomes = np.asarray(genomes, np.float64)
  fitness = np.asarray(fitness, np.float64)
  if genomes.shape != (population, size) or fitness.shape != (population,):
    raise core.UserError(
        f'{name}: tell asks for genomes {(population, size)} and fitness '
        f'{(population,)}, got {genomes.shape} and {fitness.shape}.')
  return genomes, np.where(np.isnan(fitness), -np.inf, fitness)


def record(mean, state=None, genomes=None, fitness=None) -> State:
  """The mean, the best so far and the number of the generation."""
  if state is None:
    return dict(mean=np.array(mean), generation=np.array(0),
                best_genome=np.array(mean), best_fitness=np.array(-np.inf))
  best = int(np.argmax(fitness))
  better = fitness[best] > state['best_fitness']
  return dict(
      mean=np.array(mean), generation=np.array(int(state['generation']) + 1),
      best_genome=np.array(genomes[best] if better else state['best_genome']),
      best_fitness=np.array(fitness[best] if better
                            else state['best_fitness']))
