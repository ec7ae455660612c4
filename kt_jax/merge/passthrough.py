"""One model as it is."""
import jax
from jax import numpy as jnp

from kt_jax import core
from kt_jax.merge.mix import check_stack
from kt_jax.merge.slerp import one_model
from kt_jax.merge.span import span


def passthrough(
    base: jax.Array,
    models: jax.Array,
    weight: jax.Array,
    *,
    scale: jax.Array | float = 1.0,
) -> jax.Array:
  """Takes a leaf from one model, times a factor: `scale w m`.

  With scale 0 on the output projections of a block, that block does nothing.

  Args:
    base: `[...]`; gives the dtype, and leaves that are not floating.
    models: `[1, ...]`, one model.
    weight: `[1]`, a further factor.
    scale: a factor that rules can set leaf by leaf.

  Returns:
    `[...]` in base's dtype; at factor 1 the model bit for bit.

  Raises:
    UserError: more than one model.

  Departures: none; mergekit's `scale: null` is 1.

  References: none.
  """
  weight = core.to_float(jnp.asarray(weight))
  check_stack('passthrough', base, models, weight)
  one_model('passthrough', models)
  if not jnp.issubdtype(base.dtype, jnp.floating):
    return base
  return span(base, models, weight * scale, 'zero')


passthrough.measures = {}
