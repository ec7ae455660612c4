"""The opposite of `merge.multi_source_svd`, to compare it with."""
import jax
from jax import numpy as jnp

from kt_jax import merge


def smallest_components(base: jax.Array, models: jax.Array, weight: jax.Array,
                        *, components: int | float = 76) -> jax.Array:
  """Pools the singular triplets of task vectors and keeps the smallest.

  Arguments and vectors as in `multi_source_svd`; those of 0 do not count.
  """
  if base.ndim < 2:
    return merge.linear(base, models, weight / len(models))
  u, s, v = merge.svd_factors(merge.as_matrix(models - base, 1))
  kept = merge.rank_of('smallest_components', components, s.shape[1],
                       'components')
  values = (weight[:, None] * s).reshape(-1)
  size = jnp.abs(values)
  _, least = jax.lax.top_k(-jnp.where(size > 1e-6 * size.max(), size, jnp.inf),
                           kept)
  chosen = jnp.zeros(values.shape, bool).at[least].set(True)
  values = jnp.where(chosen, values, 0).reshape(s.shape)
  delta = jnp.matmul(u * values[:, None], v, precision='highest')
  return base + jnp.sum(delta, 0).reshape(base.shape)


merge.declare(smallest_components, static=('components',))
