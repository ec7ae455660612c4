"""Select, calculate, erase (SCE): the parameter fusion of FuseChat."""
import jax
from jax import numpy as jnp
import numpy as np

from kt_jax import core
from kt_jax.merge._check import check_stack
from kt_jax.merge._check import normalized
from kt_jax.merge._select import kth_largest
from kt_jax.merge._select import kth_largest_host
from kt_jax.merge._span import span
from kt_jax.merge.contract import Choice
from kt_jax.merge.contract import declare
from kt_jax.merge.contract import Measure


def _variance_bound(base: jax.Array, models: jax.Array, weight=None, *,
                    select_topk: float = 1.0, **settings) -> jax.Array:
  """Smallest variance over the models that `sce` keeps, a scalar measure.

  The k-th largest of the leaf, k = int(select_topk times the number of those
  above 0); 0 where all are kept, infinite where none is.
  """
  del weight, settings
  if not isinstance(select_topk, jax.core.Tracer) and select_topk >= 1:
    return jnp.zeros(())
  variance = _variance(base, models)
  k = jnp.floor(select_topk * jnp.sum(variance != 0).astype(jnp.float32))
  bound = kth_largest(variance, jnp.maximum(k, 1).astype(jnp.int32))
  bound = jnp.where(k < 1, jnp.inf, jnp.reshape(bound, ()))
  return jnp.where(select_topk >= 1, 0, bound)


def _entries(base, models, weight=None, **settings):
  del weight, settings
  return [_variance(base, models)]


def _choose(rows, *, select_topk=1.0, **settings):
  """`_variance_bound` on the host, from one row of variances."""
  del settings
  if select_topk >= 1:
    return np.zeros((), np.float32)
  count = sum(np.count_nonzero(block) for block in rows.read())
  k = int(np.float32(select_topk) * np.float32(count))
  bound = kth_largest_host(rows, [(0, k)])[0] if k else np.inf
  return np.asarray(bound, np.float32)


def _energy(base: jax.Array, models: jax.Array, weight=None, threshold=None, *,
            select_topk: float = 1.0, **settings) -> jax.Array:
  """`[T]` sums of squared deltas over the entries that `sce` keeps.

  A measure, whose values of chunks add up, given `threshold`, the first one.
  """
  if threshold is None:
    threshold = _variance_bound(base, models, weight, select_topk=select_topk,
                                **settings)
  selected = _variance(base, models) >= threshold
  square = jnp.where(selected, jnp.square(_delta(base, models)), 0)
  return jnp.sum(square, tuple(range(1, square.ndim)))


def sce(
    base: jax.Array,
    models: jax.Array,
    weight: jax.Array,
    threshold: jax.Array | None = None,
    energy: jax.Array | None = None,
    *,
    select_topk: float = 1.0,
) -> jax.Array:
  r"""Weighs task vectors by their energy where they differ most and agree.

  Select the entries of largest variance over the models; a model's share is its
  energy there, the sum of d_t^2; erase moves against the sign of the majority:

    base + sum_t s_t d_t / sum_t s_t,  over the t with sign(d_t) = sign(sum d)

  Args:
    base: `[...]` leaf of the base model; also gives the dtype.
    models: `[T, ...]`.
    weight: `[T]`, at least 0: factors of the deltas in the vote and of the
      shares. Equal ones are the paper's; one alone is that model bit for bit.
    threshold: smallest variance that is selected; None takes it from the leaf.
    energy: `[T]` sums of d_t^2 over the selected entries; None takes them from
      the leaf.
    select_topk: share of the entries with variance above 0 that is selected,
      with all that tie with the last; 1 selects every entry. The others are the
      base's.

  Returns:
    `[...]` in base's dtype; a leaf that is not floating is the base's. The
    selection and the vote have no gradient.

  Raises:
    UserError: select_topk outside [0, 1], a negative weight, weights that sum
      to 0.

  Departures: a tied vote goes to +, as in mergekit. Where energies sum to less
  than 1e-6 per entry, which fine-tuned models seldom exceed, mergekit makes the
  shares equal; here only where they sum to 0. It divides by at least 1e-6. Its
  topk breaks ties by position.

  References: wan2024sce, Sec. 3.3 (SCE).
  """
  weight = jnp.asarray(weight)
  check_stack('sce', base, models, weight)
  core.check_fraction('sce', select_topk=select_topk)
  weight = normalized('sce', weight, 0)
  if not jnp.issubdtype(base.dtype, jnp.floating):
    return base
  if threshold is None:
    threshold = _variance_bound(base, models, select_topk=select_topk)
  if energy is None:
    energy = _energy(base, models, None, threshold)
  column = (-1,) + (1,) * base.ndim
  even = weight.reshape(column)
  share = weight * energy
  share = jnp.where(jnp.sum(share) > 0, share, weight).reshape(column)

  delta = jax.lax.stop_gradient(_delta(base, models))
  up = jnp.sum(even * delta, 0) >= 0
  share = share * jnp.where(up, delta > 0, delta < 0)
  total = jnp.sum(share, 0)
  # Where no model moves an entry the shares have no effect.
  still = total == 0
  part = jnp.where(still, even,
                   share / jnp.where(still, 1, total))
  selected = jax.lax.stop_gradient(_variance(base, models)) >= threshold
  return span(base, models, jnp.where(selected, part, 0))


declare(sce, entrywise=True, measures={
    'threshold': Choice(_variance_bound, _entries, _choose),
    'energy': Measure(_energy)})


def _delta(base, models):
  return core.to_float(models) - core.to_float(base)


def _variance(base, models):
  delta = _delta(base, models)
  return jnp.mean(jnp.square(delta - jnp.mean(delta, 0)), 0)
