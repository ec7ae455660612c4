"""The largest classes, without sorting them."""
from collections.abc import Callable

import jax
from jax import numpy as jnp


def at_least(x: jax.Array, enough: Callable[[jax.Array], jax.Array]
             ) -> tuple[jax.Array, jax.Array]:
  """`x >= t` and `x > t` for the largest t at which the first is enough.

  Bisects the bits of t: one pass over `x` per bit of a float, each a sum.
  Sorting a vocabulary takes longer, and would gather it.

  Args:
    x: `[..., V]` floats, without gradient.
    enough: `[..., V]` bool mask of classes -> `[...]` bool, monotone: true of a
      mask if true of a part of it. Assumed to be true of all classes.

  Returns:
    Two `[..., V]` bools.
  """
  size = jnp.finfo(x.dtype).bits
  kind = jnp.dtype(f'int{size}')
  bits = jax.lax.bitcast_convert_type(jax.lax.stop_gradient(x), kind)
  # Integers in the order of the floats.
  order = jnp.where(bits < 0, bits ^ jnp.iinfo(kind).max, bits)
  def step(i, t):
    above = t + (jnp.ones((), kind) << (size - 1 - i).astype(kind))  # may wrap
    return jnp.where(enough(order >= above[..., None]), above, t)
  start = jnp.full_like(order[..., 0], jnp.iinfo(kind).min)
  t = jax.lax.fori_loop(0, size, step, start)[..., None]
  return order >= t, order > t
