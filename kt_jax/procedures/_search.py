"""The interface of searches over genomes, and what they share.

A search is `init() -> state`, `ask(state) -> genomes [N, n]` and `tell(state,
genomes, fitness [N]) -> state`. The state is all there is, a flat dict of NumPy
arrays: saved by Orbax, npz or JSON, a search continues from it bit for bit.
Genomes are float64, on the host; keep the state in NumPy, because JAX would
round it to float32.

Axes: n genes, N genomes of a generation.
"""
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from kt_jax import core

State = dict[str, np.ndarray]


class Search(NamedTuple):
  """`init`, `ask`, `tell` and the number of genomes of a generation."""
  init: Callable[[], State]
  ask: Callable[[State], np.ndarray]
  tell: Callable[[State, np.ndarray, np.ndarray], State]
  population: int


def check_start(name, mean, sigma, bounds):
  """Mean `[n]` and bounds `[n, 2]` or None, in float64.

  Raises:
    UserError: a sigma or a mean that no search can start from.
  """
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


def check_fitness(name, genomes, fitness, population, size):
  """Genomes and fitness in float64, with NaN as the worst.

  Raises:
    UserError: other shapes than `[population, size]` and `[population]`.
  """
  genomes = np.asarray(genomes, np.float64)
  fitness = np.asarray(fitness, np.float64)
  if genomes.shape != (population, size) or fitness.shape != (population,):
    raise core.UserError(
        f'{name}: tell asks for genomes {(population, size)} and fitness '
        f'{(population,)}, got {genomes.shape} and {fitness.shape}.')
  return genomes, np.where(np.isnan(fitness), -np.inf, fitness)


def first_record(mean) -> State:
  """The mean, and the best genome before the first generation."""
  return dict(mean=np.array(mean), generation=np.array(0),
              best_genome=np.array(mean), best_fitness=np.array(-np.inf))


def record(mean, state: State, genomes, fitness) -> State:
  """The mean, the best genome so far and the number of the generation."""
  best = int(np.argmax(fitness))
  better = fitness[best] > state['best_fitness']
  return dict(
      mean=np.array(mean), generation=np.array(int(state['generation']) + 1),
      best_genome=np.array(genomes[best] if better else state['best_genome']),
      best_fitness=np.array(fitness[best] if better
                            else state['best_fitness']))
