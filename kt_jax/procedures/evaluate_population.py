"""Scores many genomes with one compiled program."""
from collections.abc import Callable
import functools

import jax
from jax import numpy as jnp
import numpy as np

from kt_jax import core


def evaluate_population(score: Callable[..., jax.Array], genomes, *args,
                        batch_size: int) -> np.ndarray:
  """`score(genome, *args)` of every genome, `batch_size` at a time.

  Compiled once for a `score` (the same function object), its arguments' shapes
  and a batch size: neither the generation nor the population compiles anew, for
  the last batch is padded.

  Args:
    score: genome `[n]` and args -> a scalar; traceable, seen under `vmap`.
      Merging and evaluating belong inside it.
    genomes: `[N, n]`.
    *args: pytrees of arrays: models, data. What `score` closes over instead is
      compiled in as constants.
    batch_size: how many merged models are in memory at once.

  Returns:
    `[N]` float64 on the host.

  Raises:
    UserError: no batch size, genomes that are not `[N, n]`.

  Departures: none.

  References: none.
  """
  genomes = np.asarray(genomes)
  if genomes.ndim != 2 or not len(genomes):
    raise core.UserError('evaluate_population: genomes must be [N, n], N >= 1, '
                         f'got shape {genomes.shape}.')
  if batch_size < 1:
    raise core.UserError('evaluate_population: batch_size must be at least 1, '
                         f'got {batch_size}.')
  out = []
  for start in range(0, len(genomes), batch_size):
    chunk = genomes[start:start + batch_size]
    short = batch_size - len(chunk)
    padded = np.concatenate([chunk, np.repeat(chunk[-1:], short, 0)])
    # Calls return before they are done: the device is kept busy.
    out.append(_scores(score, jnp.asarray(padded, jnp.float32), args)
               [:len(chunk)])
  return np.concatenate([np.asarray(x, np.float64) for x in out])


@functools.partial(jax.jit, static_argnums=0)
def _scores(score, genomes, args):
  return jax.vmap(lambda genome: score(genome, *args))(genomes)
