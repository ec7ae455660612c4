"""Takes the entries of a model that changed much, in rows that changed much."""
import jax
from jax import numpy as jnp

from kt_jax import core
from kt_jax.merge._check import check_one_model
from kt_jax.merge._check import check_stack
from kt_jax.merge._select import kth_largest
from kt_jax.merge._span import span


def arcee_fusion(
    base: jax.Array, models: jax.Array, weight: jax.Array) -> jax.Array:
  r"""Swaps in a model's entries of more than usual importance.

    importance = |m - base| KL(softmax(row of m) || softmax(row of base))
    taken where importance >= median + 1.5 (third - first quartile)

  Rows run along the last axis. Both softmaxes have 1e-8 added.

  Args:
    base: `[...]` leaf of the base model; also gives the dtype.
    models: `[1, ...]`, one model.
    weight: `[1]`, a factor of the changes that are taken; the method has 1.

  Returns:
    `[...]` in base's dtype; a leaf that is not floating is the base's. The mask
    has no gradient.

  Raises:
    UserError: more than one model.

  Departures: quartiles are exact, and those entries of the sorted list that
  mergekit reads (positions rounded down); it samples a million entries of
  larger leaves. The arithmetic is float32, there in the model's dtype. A leaf
  in which all rows agree has importance 0 everywhere and is taken whole, as
  there. A leaf without axes is one row. The method is documented by its public
  code only.
  """
  weight = core.to_float(jnp.asarray(weight))
  check_stack('arcee_fusion', base, models, weight)
  check_one_model('arcee_fusion', models)
  if not jnp.issubdtype(base.dtype, jnp.floating) or not base.size:
    return base
  ours, theirs = (jnp.atleast_1d(core.to_float(jax.lax.stop_gradient(x)))
                  for x in (base, models[0]))
  p, q = (jax.nn.softmax(x, -1) + 1e-8 for x in (theirs, ours))
  divergence = jnp.sum(p * jnp.log(p / q), -1, keepdims=True)
  # Rounding may leave a divergence just below 0.
  importance = jnp.abs(theirs - ours) * divergence
  first, median, third = (
      _from_below(importance, int(share * (base.size - 1)))
      for share in (0.25, 0.5, 0.75))
  taken = importance >= median + 1.5 * (third - first)
  return span(base, models,
              jnp.where(taken.reshape(base.shape), weight[0], 0)[None])


def _from_below(x, place):
  """Entry `place` of all in ascending order, without a sort."""
  least = jnp.min(x)
  shift = jnp.minimum(least, 0)
  return jnp.reshape(kth_largest(x - shift, x.size - place), ()) + shift
