"""Correlation congruence."""
import math

import jax
from jax import numpy as jnp

from kt_jax import core
from kt_jax.losses.relation import _pairs


def correlation_congruence(
    student_features: jax.Array,
    teacher_features: jax.Array,
    where: jax.Array | None = None,
    *,
    kernel: str = 'gaussian',
    gamma: float | jax.Array = 0.4,
    order: int | None = 2,
) -> jax.Array:
  r"""Squared difference of the correlations between examples.

    1/n^2 sum_ij (C^s_ij - C^t_ij)^2,
    C_ij = exp(-gamma |e_i - e_j|^2)
         ~ exp(-2 gamma) sum_{p <= P} (2 gamma)^p / p! <e_i, e_j>^p

  for embeddings e of length 1 ('gaussian', by its Taylor series), or
  C_ij = <e_i, e_j> ('bilinear').

  Args:
    student_features: `[B, ...]`, flattened and brought to length 1.
    teacher_features: `[B, ...]`, of any width; no gradient is stopped here.
    where: `[B]` bool, the n examples that count; None: all.
    kernel: 'gaussian' or 'bilinear'.
    gamma: > 0, of 'gaussian'.
    order: P >= 1 of the series; None: the exact kernel.

  Returns:
    `[B]` shares, at least float32, without unit, 0 at equality: sum_j / n for
    example i, so that their mean over valid examples is the value above.

  Departures: the bilinear kernel too is one of unit vectors. A well-known
  public version, attributed to the authors, multiplies differences of
  neighbors in the batch and is not this formula; others follow it.

  References: peng2019cckd, Sec. 3.
  """
  fn = 'correlation_congruence'
  if kernel not in ('gaussian', 'bilinear'):
    raise core.UserError(core.nearest(f'kernel of {fn}', kernel,
                                      ('gaussian', 'bilinear')))
  if order is not None and (not isinstance(order, int) or order < 1):
    raise core.UserError(f'{fn}: order must be an integer >= 1 or None, '
                         f'got {order}.')
  core.check_positive(fn, gamma=gamma)
  s, t, valid, n = _pairs.embeddings(fn, student_features, teacher_features,
                                    where)

  def correlation(x):
    x = core.unit(x)
    cos = core.dot(x, x)
    if kernel == 'bilinear':
      return cos
    if order is None:
      return jnp.exp(2 * gamma * (cos - 1))
    series = sum((2 * gamma * cos)**p / math.factorial(p)
                 for p in range(1, order + 1))
    return jnp.exp(-2 * jnp.asarray(gamma, x.dtype)) * (1 + series)

  gap = jnp.where(_pairs.both(valid), correlation(s) - correlation(t), 0)
  return jnp.sum(jnp.square(gap), axis=-1) / n
