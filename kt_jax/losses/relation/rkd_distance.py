"""Relational distillation of distances."""
import jax
from jax import numpy as jnp

from kt_jax import core
from kt_jax.losses.relation import _pairs


def rkd_distance(
    student_features: jax.Array,
    teacher_features: jax.Array,
    where: jax.Array | None = None,
) -> jax.Array:
  r"""Distances between examples, in units of each network's mean distance.

    1/n^2 sum_ij huber(d^s_ij - d^t_ij),   d_ij = |e_i - e_j| / mu,

  mu the mean of the distances above 0, huber half the square up to 1 and
  linear beyond. Rotating, shifting or scaling either network's embeddings
  changes nothing, and their widths may differ.

  Args:
    student_features: `[B, ...]`, flattened to vectors.
    teacher_features: `[B, ...]`; no gradient is stopped here.
    where: `[B]` bool, the n examples that count; None: all.

  Returns:
    `[B]` shares, at least float32, without unit, 0 at equality: sum_j / n for
    example i, so that their mean over valid examples is the value above. The
    diagonal (zeros) is in it, as published. mu is differentiated.

  Departures: the public code clips squared distances at 1e-12, so that examples
  that coincide enter mu; here, as in the paper, they do not.

  References: park2019rkd, Sec. 3.2.1.
  """
  s, t, valid, n = _pairs.embeddings('rkd_distance', student_features,
                                    teacher_features, where)
  pair = _pairs.both(valid)

  def relative(x):
    d = jnp.where(pair, core.root(core.squared_distances(x)), 0)
    mean = jnp.sum(d) / jnp.maximum(jnp.sum(d > 0), 1)
    return d / jnp.where(mean == 0, 1, mean)

  return jnp.sum(_pairs.huber(relative(s) - relative(t)), axis=-1) / n
