"""The largest classes, without sorting them."""
from collections.abc import Callable

import jax
from jax import numpy as jnp


def at_least(x: jax.Array, enough: Callable[[jax.Array], jax.Array]
             ) -> tuple[jax.Array, jax.Array]:
  """`x >= t` and `x > t` for the largest t of which that is enough.

  Bisects the bits of t: as many passes over `x` as a float has bits, of which
  each is a sum. A sort of a vocabulary takes longer, and would gather it.

  Args:
    x: `[..., V]` floats, without gradient.
    enough: `[..., V]` bool, which classes are kept -> `[...]` bool; true where
      it is true of fewer. Taken to be true of all.

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
    kept = enough(order >= above[..., None])
    return jnp.where(kept, above, t)
  start = jnp.full_like(order[..., 0], jnp.iinfo(kind).min)
  t = jax.lax.fori_loop(0, size, step, start)[..., None]
  return order >= t, order > t
