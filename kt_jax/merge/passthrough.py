"""One model, unchanged or scaled."""
import jax
from jax import numpy as jnp

from kt_jax import core
from kt_jax.merge._check import check_one_model
from kt_jax.merge._check import check_stack
from kt_jax.merge._span import span
from kt_jax.merge.contract import declare


def passthrough(
    base: jax.Array,
    models: jax.Array,
    weight: jax.Array,
    *,
    scale: jax.Array | float = 1.0,
) -> jax.Array:
  """Takes a leaf from one model, times a factor: `scale w m`.

  With scale 0 on the output projections of a residual block, the block is the
  identity.

  Args:
    base: `[...]`; gives the dtype, and leaves that are not floating.
    models: `[1, ...]`, one model.
    weight: `[1]`, a further factor.
    scale: a factor that rules can set leaf by leaf; mergekit's `null` is 1.

  Returns:
    `[...]` in base's dtype; at factor 1 the model bit for bit.

  Raises:
    UserError: more than one model.
  """
  weight = core.to_float(jnp.asarray(weight))
  check_stack('passthrough', base, models, weight)
  check_one_model('passthrough', models)
  if not jnp.issubdtype(base.dtype, jnp.floating):
    return base
  return span(base, models, weight * scale, 'zero')


declare(passthrough, entrywise=True)
