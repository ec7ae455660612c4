"""Sign election: the models that agree with the majority."""
from collections.abc import Sequence

import jax
from jax import numpy as jnp

from kt_jax.merge.mix import add


def agreement(coefficients: Sequence[jax.Array], deltas: Sequence[jax.Array],
              how: str) -> list[jax.Array]:
  """Masks of the entries whose move has the elected sign.

  Args:
    coefficients: T arrays `[...]`, factors of the deltas in the sum; a negative
      one reverses its delta.
    deltas: T arrays `[...]`.
    how: 'sum' elects the sign of the summed moves, 'count' that of most of the
      moves that are not 0. A tie elects +.

  Returns:
    T masks `[...]`. A move of 0 never agrees; but where no model moves and just
    one has a coefficient, that one stays, so that a single model comes back bit
    for bit, -0.0 as well. NaN agrees, so that it shows in the result.
  """
  # A delta with coefficient 0 is not read: 0 * inf would count as a vote.
  moves = [jnp.where(c == 0, 0, c * d) for c, d in zip(coefficients, deltas)]
  votes = moves if how == 'sum' else [jnp.sign(m) for m in moves]
  up = add(votes) >= 0
  agree = [jnp.where(up, ~(m <= 0), ~(m >= 0)) for m in moves]
  still = add([(~(m == 0)).astype(jnp.int32) for m in moves]) == 0
  single = add([(c != 0).astype(jnp.int32) for c in coefficients]) == 1
  return [a | (still & single & (c != 0)) for a, c in zip(agree, coefficients)]
