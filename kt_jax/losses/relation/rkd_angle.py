"""Relational distillation of angles."""
import jax
from jax import numpy as jnp

from kt_jax import core
from kt_jax.losses.relation import _pairs

_TRIPLES = 2**22  # at once: 16 MiB per array of floats


def rkd_angle(
    student_features: jax.Array,
    teacher_features: jax.Array,
    where: jax.Array | None = None,
) -> jax.Array:
  r"""Cosines of the angles that examples j and k make at example i.

    1/n^3 sum_ijk huber(a^s_ijk - a^t_ijk),
    a_ijk = <u_ij, u_ik>,   u_ij = (e_j - e_i) / |e_j - e_i|.

  Computed by the law of cosines from the B^2 distances, without unit vectors of
  size B^2 D, and for at most 2^22 triples at once: the gradient peaks at about
  40 MB for B = 128 and 90 MB from B = 256 on.

  Args:
    student_features: `[B, ...]`, flattened to vectors.
    teacher_features: `[B, ...]`, of any width; no gradient is stopped here.
    where: `[B]` bool, the n examples that count; None: all.

  Returns:
    `[B]` shares, at least float32, without unit, 0 at equality: sum_jk / n^2
    for vertex i, so that their mean over valid examples is the value above.
    Cosines with a side of length 0 are 0, and are in the mean, as published.

  References: park2019rkd, Sec. 3.2.2.
  """
  s, t, valid, n = _pairs.embeddings('rkd_angle', student_features,
                                    teacher_features, where)
  pair = _pairs.both(valid)
  # Scale does not matter; near 1 the products stay in range.
  s, t = (core.squared_distances(_small(x)) for x in (s, t))

  def cosines(square, row):
    side = core.root(row)
    product = side[:, None] * side
    flat = product == 0
    cos = (row[:, None] + row - square) / (2 * jnp.where(flat, 1, product))
    return jnp.where(flat | ~pair, 0, cos)

  @jax.checkpoint
  def vertex(rows):
    return jnp.sum(_pairs.huber(cosines(s, rows[0]) - cosines(t, rows[1])))

  size = len(valid)
  if size**3 <= _TRIPLES:
    share = jax.vmap(vertex)((s, t))
  else:
    share = jax.lax.map(vertex, (s, t), batch_size=max(1, _TRIPLES // size**2))
  return jnp.where(valid, share, 0) / n**2


def _small(x):
  largest = jax.lax.stop_gradient(jnp.max(jnp.abs(x)))
  return x / jnp.where(largest == 0, 1, largest)
