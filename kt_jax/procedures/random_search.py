"""Random search over genomes, to compare others with.

Axes: n genes, N genomes of a generation.
"""
import numpy as np

from kt_jax.procedures import search as search_lib
from kt_jax.procedures.search import Search
from kt_jax.procedures.search import State


def random_search(mean, sigma: float = 1 / 6, *, population: int = 16,
                  seed: int = 0, bounds=None) -> Search:
  """Draws every generation alike: the baseline at an equal count of scores.

  Args:
    mean: `[n]`.
    sigma: standard deviation of each gene around the mean, without bounds.
    population: N.
    seed: where randomness comes from.
    bounds: `[n, 2]`, or one pair: genes are then uniform between them.

  Returns:
    A `Search`, as `cma_es`; its `mean` stays where it was.

  Raises:
    UserError: sigma is not positive, a mean outside the bounds.

  Departures: none.

  References: none.
  """
  name = 'random_search'
  mean, bounds = search_lib.start(name, mean, sigma, bounds)

  def ask(state: State) -> np.ndarray:
    rng = np.random.default_rng(search_lib.seed_of(seed, state['generation']))
    if bounds is not None:
      return rng.uniform(*bounds.T, size=(population, len(mean)))
    return mean + sigma * rng.standard_normal((population, len(mean)))

  def tell(state: State, genomes, fitness) -> State:
    genomes, fitness = search_lib.told(name, genomes, fitness, population,
                                       len(mean))
    return search_lib.record(mean, state, genomes, fitness)

  return Search(lambda: search_lib.record(mean), ask, tell, population)
