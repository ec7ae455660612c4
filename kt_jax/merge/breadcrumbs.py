"""Model Breadcrumbs: neither the outliers of a task vector nor its noise."""
from collections.abc import Sequence

import jax

from kt_jax import core
from kt_jax.merge.combine import combine
from kt_jax.merge.combine import needs_whole
from kt_jax.merge.measures import bounds_unless


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
    density: share of the entries kept, one or `[T]`: beta of the authors' code,
      which begins its search at 0.15.
    gamma: share of outliers dropped, one or `[T]`; the code begins at 0.006.
    axis: None for bounds over the leaf, as the paper has it; 'row' or -1 for
      bounds in each row along the last axis, as the released code has it;
      another axis for another layout.
    rescale: 'none' (the paper's), 'inverse' or 'l1', see `combine`.
    elect: 'none', 'sum' or 'count'.
    normalize: divides by the weights that are added.
    scale: alpha of the paper; the code begins its search at 0.2.

  Returns:
    `[...]` in base's dtype. At density 1 one model of weight 1 comes back bit
    for bit, whatever gamma.

  Departures: of n entries max(1, int(density n)) stay, and min(int(gamma n),
  what is left) of the largest go, so that no small leaf is emptied: older
  mergekit emptied those of fewer than 1 / gamma entries, newer and the released
  code those of fewer than 1 / density. What ties with a bound stays.

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


breadcrumbs.measures = dict(threshold=bounds_unless(0.15, 0.006))
breadcrumbs.whole = needs_whole
breadcrumbs.static = ('density', 'gamma')  # counted in float64
