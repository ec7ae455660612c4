"""Scores many genomes with one compiled program."""
from collections.abc import Callable
import functools

import jax
from jax import numpy as jnp
import numpy as np

from kt_jax import core

_GENOMES = 16  # that a call of the program takes, unless a batch is larger
_CALLS = 4  # under way at once: a loop in a program keeps few cores busy


def evaluate_population(score: Callable[..., jax.Array], genomes, *args,
                        batch_size: int = 1) -> np.ndarray:
  """`score(genome, *args)` of every genome.

  Compiled once for a `score` (the same function object), its arguments' shapes
  and a batch size: neither the generation nor the population compiles anew. The
  loop over genomes is inside of the program, so that what does not hang on the
  genome (DARE's draws) is computed once a call, not once a genome.

  Args:
    score: genome `[n]` and args -> a scalar; traceable, seen under `vmap` if
      batch_size > 1. Merging and evaluating belong inside it.
    genomes: `[N, n]`.
    *args: pytrees of arrays: models, data. What `score` closes over instead is
      compiled in as constants.
    batch_size: how many genomes a call scores side by side, and so how many
      merged models it has in memory. On CPUs 1 is no slower than a loop of
      jitted calls, more often is; accelerators want more. A population takes a
      call for every 16 genomes, or batch if that is more; at most four are
      under way at once.

  Returns:
    `[N]` float64 on the host.

  Raises:
    UserError: a batch size below 1, genomes that are not `[N, n]`, a score that
      is not a scalar.

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
  size = padded(batch_size)
  out = []
  for start in range(0, len(genomes), size):
    chunk = genomes[start:start + size]
    # The last batch is filled up with a genome that has a score.
    filled = np.concatenate([chunk, np.repeat(chunk[-1:], size - len(chunk),
                                              0)]).astype(np.float32)
    batches = np.int32(-(-len(chunk) // batch_size))
    # Calls return before they are done. Each under way has memory of its own.
    if len(out) >= _CALLS:
      out[-_CALLS][0].block_until_ready()
    out.append((_scores(score, batch_size, filled, batches, args), len(chunk)))
  return np.concatenate([np.asarray(x, np.float64)[:n] for x, n in out])


def padded(batch_size: int) -> int:
  """How many genomes a call of the program takes: whole batches."""
  return -(-_GENOMES // batch_size) * batch_size


@functools.partial(jax.jit, static_argnums=(0, 1))
def _scores(score, batch_size, genomes, batches, args):
  """Scores of the first `batches` batches; what is beyond them is 0."""
  genomes = genomes.reshape(-1, batch_size, genomes.shape[-1])

  def one(genome):
    value = jnp.asarray(score(genome, *args))
    if value.shape:
      raise core.UserError('evaluate_population: score must return a scalar, '
                           f'got shape {value.shape}.')
    return value.astype(out.dtype)

  def body(number, out):
    batch = genomes[number]
    # A vmap over one would batch every product in vain.
    found = one(batch[0])[None] if batch_size == 1 else jax.vmap(one)(batch)
    return out.at[number].set(found)
  out = jnp.zeros(genomes.shape[:2], jnp.result_type(float))
  return jax.lax.fori_loop(0, batches, body, out).reshape(-1)
