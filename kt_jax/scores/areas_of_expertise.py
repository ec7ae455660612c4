"""Classes of a teacher's complementary knowledge."""
import fractions

import jax
from jax import numpy as jnp

from kt_jax import core


def areas_of_expertise(flips: jax.Array, *, share: float = 0.2) -> jax.Array:
  """Smallest set of classes that holds a share of the positive flips.

  Classes enter by descending count, ties by lower index, until their flips are
  at least `share` of all.

  Args:
    flips: `[K]` integer counts, as `class_flips` returns them.
    share: in (0, 1], to four decimals; 0.02, 0.05, 0.2 and 0.5 in the paper.

  Returns:
    `[K]` booleans. A class without flips is never included; without any flips
    all are False.

  Departures: the authors' routine returns one class more than needed.

  References: roth2024fantastic (complementary knowledge).
  """
  if flips.ndim != 1 or not jnp.issubdtype(flips.dtype, jnp.integer):
    raise ValueError('areas_of_expertise: flips must be [K] integers, got '
                     f'shape {flips.shape} of {flips.dtype}.')
  if not 0 < share <= 1:
    raise core.UserError('areas_of_expertise: share must be in (0, 1], '
                         f'got {share}.')
  # In integers: 0.07 * 100 is above 7 in floats, which would add a class.
  part = fractions.Fraction(share).limit_denominator(10_000)
  over, under = part.numerator, part.denominator
  total = jnp.sum(flips)
  needed = (total // under * over  # ceil(total * share) without overflow
            - (-(total % under * over) // under))
  order = jnp.argsort(-flips, stable=True)
  ranked = flips[order]
  before = jnp.cumsum(ranked) - ranked  # flips of the classes before each
  return jnp.zeros(flips.shape, bool).at[order].set(before < needed)
