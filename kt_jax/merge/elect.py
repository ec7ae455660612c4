"""Signs: which models agree with what most of them want."""
from collections.abc import Sequence

import jax
from jax import numpy as jnp

from kt_jax.merge.mix import add


def elect(coefficients: Sequence[jax.Array], deltas: Sequence[jax.Array],
          how: str) -> list[jax.Array]:
  """Masks of the entries whose move has the elected sign.

  Args:
    coefficients: T arrays `[...]` by which the deltas would be added: a
      negative weight turns a delta round.
    deltas: T arrays `[...]`.
    how: 'sum' elects the sign of the summed moves, 'count' that of most of the
      moves that are not 0. A draw elects +.

  Returns:
    T masks `[...]`. A move of 0 agrees with nobody; but where no model moves
    and just one has a coefficient, that one stays, so that a single model comes
    back bit for bit, -0.0 as well. NaN agrees, to be seen.
  """
  # What has coefficient 0 is not read: 0 * inf would speak for a model.
  moves = [jnp.where(c == 0, 0, c * d) for c, d in zip(coefficients, deltas)]
  votes = moves if how == 'sum' else [jnp.sign(m) for m in moves]
  up = add(votes) >= 0
  agree = [jnp.where(up, ~(m <= 0), ~(m >= 0)) for m in moves]
  still = add([(~(m == 0)).astype(jnp.int32) for m in moves]) == 0
  alone = add([(c != 0).astype(jnp.int32) for c in coefficients]) == 1
  return [a | (still & alone & (c != 0)) for a, c in zip(agree, coefficients)]
