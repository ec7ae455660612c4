"""Random search over genomes, a baseline of the other searches.

Axes: n genes, N genomes of a generation.
"""
import numpy as np

from kt_jax.procedures import _search as search_lib
from kt_jax.procedures._search import Search
from kt_jax.procedures._search import State


def random_search(mean, sigma: float = 1 / 6, *, population: int = 16,
                  seed: int = 0, bounds=None) -> Search:
  """Draws all generations from one distribution: the baseline at equal cost.

  Args:
    mean: `[n]`.
    sigma: standard deviation of each gene around the mean, without bounds.
    population: N.
    seed: of all randomness.
    bounds: `[n, 2]`, or one pair: genes are then uniform between them.

  Returns:
    A `Search`, as `cma_es`; its `mean` never changes.

  Raises:
    UserError: sigma is not positive, a mean outside the bounds.

  """
  name = 'random_search'
  mean, bounds = search_lib.check_start(name, mean, sigma, bounds)

  def ask(state: State) -> np.ndarray:
    rng = np.random.default_rng(search_lib.seed_of(seed, state['generation']))
    if bounds is not None:
      return rng.uniform(*bounds.T, size=(population, len(mean)))
    return mean + sigma * rng.standard_normal((population, len(mean)))

  def tell(state: State, genomes, fitness) -> State:
    genomes, fitness = search_lib.check_fitness(name, genomes, fitness,
                                                population, len(mean))
    return search_lib.record(mean, state, genomes, fitness)

  return Search(lambda: search_lib.first_record(mean), ask, tell, population)
