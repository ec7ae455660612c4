"""Spherical interpolation between a base and a model."""
import jax
from jax import numpy as jnp

from kt_jax import core
from kt_jax.merge._check import check_one_model
from kt_jax.merge._check import check_stack
from kt_jax.merge._gram import check_gram
from kt_jax.merge._gram import cosines
from kt_jax.merge._gram import inner_products
from kt_jax.merge._span import span
from kt_jax.merge.contract import declare
from kt_jax.merge.contract import Measure


def slerp(
    base: jax.Array,
    models: jax.Array,
    weight: jax.Array,
    gram: jax.Array | None = None,
    *,
    t: jax.Array | float | None = None,
    dot_threshold: float = 0.9995,
    eps: float = 1e-8,
) -> jax.Array:
  r"""Moves a leaf along the arc from the base to one model.

    (sin((1 - t) a) base + sin(t a) m) / sin(a),   a the angle between them

  The angle is that of the flattened leaves; they keep their own lengths.

  Args:
    base: `[...]` leaf of the base model; also gives the dtype.
    models: `[1, ...]`, one model.
    weight: `[1]`, how far to go: 0 is the base, 1 the model, bit for bit.
    gram: `[2, 2]` inner products of base and model; None takes them from the
      leaf.
    t: replaces `weight`, so that rules can set it leaf by leaf.
    dot_threshold: beyond this cosine, of either sign, the line is taken.
    eps: a leaf no longer than this counts as orthogonal to any other.

  Returns:
    `[...]` in base's dtype; a leaf that is not floating is the base's.

  Raises:
    UserError: more than one model, or a threshold outside [0, 1].

  Departures: the formula is Shoemake's; the constants, lines and zero leaves
  are mergekit's (`t` is its `t`). Its inner products are of normalized leaves,
  here of the leaves themselves: norms must lie between 1e-19 and 1e19.
  """
  weight = jnp.asarray(weight)
  check_stack('slerp', base, models, weight)
  check_one_model('slerp', models)
  core.check_fraction('slerp', dot_threshold=dot_threshold)
  if not jnp.issubdtype(base.dtype, jnp.floating):
    return base
  t = core.to_float(weight[0] if t is None else jnp.asarray(t))
  if gram is None:
    gram = inner_products(base, models)
  check_gram('slerp', gram, 2)
  _, cosine = cosines(gram, eps)
  between = cosine[0, 1]
  start, end = arc(between, t, jnp.abs(between) > dot_threshold)
  return span(base, models, end[None], 'zero', share=start)


declare(slerp, entrywise=True, measures={'gram': Measure(inner_products)})


def arc(cosine: jax.Array, t: jax.Array, straight: jax.Array
        ) -> tuple[jax.Array, jax.Array]:
  """Factors of the start and the end; where `straight`, those of the line."""
  # Angles that float32 does not resolve have no arc either.
  straight |= 1 - jnp.square(cosine) <= 8 * jnp.finfo(cosine.dtype).eps
  angle = jnp.arccos(jnp.where(straight, 0, cosine))
  sine = jnp.sin(angle)
  return (jnp.where(straight, 1 - t, jnp.sin((1 - t) * angle) / sine),
          jnp.where(straight, t, jnp.sin(t * angle) / sine))
