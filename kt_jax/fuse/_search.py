"""Search for fusion weights, for all tokens at once.

The objective is `distance`; `delta [T, ..., V]` are the experts' shifts, `aims`
the two target divergences, `[...]` each.
"""
import functools
import itertools

import jax
from jax import numpy as jnp
import numpy as np

from kt_jax.fuse._divergences import divergences

_EXACT = jax.lax.Precision.HIGHEST
_HALVINGS = 13  # two cells of 0.1 down to 2.5e-5


def distance(log_p, move, aims):
  """f / T less a constant, `[...]`."""
  forth, back, _ = divergences(log_p, move)
  return jnp.square(forth - aims[0]) + jnp.square(back - aims[1])


def best_on_grid(log_p, delta, aims, grid):
  """Weights `[T, ...]` of least f on the grid in T dimensions."""
  trials = grid[np.array(list(
      itertools.product(range(len(grid)), repeat=len(delta))))]
  f = jax.lax.map(lambda a: distance(
      log_p, jnp.tensordot(a, delta, 1, precision=_EXACT), aims), trials)
  return jnp.moveaxis(trials[jnp.argmin(f, axis=0)], -1, 0)


def best_single(log_p, delta, aims, grid, refine):
  """Weights `[T, ...]` of least f with at most one expert's above 0."""
  f = lambda a: distance(log_p, a[..., None] * delta, aims)
  best = jnp.argmin(jax.lax.map(
      lambda a: distance(log_p, a * delta, aims), grid), axis=0)
  a = grid[best]
  if refine:
    # A constant changes only the rounding of the slope.
    centered = delta - jnp.sum(
        jnp.exp(log_p) * delta, axis=-1, keepdims=True)
    cell = grid[1]
    a = _root(lambda a: _slope(log_p, centered, aims, a),
              jnp.maximum(a - cell, 0), jnp.minimum(a + cell, grid[-1]))
  if len(a) == 1:
    return a
  expert = jnp.argmin(f(a), axis=0)
  return jnp.where(jnp.arange(len(a)).reshape((-1,) + (1,) * expert.ndim)
                   == expert, a, 0)


def _slope(log_p, centered, aims, a):
  """f' / 2T along each line, for shifts of mean 0 under p.

  The derivative of KL(p || q) by a is their mean under q, that of KL(q || p) is
  a times their variance.
  """
  forth, back, q = divergences(log_p, a[..., None] * centered)
  # Compilers would recompute q for each sum of products.
  dot = functools.partial(jnp.vecdot, precision=_EXACT)
  mean = dot(q, centered)
  variance = dot(q, jnp.square(centered)) - jnp.square(mean)
  return (forth - aims[0]) * a * variance + (back - aims[1]) * mean


def _root(slope, low, high):
  """Point where the slope turns from negative; an end if it does not."""
  def halve(_, ends):
    low, high = ends
    middle = (low + high) / 2
    negative = slope(middle) < 0
    return jnp.where(negative, middle, low), jnp.where(negative, high, middle)
  root, end = jax.lax.fori_loop(0, _HALVINGS, halve, (low, high))
  return jnp.where(end == high, high, root)
