"""Fisher-weighted averaging."""
import jax
from jax import numpy as jnp

from kt_jax import core
from kt_jax.merge._check import check_stack
from kt_jax.merge._check import normalized
from kt_jax.merge._span import span
from kt_jax.merge.contract import declare


def fisher(
    base: jax.Array,
    models: jax.Array,
    weight: jax.Array,
    fisher: jax.Array | None = None,
    *,
    floor: float = 1e-6,
    floor_first_only: bool = False,
) -> jax.Array:
  r"""Averages each entry by the certainty of each model about it.

    sum_t w_t F_t m_t / sum_t w_t F_t

  Args:
    base: `[...]` leaf of the base model; gives the dtype and nothing else.
    models: `[T, ...]`.
    weight: `[T]`, at least 0; only ratios matter. The authors' default is
      1 / |F_t|, the norm over the whole model, so that no model counts for more
      because its Fisher information is larger; the caller passes it. One alone
      is that model bit for bit.
    fisher: `[T, ...]` diagonal Fisher information: the mean over examples of
      E_y (grad log p(y | x))^2, y drawn from the model itself. None, for leaves
      that have none, is the weighted mean.
    floor: least value of the entries of `fisher`; where all are raised to it
      the result is the weighted mean.
    floor_first_only: only the first model's are raised, so that it wins where
      all vanish.

  Returns:
    `[...]` in base's dtype; a leaf that is not floating is the base's.

  Raises:
    UserError: fisher of another shape, a negative weight or floor, weights that
      sum to 0.

  Departures: the authors' code raises the first model's only by default, here
  all are, so that the order of models has no effect. At floor 0 the result is
  the weighted mean where all vanish.

  References: matena2021fisher, Eq. 2.
  """
  weight = jnp.asarray(weight)
  check_stack('fisher', base, models, weight)
  if not isinstance(floor, jax.core.Tracer) and floor < 0:
    raise core.UserError(f'fisher: floor must be >= 0, got {floor}.')
  weight = normalized('fisher', weight, 0)
  if fisher is not None and fisher.shape != models.shape:
    raise core.UserError(f'fisher: fisher has shape {fisher.shape}; models '
                         f'asks for {models.shape}.')
  if not jnp.issubdtype(base.dtype, jnp.floating):
    return base
  if fisher is None:
    return span(base, models, weight)
  raised = jnp.maximum(core.to_float(fisher), floor)
  if floor_first_only:
    raised = raised.at[1:].set(core.to_float(fisher[1:]))
  weight = weight.reshape((-1,) + (1,) * base.ndim)
  mass = weight * raised
  total = jnp.sum(mass, 0)
  vanish = total == 0
  return span(base, models,
              jnp.where(vanish, weight, mass / jnp.where(vanish, 1, total)))


declare(fisher, entrywise=True)
