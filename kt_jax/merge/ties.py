"""TIES: trim, elect signs, and average the moves that agree."""
from collections.abc import Sequence

import jax

from kt_jax.merge._bounds import bounds_measure
from kt_jax.merge._combine import combine
from kt_jax.merge._combine import entrywise
from kt_jax.merge.contract import declare


def ties(
    base: jax.Array,
    models: jax.Array,
    weight: jax.Array,
    threshold: jax.Array | None = None,
    *,
    density: float | Sequence[float] | jax.Array = 0.2,
    elect: str = 'sum',
    normalize: bool = True,
    rescale: str = 'none',
    scale: float | jax.Array = 1.0,
) -> jax.Array:
  r"""Adds the mean of the trimmed task vectors that agree in sign.

    trim:   d_t = m_t - base where that is among its largest, else 0
    elect:  s = sign(sum_t w_t d_t)
    merge:  base + scale sum_{t in A} w_t d_t / sum_{t in A} w_t,
            A = {t: w_t d_t has sign s}

  Three methods have this name. The paper's trims over the whole model: pass
  `threshold=whole_model_bounds(leaves, density)` with every leaf. mergekit's
  trims each tensor separately: pass no threshold. fusion_bench's adds in place
  of averaging: normalize=False, scale=0.3. A trim of the whole model may leave
  layers of small deltas (norms) unchanged.

  Args:
    base: `[...]` leaf of the base model; also gives the dtype.
    models: `[T, ...]` the same leaf of T models.
    weight: `[T]`, any finite reals, possibly traced; the paper's are equal. A
      negative one reverses its task vector before the election.
    threshold: `[T, 2]` smallest and largest magnitude kept, measured over the
      whole model. With it the operator is entrywise, and `density` has an
      effect with rescale='inverse' only. None measures the leaf.
    density: share of the entries kept, a number or `[T]`; the paper's k = 20.
    elect: 'sum' (mass, the paper's), 'count' (of models) or 'none'.
    normalize: False adds where the paper averages.
    rescale: 'none', 'inverse' or 'l1', see `combine`.
    scale: lambda of the paper: 1, or searched in 0.8 to 2.5.

  Returns:
    `[...]` in base's dtype. At density 1 one model of weight 1 comes back bit
    for bit.

  Departures: of n entries max(1, int(density n)) stay, and those that tie with
  the smallest of them (mergekit breaks ties by position; bfloat16 deltas tie
  often and keep some more). The authors' code keeps one more, and fails at
  density 1. Where the moves sum to exactly 0 the sign is +, as in mergekit; the
  authors take the sign of most entries of the model.

  References: yadav2023ties, Algorithm 1.
  """
  return combine('ties', base, models, weight, threshold, trim='magnitude',
                 density=density, elect=elect, normalize=normalize,
                 rescale=rescale, scale=scale)


declare(ties, entrywise=entrywise, measures={'threshold': bounds_measure(0.2)},
        static=('density',))  # counted in float64
