"""Centered kernel alignment."""
import jax
from jax import numpy as jnp

from kt_jax import core
from kt_jax.losses.relation import _pairs


def cka(
    student_features: jax.Array,
    teacher_features: jax.Array,
    where: jax.Array | None = None,
    *,
    debiased: bool = False,
) -> jax.Array:
  r"""One minus the linear centered kernel alignment of two layers.

    1 - <K, L> / (|K| |L|) = |K/|K| - L/|L||^2 / 2,

  K = H X X^T H and L = H Y Y^T H the centered Gram matrices of the examples;
  the right-hand form loses no digits near 0 and decomposes by example. If
  `debiased`, K and L are centered so that <K, L> estimates HSIC without bias
  (zero diagonal, off-diagonal rows of sum 0): the biased value tends to 0, full
  alignment, when the width outgrows the batch.

  Args:
    student_features: `[B, ...]`, flattened to vectors.
    teacher_features: `[B, ...]`, of any width; no gradient is stopped here.
    where: `[B]` bool, the n examples that count; None: all.
    debiased: needs n >= 4.

  Returns:
    `[B]` shares, at least float32, without unit, 0 at equality: n times the
    part of the value above that is in row i, so that their mean over valid
    examples is the value: in [0, 1], debiased in [0, 2]. 1 if a layer is
    constant over the batch. The value depends on the whole batch: shares of
    parts of a batch do not add up to it.

  Departures: the paper compares layers by the alignment itself. The debiased
  estimator is the published one, written as U-centering.

  References: kornblith2019cka, Eq. 3-4; debiased: nguyen2021wide.
  """
  s, t, valid, n = _pairs.embeddings('cka', student_features, teacher_features,
                                    where)
  if debiased and len(s) < 4:
    raise ValueError(f'cka: debiased=True needs 4 examples, got {len(s)}.')
  s, t = (_direction(x, valid, n, debiased) for x in (s, t))
  # A zero matrix has cosine 0 with any: half a square is missing for each.
  missing = sum(jnp.where(jnp.all(x == 0), 0.5, 0.0) for x in (s, t))
  square = jnp.sum(jnp.square(s - t), axis=-1)
  return jnp.where(valid, n * square / 2 + missing, 0)


def _direction(x, valid, n, debiased):
  """`[B, B]` centered Gram matrix at norm 1, 0 where rows do not count."""
  column = valid[:, None]
  before = jnp.max(jnp.abs(x))
  x = jnp.where(column, x - jnp.sum(x, axis=0) / n, 0)
  largest = jnp.max(jnp.abs(x))
  # The rounding error of a constant layer is not a direction.
  constant = largest <= 8 * jnp.finfo(x.dtype).eps * before
  scale = jax.lax.stop_gradient(jnp.where(constant, jnp.inf, largest))
  x = x / scale
  gram = core.dot(x, x)
  if debiased:
    pair = _pairs.both(valid) & ~jnp.eye(len(x), dtype=bool)
    gram = jnp.where(pair, gram, 0)
    row = jnp.sum(gram, axis=-1, keepdims=True) / jnp.maximum(n - 2, 1)
    total = jnp.sum(gram) / jnp.maximum((n - 1) * (n - 2), 1)
    gram = jnp.where(pair, gram - row - row.T + total, 0)
  return core.unit(gram.reshape(-1)).reshape(gram.shape)
