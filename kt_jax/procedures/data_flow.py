"""Genomes that are paths of an input through the layers of several models.

Weights do not change. The M layers of all models are offered R times, in slots
0..M R - 1; a genome selects the slots that are run.

Axes: M layers, R repeats, B examples.
"""
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax import numpy as jnp
import numpy as np

from kt_jax import core


class Flow(NamedTuple):
  """The meaning of genomes `[size]`.

  Attributes:
    apply: `(genome, layers, x)` -> output of the stack; traceable, compiled
      once whatever the path.
    path: genome -> the layers that run, in order.
    scales: genome -> `[M, M]`, the factor [i, j] of layer j's input where it
      comes from layer i.
    mean: `[size]`, mean of the first generation of a search.
    size: number of genes.
  """
  apply: Callable[..., jax.Array]
  path: Callable[[Any], list[int]]
  scales: Callable[[Any], Any]
  mean: np.ndarray
  size: int


def data_flow(block: Callable[[Any, jax.Array], jax.Array], layers: int, *,
              repeats: int = 3, first: int | None = None,
              scaled: bool = True, bias: float = 1 / 3) -> Flow:
  """The search space of layer sequences with scaled inputs.

    slot t has layer j = t mod M and runs if its gene is > 0;
    h <- block(layer j, W_ij h),   i the layer that ran before; at first W = 1

  Args:
    block: `(parameters of a layer, h [B, ...])` -> `[B, ...]` of the same shape
      (a residual block).
    layers: M, of all models together, stacked on a leading axis: model A's
      first.
    repeats: R.
    first: number of layers of model A, with which the search begins: their
      genes in the first pass begin at +bias, all others at -bias. None: all M.
    scaled: search W too; False fixes it to 1, which costs more than a fifth of
      the score in the paper.
    bias: two standard deviations of a search of sigma 1/6.

  Returns:
    A `Flow`. Genomes have M R genes, then M^2 of W, which begin at 1. After a
    search over `parameter_space`, its merge is model A.

  Raises:
    UserError: no layers, or more in model A than there are.

  Departures: W is free; for many layers the paper computes it by a small
    network of (i, j, t). It biases model A's first pass likewise; that the
    others begin below 0 is ours. All slots are computed and the results of
    those that do not run are dropped, so that all paths share one program.

  References: akiba2024evolutionary, Sec. 3.2.
  """
  first = layers if first is None else first
  if layers < 1 or repeats < 1 or not 0 <= first <= layers:
    raise core.UserError(
        'data_flow: layers and repeats must be at least 1 and first at most '
        f'layers, got {layers}, {repeats}, {first}.')
  slots = layers * repeats
  size = slots + scaled * layers**2
  begins = np.arange(slots) < first
  mean = np.concatenate([np.where(begins, bias, -bias), np.ones(size - slots)])

  def scales(genome):
    if not scaled:
      return np.ones((layers, layers))
    return genome[slots:].reshape(layers, layers)

  def path(genome) -> list[int]:
    # In float32, as in `apply`.
    runs = np.asarray(genome, np.float32)[:slots] > 0
    return (np.flatnonzero(runs) % layers).tolist()

  def apply(genome, stacked, x):
    genome = jnp.asarray(genome)
    if genome.shape != (size,):
      raise core.UserError(f'data_flow: a genome has {size} genes, got shape '
                           f'{genome.shape}.')
    table = jnp.asarray(scales(genome), x.dtype)

    def slot(carry, gene_and_index):
      h, before = carry
      gene, j = gene_and_index
      scale = jnp.where(before < 0, 1, table[before, j])
      out = block(jax.tree.map(lambda leaf: leaf[j], stacked), scale * h)
      return (jnp.where(gene > 0, out, h),
              jnp.where(gene > 0, j, before)), None

    indices = jnp.asarray(np.arange(slots) % layers, jnp.int32)
    (out, _), _ = jax.lax.scan(slot, (x, jnp.int32(-1)),
                               (genome[:slots], indices))
    return out

  return Flow(apply, path, scales, mean, size)
