"""DARE: drops entries of the deltas at random and rescales the rest."""
from collections.abc import Sequence

import jax

from kt_jax.merge._combine import combine
from kt_jax.merge._combine import entrywise
from kt_jax.merge.contract import declare


def dare(
    base: jax.Array,
    models: jax.Array,
    weight: jax.Array,
    key: jax.Array | None = None,
    *,
    density: float | Sequence[float] | jax.Array = 0.1,
    rescale: str = 'inverse',
    elect: str = 'none',
    normalize: bool = False,
    scale: float | jax.Array = 1.0,
) -> jax.Array:
  r"""Adds task vectors of which a random share is kept.

    base + scale sum_t w_t b_t (m_t - base) / density,  b_t ~ Bernoulli(density)

  The expectation is task arithmetic's. elect='sum' adds only moves that have
  the elected sign, as `ties` does.

  Args:
    base: `[...]` leaf of the base model; also gives the dtype.
    models: `[T, ...]` the same leaf of T models.
    weight: `[T]`, any finite reals, possibly traced.
    key: the leaf's; `over_tree(..., key=)` folds one with each leaf's path. The
      models draw independently.
    density: share kept in expectation, 1 - p of the paper, a number or `[T]`;
      the paper drops p = 0.9 and up to 0.99.
    rescale: 'inverse' (the paper's, unbiased), 'l1' (the deltas keep their L1
      norm over the leaf: mergekit's) or 'none'.
    elect: 'none', 'sum' or 'count'.
    normalize: divides by the weights that are added.
    scale: of the sum.

  Returns:
    `[...]` in base's dtype. At density 1 one model of weight 1 comes back bit
    for bit.

  Departures: mergekit's DARE keeps the norm of each tensor (rescale='l1'),
  which the paper does not, and draws other numbers.

  References: yu2023dare, Sec. 3.2.
  """
  return combine('dare', base, models, weight, None, key, trim='random',
                 density=density, rescale=rescale, elect=elect,
                 normalize=normalize, scale=scale)


declare(dare, entrywise=entrywise)
