"""Spherical mean of several models, in one step."""
import jax
from jax import numpy as jnp

from kt_jax import core
from kt_jax.merge._check import check_stack
from kt_jax.merge._check import normalized
from kt_jax.merge._gram import check_gram
from kt_jax.merge._gram import cosines
from kt_jax.merge._gram import delta_gram
from kt_jax.merge._span import span
from kt_jax.merge.contract import declare
from kt_jax.merge.contract import Measure


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
    UserError: an unknown origin; weights to normalize that sum to 0.

  Departures: mergekit projects the models on the tangent space at this mean
  direction, sums them there and maps the sum back. That sum is zero [derived]:
  it is the tangent of sum_t w_t u_t at its own direction, which leaves the
  formula above. mergekit adds eps to the norms, and of directions that cancel
  takes the mean only if there are two; here eps is not added and the weighted
  mean is taken for any number. With a base_model it has origin 'base', else
  'zero'.
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
  cancel = square <= eps**2
  length = jnp.sqrt(jnp.where(cancel, 1, square))
  size = jnp.where(norm == 0, 1, norm)
  factors = jnp.where(norm == 0, 0,
                      jnp.sum(weight * norm) * weight / (size * length))
  return span(base, models, jnp.where(cancel, weight, factors), origin)


declare(multislerp, entrywise=True, measures={'gram': Measure(delta_gram)})
