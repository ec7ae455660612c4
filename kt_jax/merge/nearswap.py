"""Moves entries to those of a model where both are near."""
import jax
from jax import numpy as jnp

from kt_jax import core
from kt_jax.merge._check import check_one_model
from kt_jax.merge._check import check_stack
from kt_jax.merge._span import span
from kt_jax.merge.contract import declare


def nearswap(
    base: jax.Array,
    models: jax.Array,
    weight: jax.Array,
    *,
    t: jax.Array | float = 1e-4,
) -> jax.Array:
  r"""Moves each entry towards the model's, by `t` at most.

    base + w d min(1, t / |d|),   d = m - base

  Args:
    base: `[...]` leaf of the base model; also gives the dtype.
    models: `[1, ...]`, one model.
    weight: `[1]`, a factor of the move; the method has 1.
    t: longest move, at least 0. Infinite gives the model bit for bit.

  Returns:
    `[...]` in base's dtype; a leaf that is not floating is the base's.

  Raises:
    UserError: more than one model, or a negative `t`.

  Departures: mergekit divides by at least 1e-6, so that with a smaller `t` no
  entry is taken whole; here is no such floor. It has no default for `t`; 1e-4
  is that of the method's first release.
  """
  weight = core.to_float(jnp.asarray(weight))
  check_stack('nearswap', base, models, weight)
  check_one_model('nearswap', models)
  if not isinstance(t, jax.core.Tracer) and not t >= 0:
    raise core.UserError(f'nearswap: t must be >= 0, got {t}.')
  if not jnp.issubdtype(base.dtype, jnp.floating):
    return base
  distance = jnp.abs(core.to_float(models[0]) - core.to_float(base))
  near = distance < t
  share = jnp.where(near, 1, t / jnp.where(near | (distance == 0), 1, distance))
  share = jnp.where(distance == 0, near, share)
  return span(base, models, (weight[0] * share)[None])


declare(nearswap, entrywise=True)
