"""The common function behind the task-vector methods."""
from typing import Any

import jax
from jax import numpy as jnp
import numpy as np

from kt_jax import core
from kt_jax.merge import _sparsify
from kt_jax.merge._bounds import per_model
from kt_jax.merge._check import check_stack
from kt_jax.merge._elect import agreement
from kt_jax.merge.mix import add
from kt_jax.merge.mix import mix

TRIMS = ('none', 'magnitude', 'random', 'rank')
RESCALES = ('none', 'inverse', 'l1')
ELECTS = ('none', 'sum', 'count')


def combine(
    fn: str,
    base: jax.Array,
    models: jax.Array,
    weight: jax.Array,
    threshold: jax.Array | None = None,
    key: jax.Array | None = None,
    *,
    trim: str = 'none',
    density: Any = 1.0,
    gamma: Any = 0.0,
    epsilon: Any = 0.0,
    axis: int | None = None,
    rescale: str = 'none',
    elect: str = 'none',
    normalize: bool = False,
    scale: float | jax.Array = 1.0,
) -> jax.Array:
  r"""Adds task vectors that were trimmed, rescaled, elected and weighted.

    base + scale sum_t a_t w_t f_t (m_t - base) / divisor
    divisor = sum_t a_t w_t if normalize else 1

  with f_t the mask of the trim times its rescaling and a_t whether the move
  w_t f_t (m_t - base) has the elected sign. `mix` sums, so that a single
  coefficient 1 among zeros gives that model bit for bit. The methods of
  mergekit (0.1.5) are

    task_arithmetic   task_arithmetic(normalize=False)
    ties              ties(elect='sum', normalize=True), threshold not given
    dare_linear       dare(rescale='l1')
    dare_ties         dare(rescale='l1', elect='sum')
    breadcrumbs       breadcrumbs(gamma=0.01)
    breadcrumbs_ties  breadcrumbs(gamma=0.01, elect='sum')
    della             della(rescale='l1', elect='sum', normalize=True, axis=1)
    della_linear      della(rescale='l1', elect='none', axis=1)

  where its `lambda` is `scale`, `rescale: true` is rescale='l1' and `false` is
  'none', `normalize` is the same, and density (default 1), gamma, epsilon
  (default 0.15) and weight are `[T]` where it has one per model. It has no name
  for elect='count'.

  Args:
    fn: name of the method, for errors.
    base: `[...]` leaf of the base model; also gives the dtype.
    models: `[T, ...]` the same leaf of T models.
    weight: `[T]`, any finite reals, possibly traced.
    threshold: `[T, 2]` smallest and largest magnitude kept by trim 'magnitude';
      measured on the leaf if None.
    key: the leaf's (or `_draw.at_block`'s), for trims 'random' and 'rank'.
    trim: 'none', 'magnitude' (`magnitude_bounds`), 'random' (each entry stays
      with probability density) or 'rank' (the same, rising with the rank).
    density: share of the entries kept, a number or `[T]`.
    gamma: share of the largest dropped by trim 'magnitude', a number or `[T]`.
    epsilon: half the width of the probabilities of 'rank', a number or `[T]`.
    axis: axis of the rows that trims 'magnitude' and 'rank' treat separately;
      None for whole leaves.
    rescale: 'none', 'inverse' (over the probability of staying) or 'l1' (back
      to the L1 norm over the leaf).
    elect: 'none', 'sum' or 'count'.
    normalize: divides by the weights that are added, unless they add up to 0.
    scale: of the sum.

  Returns:
    `[...]` in base's dtype. A leaf that is not floating is copied from base.

  Raises:
    UserError: an argument of another shape, a setting that is not one of those
      above, no key for a random trim.

  Departures: mergekit gives up rescaling below an L1 norm of 1e-7, here of 0.
  """
  weight = core.to_float(jnp.asarray(weight))
  check_stack(fn, base, models, weight)
  for name, value, choices in (('trim', trim, TRIMS), ('elect', elect, ELECTS),
                               ('rescale', rescale, RESCALES)):
    if value not in choices:
      raise core.UserError(f'{fn}: ' + core.nearest(name, value, choices))
  if not isinstance(scale, jax.core.Tracer) and not np.all(np.isfinite(scale)):
    raise core.UserError(f'{fn}: scale must be finite, got {scale}.')
  try:
    density, gamma, epsilon = (per_model(name, value, len(models)) for
                               name, value in (('density', density),
                                               ('gamma', gamma),
                                               ('epsilon', epsilon)))
  except core.UserError as e:
    raise core.UserError(f'{fn}: {e}') from None
  if trim == 'rank':
    _check_window(fn, density, epsilon)
  if trim in ('random', 'rank') and key is None:
    raise core.UserError(f'{fn} draws at random: give key=jax.random.key(seed).'
                         )
  if not jnp.issubdtype(base.dtype, jnp.floating):
    return base

  if elect == 'none' and normalize:
    total = jnp.sum(weight)
    weight = weight / jnp.where(jnp.abs(total) < 1e-8, 1, total)
  if trim == 'none' and elect == 'none':
    return mix(base, models, weight * scale)

  deltas = [core.to_float(m) - core.to_float(base) for m in models]
  factors = _factors(deltas, threshold, key, trim, density, gamma, epsilon,
                     axis, rescale)
  coefficients = [w * f for w, f in zip(weight, factors)]
  if elect != 'none':
    agree = agreement(coefficients, deltas, elect)
    if normalize:
      total = add([jnp.where(a, w, 0) for a, w in zip(agree, weight)])
      # One division per entry: several would not fuse into one loop. A model
      # that agrees alone has exactly its factor.
      share = 1 / jnp.where(total == 0, 1, total)
      single = add([a.astype(jnp.int32) for a in agree]) == 1
      coefficients = [jnp.where(single, f, c * share)
                      for f, c in zip(factors, coefficients)]
    coefficients = [jnp.where(a, c, 0) for a, c in zip(agree, coefficients)]
  return mix(base, models, [c * scale for c in coefficients])


def _factors(deltas, threshold, key, trim, density, gamma, epsilon, axis,
             rescale):
  """T factors `[...]` of the deltas."""
  dtype = deltas[0].dtype
  probability = [jnp.asarray(p, dtype) for p in density]
  if trim == 'none':
    masks = [jnp.ones(d.shape, bool) for d in deltas]
  elif trim == 'magnitude':
    masks = _sparsify.by_magnitude(deltas, density, gamma, threshold, axis)
  else:
    if trim == 'rank':
      probability = [
          _sparsify.rank_probability(d, p, jnp.asarray(e, dtype), axis)
          for d, p, e in zip(deltas, probability, epsilon)]
    masks = _sparsify.at_random(key, deltas, probability)
  return _sparsify.rescaled(masks, deltas, probability, rescale)


def _check_window(fn, density, epsilon):
  """Refuses probabilities that leave [0, 1]; traced ones pass."""
  if any(isinstance(x, jax.core.Tracer) for x in (density, epsilon)):
    return
  inner = (density > 0) & (density < 1)
  out = inner & ((density - epsilon < 0) | (density + epsilon > 1))
  if np.any(out):
    raise core.UserError(
        f'{fn}: epsilon must keep density - epsilon and density + epsilon in '
        f'[0, 1], got epsilon {epsilon[out][0]} at density {density[out][0]}.')


def entrywise(*, rescale: str = 'none', axis: int | str | None = None,
              **settings) -> bool:
  """Whether chunks will do: not for norms of leaves, nor for bounds of rows."""
  del settings
  return rescale != 'l1' and axis is None
