"""CMA-ES over genomes.

Axes: n genes, N genomes of a generation.
"""
import numpy as np

from kt_jax import core
from kt_jax.procedures import _search as search_lib
from kt_jax.procedures._search import Search
from kt_jax.procedures._search import State


def cma_es(mean, sigma: float = 1 / 6, *, population: int | None = None,
           seed: int = 0, bounds=None, diagonal: bool | None = None) -> Search:
  """CMA-ES, which maximizes fitness.

  Unconstrained Model Merging is this over coefficients per layer:
  `parameter_space(..., groups='leaf', genes=('weight',))`.

  Args:
    mean: `[n]`, mean of the first generation.
    sigma: standard deviation of the first generation.
    population: N; None: 4 + floor(3 ln n).
    seed: of all randomness; a generation depends on (seed, its number).
    bounds: `[n, 2]`, lowest and highest value of each gene, or one such pair.
    diagonal: keep variances only (sep-CMA-ES), n numbers instead of n^2; None:
      where n > 500, because an eigendecomposition costs n^3.

  Returns:
    A `Search`. Its state has `best_genome [n]` and `best_fitness` so far, the
    current `mean [n]` and the number of the `generation`. NaN counts as the
    worst fitness.

  Raises:
    UserError: `cmaes` is not installed, sigma is not positive, a mean outside
      the bounds, fewer than four genomes.

  Departures: the paper searched with populations of 128 (data flow); `cmaes`
    sets all constants as in Hansen's tutorial.

  References: akiba2024evolutionary; zhang2024unconstrained.
  """
  try:
    import cmaes  # pylint: disable=import-outside-toplevel
  except ImportError as e:
    raise core.UserError('cma_es needs the package cmaes: pip install '
                         '"kt_jax[search]".') from e
  name = 'cma_es'
  mean, bounds = search_lib.check_start(name, mean, sigma, bounds)
  if population is None:
    population = 4 + int(3 * np.log(len(mean)))
  if population < 4:
    raise core.UserError(f'{name}: population must be at least 4, got '
                         f'{population}.')
  if diagonal is None:
    diagonal = len(mean) > 500
  kind = cmaes.SepCMA if diagonal else cmaes.CMA
  if diagonal and len(mean) < 2:
    raise core.UserError(f'{name}: diagonal needs at least two genes.')
  prefix = 'strategy/'

  def fresh():
    return kind(mean=mean.copy(), sigma=float(sigma), bounds=bounds,
                population_size=population, seed=0)

  # The pickled state of the package as arrays. Its random generator is not in
  # it; each generation has a seed of its own.
  def pack(strategy) -> State:
    return {prefix + name: np.array(value)
            for name, value in strategy.__getstate__().items()
            if value is not None}

  def unpack(state: State):
    strategy = fresh()
    attributes = strategy.__getstate__()
    for key, value in state.items():
      if not key.startswith(prefix):
        continue
      if key[len(prefix):] not in attributes:
        raise core.UserError(f'{name}: this state is of another version of '
                             f'cmaes: it has {key!r}.')
      value = np.array(value)  # the package writes into its arrays
      if value.dtype == np.float32:
        raise core.UserError(f'{name}: {key!r} is float32; keep the state as '
                             'NumPy arrays, in float64.')
      attributes[key[len(prefix):]] = value if value.ndim else value.item()
    if (attributes['_popsize'], attributes['_n_dim']) != (population,
                                                          len(mean)):
      raise core.UserError(
          f'{name}: this state has {attributes["_popsize"]} genomes of '
          f'{attributes["_n_dim"]} genes, the search {population} of '
          f'{len(mean)}.')
    strategy.__setstate__(attributes)
    strategy.reseed_rng(search_lib.seed_of(seed, state['generation']))
    return strategy

  def init() -> State:
    packed = pack(fresh())
    # The package leaves this one uninitialized.
    packed[prefix + '_funhist_values'][:] = 0
    return search_lib.first_record(mean) | packed

  def ask(state: State) -> np.ndarray:
    strategy = unpack(state)
    return np.stack([strategy.ask() for _ in range(population)])

  def tell(state: State, genomes, fitness) -> State:
    genomes, fitness = search_lib.check_fitness(name, genomes, fitness,
                                                population, len(mean))
    strategy = unpack(state)
    strategy.tell([(genome, -value) for genome, value in zip(genomes, fitness)])
    return search_lib.record(strategy.mean, state, genomes, fitness) | pack(
        strategy)

  return Search(init, ask, tell, population)
