"""Model Breadcrumbs: task vectors without their outliers and their noise."""
from collections.abc import Sequence

import jax

from kt_jax import core
from kt_jax.merge._bounds import bounds_measure
from kt_jax.merge._combine import combine
from kt_jax.merge._combine import entrywise
from kt_jax.merge.contract import declare


def breadcrumbs(
    base: jax.Array,
    models: jax.Array,
    weight: jax.Array,
    threshold: jax.Array | None = None,
    *,
    density: float | Sequence[float] | jax.Array = 0.15,
    gamma: float | Sequence[float] | jax.Array = 0.006,
    axis: int | str | None = None,
    rescale: str = 'none',
    elect: str = 'none',
    normalize: bool = False,
    scale: float | jax.Array = 1.0,
) -> jax.Array:
  r"""Adds the entries of task vectors whose magnitude is in the middle.

    base + scale sum_t w_t k_t (m_t - base)

  with k_t 0 for the `gamma` largest share of |m_t - base| in a leaf, 1 for the
  next `density`, 0 for the rest. elect='sum' adds only moves that have the
  elected sign, as `ties` does.

  Args:
    base: `[...]` leaf of the base model; also gives the dtype.
    models: `[T, ...]` the same leaf of T models.
    weight: `[T]`, any finite reals, possibly traced.
    threshold: `[T, 2]` smallest and largest magnitude kept; None measures them.
    density: share of the entries kept, a number or `[T]`: beta of the authors'
      code, where its search begins at 0.15.
    gamma: share of outliers dropped, a number or `[T]`; there from 0.006.
    axis: None for bounds over the leaf, as the paper has it; 'row' or -1 for
      bounds in each row along the last axis, as the released code has it;
      another axis for another layout.
    rescale: 'none' (the paper's), 'inverse' or 'l1', see `combine`.
    elect: 'none', 'sum' or 'count'.
    normalize: divides by the weights that are added.
    scale: alpha of the paper; the search of the code begins at 0.2.

  Returns:
    `[...]` in base's dtype. At density 1 one model of weight 1 comes back bit
    for bit, whatever gamma.

  Departures: of n entries max(1, int(density n)) stay, and at most the
  remaining ones of the int(gamma n) largest are dropped, so that no small leaf
  is emptied: older mergekit empties those of fewer than 1 / gamma entries,
  newer and the released code those of fewer than 1 / density. Entries that tie
  with a bound stay.

  References: davari2023breadcrumbs, Sec. 3.
  """
  if isinstance(axis, str):
    if axis != 'row':
      raise core.UserError("breadcrumbs: axis must be None, 'row' or a number, "
                           f'got {axis!r}.')
    axis = -1
  return combine('breadcrumbs', base, models, weight, threshold,
                 trim='magnitude', density=density, gamma=gamma, axis=axis,
                 rescale=rescale, elect=elect, normalize=normalize, scale=scale)


declare(breadcrumbs, entrywise=entrywise,
        measures={'threshold': bounds_measure(0.15, 0.006)},
        static=('density', 'gamma'))  # counted in float64
