"""Spherical interpolation of two models or of their task vectors."""
import jax
from jax import numpy as jnp

from kt_jax import core
from kt_jax.merge._check import check_stack
from kt_jax.merge._gram import check_gram
from kt_jax.merge._gram import cosines
from kt_jax.merge._gram import delta_gram
from kt_jax.merge._gram import is_whole_vector
from kt_jax.merge._span import span
from kt_jax.merge.contract import declare
from kt_jax.merge.contract import Measure
from kt_jax.merge.slerp import arc


def nuslerp(
    base: jax.Array,
    models: jax.Array,
    weight: jax.Array,
    gram: jax.Array | None = None,
    *,
    origin: str = 'base',
    axis: int | tuple[int, ...] | None = None,
    eps: float = 1e-8,
) -> jax.Array:
  r"""Moves along the arc between two models, by their share of the weights.

    base + slerp(m_1 - base, m_2 - base, t = w_2 / (w_1 + w_2))

  Args:
    base: `[...]` leaf of the base model; also gives the dtype.
    models: `[2, ...]`; one model alone is the result.
    weight: `[2]`; a sum of 0 gives t = 1/2. All of it on one model gives that
      model bit for bit.
    gram: `[2, 2]`, see `delta_gram`; None takes it from the leaf.
    origin: 'base' for task vectors, 'zero' for the arc between the models
      themselves, whatever the base.
    axis: axes along which a vector runs, each with its own angle; None for the
      whole leaf. Leaves without axes are always whole.
    eps: where the sine of the angle is no larger than this, or than float32
      resolves, the line is taken.

  Returns:
    `[...]` in base's dtype; a leaf that is not floating is the base's.

  Raises:
    UserError: more than two models, or an unknown origin.

  Departures: mergekit's settings are these:

    base_model given, not given                     origin 'base', 'zero'
    nuslerp_flatten                                 axis None
    not nuslerp_flatten, not nuslerp_row_wise       axis -1
    not nuslerp_flatten, nuslerp_row_wise           axis 0

  It takes the line at exactly parallel vectors only; where rounding hides that
  they are antiparallel its factors are thousands, while here they add up to 1.
  """
  weight = core.to_float(jnp.asarray(weight))
  check_stack('nuslerp', base, models, weight)
  if len(models) > 2:
    raise core.UserError(
        f'nuslerp: takes two models, got {len(models)}; see multislerp.')
  if not jnp.issubdtype(base.dtype, jnp.floating):
    return base
  if len(models) == 1:
    return span(base, models, jnp.ones(1))
  total = weight[0] + weight[1]
  cancel = jnp.abs(total) < 1e-6
  t = jnp.where(cancel, 0.5, weight[1] / jnp.where(cancel, 1, total))
  if gram is None:
    gram = delta_gram(base, models, origin=origin, axis=axis)
  check_gram('nuslerp', gram, 2)
  _, cosine = cosines(gram)
  ends = arc(cosine[0, 1], t, 1 - jnp.square(cosine[0, 1]) <= eps**2)
  return span(base, models, jnp.stack(ends), origin)


declare(nuslerp, entrywise=is_whole_vector,
        measures={'gram': Measure(delta_gram)})
