"""Scores many genomes with one compiled program."""
from collections.abc import Callable
import functools

import jax
from jax import numpy as jnp
import numpy as np

from kt_jax import core

_GENOMES = 16  # per call of the program, unless a batch is larger
_CALLS = 4  # in flight at once: the loop in a program keeps few cores busy


def evaluate_population(score: Callable[..., jax.Array], genomes, *args,
                        batch_size: int = 1) -> np.ndarray:
  """`score(genome, *args)` of every genome.

  Compiled once per `score` (the same function object), shapes of its arguments
  and batch size, whatever the generation and the population. The loop over
  genomes is inside of the program, so that what does not depend on the genome
  (DARE's draws) is computed once per call, not once per genome.

  Args:
    score: genome `[n]` and args -> a scalar; traceable, under `vmap` if
      batch_size > 1. Merging and evaluation belong inside it.
    genomes: `[N, n]`.
    *args: pytrees of arrays: models, data. Arrays in the closure of `score` are
      compiled in as constants.
    batch_size: number of genomes that a call scores side by side, and of merged
      models in its memory. On CPUs 1 is as fast as a loop of jitted calls, and
      more is often slower; accelerators need more. There is a call per 16
      genomes, or per batch if that is larger; at most four are in flight.

  Returns:
    `[N]` float64 on the host.

  Raises:
    UserError: a batch size below 1, genomes that are not `[N, n]`, a score that
      is not a scalar.

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
    # The last batch is padded with a genome that has a score.
    filled = np.concatenate([chunk, np.repeat(chunk[-1:], size - len(chunk),
                                              0)]).astype(np.float32)
    batches = np.int32(-(-len(chunk) // batch_size))
    # Calls return before they finish, and each in flight has its own memory.
    if len(out) >= _CALLS:
      out[-_CALLS][0].block_until_ready()
    out.append((_scores(score, batch_size, filled, batches, args), len(chunk)))
  return np.concatenate([np.asarray(x, np.float64)[:n] for x, n in out])


def padded(batch_size: int) -> int:
  """Number of genomes per call of the program: whole batches."""
  return -(-_GENOMES // batch_size) * batch_size


@functools.partial(jax.jit, static_argnums=(0, 1))
def _scores(score, batch_size, genomes, batches, args):
  """Scores of the first `batches` batches; the rest is 0."""
  genomes = genomes.reshape(-1, batch_size, genomes.shape[-1])

  def one(genome):
    value = jnp.asarray(score(genome, *args))
    if value.shape:
      raise core.UserError('evaluate_population: score must return a scalar, '
                           f'got shape {value.shape}.')
    return value.astype(out.dtype)

  def body(number, out):
    batch = genomes[number]
    # vmap over one genome would turn every product into a batched one.
    values = one(batch[0])[None] if batch_size == 1 else jax.vmap(one)(batch)
    return out.at[number].set(values)
  out = jnp.zeros(genomes.shape[:2], jnp.result_type(float))
  return jax.lax.fori_loop(0, batches, body, out).reshape(-1)
