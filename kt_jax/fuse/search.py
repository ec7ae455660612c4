"""Search of fusion weights, for every token at once.

The objective is `distance`; `delta [T, ..., V]` are the experts' shifts, `aims`
the two divergences to reach, `[...]` each.
"""
import functools
import itertools

import jax
from jax import numpy as jnp
import numpy as np

from kt_jax.fuse.divergences import divergences

EXACT = jax.lax.Precision.HIGHEST
HALVINGS = 13  # two cells of 0.1 down to 2.5e-5


def distance(log_p, move, aims):
  """f / T less a constant, `[...]`."""
  forth, back, _ = divergences(log_p, move)
  return jnp.square(forth - aims[0]) + jnp.square(back - aims[1])


def best_of_all(log_p, delta, aims, grid):
  """Weights `[T, ...]` of least f among all of a grid in T dimensions."""
  tries = grid[np.array(list(
      itertools.product(range(len(grid)), repeat=len(delta))))]
  f = jax.lax.map(lambda a: distance(
      log_p, jnp.tensordot(a, delta, 1, precision=EXACT), aims), tries)
  return jnp.moveaxis(tries[jnp.argmin(f, axis=0)], -1, 0)


def best_on_a_line(log_p, delta, aims, grid, refine):
  """Weights `[T, ...]` of least f among those with one that is not 0."""
  f = lambda a: distance(log_p, a[..., None] * delta, aims)
  best = jnp.argmin(jax.lax.map(
      lambda a: distance(log_p, a * delta, aims), grid), axis=0)
  a = grid[best]
  if refine:
    # A constant changes nothing but the rounding of the slope.
    centred = delta - jnp.sum(
        jnp.exp(log_p) * delta, axis=-1, keepdims=True)
    cell = grid[1]
    a = zero(lambda a: slope(log_p, centred, aims, a),
             jnp.maximum(a - cell, 0), jnp.minimum(a + cell, grid[-1]))
  if len(a) == 1:
    return a
  chosen = jnp.argmin(f(a), axis=0)
  return jnp.where(jnp.arange(len(a)).reshape((-1,) + (1,) * chosen.ndim)
                   == chosen, a, 0)


def slope(log_p, centred, aims, a):
  """f' / 2T along each line, for shifts of mean 0 under p.

  By a, KL(p || q) grows by their mean under q, KL(q || p) by a times their
  variance.
  """
  forth, back, q = divergences(log_p, a[..., None] * centred)
  # Compilers would compute q anew for each sum of products.
  dot = functools.partial(jnp.vecdot, precision=EXACT)
  mean = dot(q, centred)
  variance = dot(q, jnp.square(centred)) - jnp.square(mean)
  return (forth - aims[0]) * a * variance + (back - aims[1]) * mean


def zero(slope_at, low, high):
  """Where the slope turns from negative; an end if it does not."""
  def halve(_, ends):
    low, high = ends
    middle = (low + high) / 2
    falls = slope_at(middle) < 0
    return jnp.where(falls, middle, low), jnp.where(falls, high, middle)
  found, end = jax.lax.fori_loop(0, HALVINGS, halve, (low, high))
  return jnp.where(end == high, high, found)
