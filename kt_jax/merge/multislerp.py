"""Spherical mean of several models, in one step."""
import jax
from jax import numpy as jnp
import numpy as np

from kt_jax import core
from kt_jax.merge.gram import check_gram
from kt_jax.merge.gram import cosines
from kt_jax.merge.gram import delta_gram
from kt_jax.merge.mix import check_stack
from kt_jax.merge.span import span


def multislerp(
    base: jax.Array,
    models: jax.Array,
    weight: jax.Array,
    gram: jax.Array | None = None,
    *,
    origin: str = 'base',
    normalize_weights: bool = True,
    eps: float = 1e-8,
) -> jax.Array:
  r"""The mean direction of the models, at their mean length.

    u_t = d_t / |d_t|,   d_t = m_t - base
    base + (sum_t w_t |d_t|) (sum_t w_t u_t) / |sum_t w_t u_t|

  Args:
    base: `[...]` leaf of the base model; also gives the dtype.
    models: `[T, ...]`.
    weight: `[T]`. One alone is that model bit for bit.
    gram: `[T, T]`, see `delta_gram`; None takes it from the leaf.
    origin: 'base' for task vectors, 'zero' for the models themselves.
    normalize_weights: divide the weights by their sum.
    eps: vectors no longer than this have no direction; where the mean of the
      directions is no longer, the plain weighted mean is taken.

  Returns:
    `[...]` in base's dtype; a leaf that is not floating is the base's.

  Raises:
    UserError: an unknown origin; weights to normalise that sum to 0.

  Departures: mergekit projects the models on the tangent space at this mean
  direction, sums them there and comes back. That sum is zero [derived]: the
  tangent of sum_t w_t u_t at its own direction. So the formula above is all.
  It adds eps to the norms, which we do not; it fails on directions that cancel
  unless there are two, we take the weighted mean for any number. Its
  base_model given or not is origin 'base' or 'zero'.

  References: none.
  """
  weight = jnp.asarray(weight)
  check_stack('multislerp', base, models, weight)
  core.check_positive('multislerp', eps=eps)
  weight = normalized('multislerp', weight) if normalize_weights else (
      core.to_float(weight))
  if not jnp.issubdtype(base.dtype, jnp.floating):
    return base
  if len(models) == 1:
    return span(base, models, jnp.ones(1))
  if gram is None:
    gram = delta_gram(base, models, origin=origin)
  check_gram('multislerp', gram, len(models))
  norm, cosine = cosines(gram, eps)
  square = jnp.sum(weight[:, None] * cosine * weight)
  none = square <= eps**2
  length = jnp.sqrt(jnp.where(none, 1, square))
  size = jnp.where(norm == 0, 1, norm)
  factors = jnp.where(norm == 0, 0,
                      jnp.sum(weight * norm) * weight / (size * length))
  return span(base, models, jnp.where(none, weight, factors), origin)


multislerp.measures = dict(gram=delta_gram)


def normalized(fn: str, weight: jax.Array, least: float = -np.inf
               ) -> jax.Array:
  """Weights over their sum.

  Raises:
    UserError: they sum to 0, or one is below `least`.
  """
  if not isinstance(weight, jax.core.Tracer):
    known = np.asarray(weight)
    if (known < least).any():
      raise core.UserError(f'{fn}: weight must be >= {least}, got {known}.')
    if known.sum() == 0:
      raise core.UserError(f'{fn}: weight must not sum to 0, got {known}.')
  weight = core.to_float(weight)
  total = jnp.sum(weight)
  return weight / jnp.where(total == 0, 1, total)
