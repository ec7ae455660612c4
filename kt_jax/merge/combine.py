"""The one function of which the task-vector methods are settings."""
from typing import Any

import jax
from jax import numpy as jnp
import numpy as np

from kt_jax import core
from kt_jax.merge import sparsify
from kt_jax.merge.elect import elect as elect_signs
from kt_jax.merge.measures import per_model
from kt_jax.merge.mix import add
from kt_jax.merge.mix import check_stack
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
  w_t f_t (m_t - base) has the elected sign. `mix` sums, so that a lone
  coefficient 1 gives a model bit for bit. Settings that give what mergekit
  (0.1.5) calls

    task_arithmetic   task_arithmetic(normalize=False)
    ties              ties(elect='sum', normalize=True), threshold not given
    dare_linear       dare(rescale='l1')
    dare_ties         dare(rescale='l1', elect='sum')
    breadcrumbs       breadcrumbs(gamma=0.01)
    breadcrumbs_ties  breadcrumbs(gamma=0.01, elect='sum')
    della             della(rescale='l1', elect='sum', normalize=True, axis=1)
    della_linear      della(rescale='l1', elect='none', axis=1)

  where its `lambda` is `scale`, `rescale: true` is rescale='l1' and `false` is
  'none', `normalize` is the same, and density (1 unless given), gamma, epsilon
  (0.15 unless given) and weight are `[T]` where it has one a model. It has no
  name for elect='count'.

  Args:
    fn: name of the method, for errors.
    base: `[...]` leaf of the base model; also gives the dtype.
    models: `[T, ...]` the same leaf of T models.
    weight: `[T]`, any finite reals, possibly traced.
    threshold: `[T, 2]` smallest and largest magnitude kept by trim 'magnitude';
      measured on the leaf if None.
    key: the leaf's (or `draw.at_block`'s), for trims 'random' and 'rank'.
    trim: 'none', 'magnitude' (`magnitude_bounds`), 'random' (each entry stays
      with probability density) or 'rank' (the same, rising with the rank).
    density: share of the entries kept, one or `[T]`.
    gamma: share of the largest dropped by trim 'magnitude', one or `[T]`.
    epsilon: half the width of the probabilities of 'rank', one or `[T]`.
    axis: rows of which trims 'magnitude' and 'rank' look at one at a time; None
      for whole leaves.
    rescale: 'none', 'inverse' (over the probability of staying) or 'l1' (back
      to the L1 norm over the leaf).
    elect: 'none', 'sum' or 'count'.
    normalize: divides by the weights that are added, unless they add up to 0.
    scale: of the sum.

  Returns:
    `[...]` in base's dtype. A leaf that is not floating is copied from base.

  Raises:
    UserError: an argument of another shape, a setting that is not one of those
      above, no key where one is drawn with.

  Departures: mergekit gives up rescaling below an L1 norm of 1e-7, here of 0.

  References: none.
  """
  weight = core.to_float(jnp.asarray(weight))
  check_stack(fn, base, models, weight)
  for name, value, known in (('trim', trim, TRIMS), ('elect', elect, ELECTS),
                             ('rescale', rescale, RESCALES)):
    if value not in known:
      raise core.UserError(f'{fn}: ' + core.nearest(name, value, known))
  if not isinstance(scale, jax.core.Tracer) and not np.all(np.isfinite(scale)):
    raise core.UserError(f'{fn}: scale must be finite, got {scale}.')
  try:
    shares = [per_model(*pair, len(models)) for pair in (
        ('density', density), ('gamma', gamma), ('epsilon', epsilon))]
  except core.UserError as e:
    raise core.UserError(f'{fn}: {e}') from None
  if trim == 'rank':
    _check_window(fn, *shares[::2])
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
  factors = _factors(deltas, threshold, key, trim, *shares, axis, rescale)
  coefficients = [w * f for w, f in zip(weight, factors)]
  if elect != 'none':
    agree = elect_signs(coefficients, deltas, elect)
    if normalize:
      total = add([jnp.where(a, w, 0) for a, w in zip(agree, weight)])
      # One division an entry: several would keep the loops apart. One model
      # among many has exactly its factor.
      share = 1 / jnp.where(total == 0, 1, total)
      alone = add([a.astype(jnp.int32) for a in agree]) == 1
      coefficients = [jnp.where(alone, f, c * share)
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
    masks = sparsify.by_magnitude(deltas, density, gamma, threshold, axis)
  else:
    if trim == 'rank':
      probability = [
          sparsify.rank_probability(d, p, jnp.asarray(e, dtype), axis)
          for d, p, e in zip(deltas, probability, epsilon)]
    masks = sparsify.at_random(key, deltas, probability)
  return sparsify.rescaled(masks, deltas, probability, rescale)


def _check_window(fn, density, epsilon):
  """Refuses a window of probabilities that leaves [0, 1]; traced ones pass."""
  if any(isinstance(x, jax.core.Tracer) for x in (density, epsilon)):
    return
  inner = (density > 0) & (density < 1)
  out = inner & ((density - epsilon < 0) | (density + epsilon > 1))
  if np.any(out):
    raise core.UserError(
        f'{fn}: epsilon must keep density - epsilon and density + epsilon in '
        f'[0, 1], got epsilon {epsilon[out][0]} at density {density[out][0]}.')


def needs_whole(*, rescale: str = 'none', axis: int | None = None,
                **settings) -> bool:
  """Whether these settings need whole leaves: norms, or bounds of rows."""
  del settings
  return rescale == 'l1' or axis is not None
