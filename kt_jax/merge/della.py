"""DELLA: drops entries at random, small ones with higher probability."""
from collections.abc import Sequence

import jax

from kt_jax.merge._combine import combine


def della(
    base: jax.Array,
    models: jax.Array,
    weight: jax.Array,
    key: jax.Array | None = None,
    *,
    density: float | Sequence[float] | jax.Array = 0.7,
    epsilon: float | Sequence[float] | jax.Array = 0.07,
    axis: int | None = -1,
    rescale: str = 'inverse',
    elect: str = 'sum',
    normalize: bool = True,
    scale: float | jax.Array = 1.0,
) -> jax.Array:
  r"""Keeps the entry of rank r among n of its row with probability p_r.

    p_r = density - epsilon + 2 epsilon (r - 1) / (n - 1),  r = n the largest
    d_t = b (m_t - base) / p_r,  b ~ Bernoulli(p_r)

  and merges the d_t as `ties` does: elected sign, mean of the moves that agree.
  elect='none', normalize=False adds them all.

  Args:
    base: `[...]` leaf of the base model; also gives the dtype.
    models: `[T, ...]` the same leaf of T models.
    weight: `[T]`, any finite reals, possibly traced.
    key: the leaf's; `over_tree(..., key=)` folds one with each leaf's path.
    density: mean share kept, a number or `[T]`; 1 keeps all, 0 nothing.
    epsilon: half the width of the probabilities, a number or `[T]`; density +-
      epsilon must stay in [0, 1].
    axis: the axis along which entries are ranked; -1 is a row of weights of one
      output in the layout `[out, in]`, 0 in `[in, out]`. None ranks the leaf.
    rescale: 'inverse' (the paper's), 'l1' (mergekit's) or 'none'.
    elect: 'sum', 'count' or 'none'.
    normalize: divides by the weights that are added.
    scale: lambda of the paper.

  Returns:
    `[...]` in base's dtype. At density 1 one model of weight 1 comes back bit
    for bit. Sorts, and needs the whole leaf.

  Departures: the paper has drop rates p = 1 - density and a window 2 epsilon;
  the defaults are the example of the authors' code (p = 0.3, window 0.14), as
  the paper searches them. A row of one entry has probability density, where
  mergekit divides 0 by 0. mergekit ranks along axis 1 of leaves with two axes
  or more.

  References: deep2024della, Sec. 3 (MagPrune).
  """
  return combine('della', base, models, weight, None, key, trim='rank',
                 density=density, epsilon=epsilon, axis=axis, rescale=rescale,
                 elect=elect, normalize=normalize, scale=scale)
