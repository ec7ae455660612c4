"""Model Stock: a step towards the mean, set by the angle between models."""
import jax
from jax import numpy as jnp

from kt_jax.merge._check import check_stack
from kt_jax.merge._check import normalized
from kt_jax.merge._gram import check_gram
from kt_jax.merge._gram import cosines
from kt_jax.merge._gram import delta_gram
from kt_jax.merge._gram import is_whole_vector
from kt_jax.merge._span import span
from kt_jax.merge.contract import declare
from kt_jax.merge.contract import Measure


def model_stock(
    base: jax.Array,
    models: jax.Array,
    weight: jax.Array,
    gram: jax.Array | None = None,
    *,
    axis: int | tuple[int, ...] | None = None,
    clip: bool = True,
) -> jax.Array:
  r"""Goes from the base towards the mean as far as the models agree.

    t = T cos / (1 + (T - 1) cos),   (1 - t) base + t mean_t m_t

  cos is the mean cosine between two task vectors m_t - base. Models that were
  fine-tuned from one base lie on a thin shell; t is the foot of the
  perpendicular from its center.

  Args:
    base: `[...]` leaf of the base model; also gives the dtype.
    models: `[T, ...]`. One alone has no angle: t = 1.
    weight: `[T]`, at least 0, divided by their sum. Equal ones are the paper's.
      For others the mean, the mean cosine (weights w_i w_j) and T (1 over the
      sum of squares) are the weighted ones, by the same derivation.
    gram: `[T, T]`, see `delta_gram`; None takes it from the leaf.
    axis: axes along which a vector runs, each with its own t; None for the
      whole leaf. Leaves without axes are always whole.
    clip: t in [0, 1]: models that point apart leave the base.

  Returns:
    `[...]` in base's dtype; a leaf that is not floating is the base's.

  Raises:
    UserError: a negative weight, or weights that sum to 0.

  Departures: the paper does not treat negative cosines. mergekit does not
  restrict t (clip False: negative, or above 1 beyond the pole) and takes the
  base at the pole. Its filter_wise is axis -1. It divides by products of norms
  of at least 1e-6, so that short task vectors count as orthogonal; not here.

  References: jang2024modelstock, Eq. 2 and Sec. 4 (t for T models).
  """
  weight = jnp.asarray(weight)
  check_stack('model_stock', base, models, weight)
  weight = normalized('model_stock', weight, 0)
  if not jnp.issubdtype(base.dtype, jnp.floating):
    return base
  count = len(models)
  if gram is None:
    gram = delta_gram(base, models, axis=axis)
  check_gram('model_stock', gram, count)
  _, cosine = cosines(gram)
  pairs = jnp.where(jnp.eye(count, dtype=bool), 0, weight[:, None] * weight)
  among = jnp.sum(pairs)  # 1 - 1 / T
  single = among == 0
  mean = jnp.tensordot(pairs, cosine, 2, precision=jax.lax.Precision.HIGHEST)
  mean = mean / jnp.where(single, 1, among)
  # T cos / (1 + (T - 1) cos), with numerator and denominator over T.
  below = jnp.sum(jnp.square(weight)) + among * mean
  pole = jnp.abs(below) < 1e-6
  t = jnp.where(pole, 0, mean / jnp.where(pole, 1, below))
  if clip:
    t = jnp.where(below > 0, jnp.clip(t, 0, 1), 0)
  t = jnp.where(single, 1, t)
  return span(base, models, weight.reshape((-1,) + (1,) * t.ndim) * t)


declare(model_stock, entrywise=is_whole_vector,
        measures={'gram': Measure(delta_gram)})
