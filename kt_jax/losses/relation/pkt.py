"""Probabilistic knowledge transfer."""
import jax
from jax import numpy as jnp

from kt_jax import core
from kt_jax.losses.relation import _pairs

_EPS = 1e-7


def pkt(
    student_features: jax.Array,
    teacher_features: jax.Array,
    where: jax.Array | None = None,
    *,
    include_self: bool = False,
) -> jax.Array:
  r"""Divergence of each example's neighborhood from the teacher's.

    1/n sum_i sum_{j != i} p_ij log (p_ij / q_ij),
    p_ij = k(t_i, t_j) / sum_{m != i} k(t_i, t_m),   k = (cosine + 1) / 2,

  q the same of the student.

  Args:
    student_features: `[B, ...]`, flattened to vectors.
    teacher_features: `[B, ...]`, of any width; no gradient is stopped here.
    where: `[B]` bool, the n examples that count; None: all.
    include_self: whether j = i, of similarity 1, is a neighbor.

  Returns:
    `[B]` divergences in nats, at least float32, 0 at equality. 1e-7 is added to
    p and q inside the logarithm. Every cosine with a zero vector is 0.

  Departures: the paper sums over i, this is a mean. The public code includes
  i itself (`include_self=True`) and divides by n once more.

  References: passalis2018pkt, Sec. 3.
  """
  s, t, valid, _ = _pairs.embeddings('pkt', student_features, teacher_features,
                                    where)
  pair = _pairs.both(valid)
  if not include_self:
    pair &= ~jnp.eye(len(valid), dtype=bool)

  def conditional(x):
    x = core.unit(x)
    # Rounding can take a cosine below -1; a NaN stays one.
    kernel = jnp.where(pair, jnp.maximum((core.dot(x, x) + 1) / 2, 0), 0)
    total = jnp.sum(kernel, axis=-1, keepdims=True)
    return kernel / jnp.where(total == 0, 1, total)

  p, q = conditional(t), conditional(s)
  return jnp.sum(p * (jnp.log(p + _EPS) - jnp.log(q + _EPS)), axis=-1)
