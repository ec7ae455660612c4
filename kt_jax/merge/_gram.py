"""Inner products of models, from which spherical means are computed."""
import jax
from jax import numpy as jnp

from kt_jax import core

ORIGINS = ('base', 'zero')


def inner_products(base: jax.Array, models: jax.Array, weight=None, **settings
                   ) -> jax.Array:
  """`[T + 1, T + 1]` inner products of the base (first) and the models.

  A measure, in float32 over the whole leaf; those of chunks add up. Squares
  must stay in the range of float32 (norms from 1e-19 to 1e19). `weight` and the
  settings are not used.
  """
  del weight, settings
  return _products([core.to_float(base), *core.to_float(models)], None)


def delta_gram(base: jax.Array, models: jax.Array, weight=None, *,
               origin: str = 'base',
               axis: int | tuple[int, ...] | None = None,
               **settings) -> jax.Array:
  """`[T, T]` inner products of `m - base`, a measure as `inner_products`.

  Args:
    base: `[...]`.
    models: `[T, ...]`.
    weight: not used.
    origin: 'base', or 'zero' for products of the models themselves.
    axis: axes along which a vector runs; None for the whole leaf. With axes the
      result is `[T, T, ...]`, these axes having size 1, and not a sum over flat
      chunks.
    **settings: not used.
  """
  del weight, settings
  if origin not in ORIGINS:
    raise core.UserError(core.nearest('origin', origin, ORIGINS))
  vectors = core.to_float(models)
  if origin == 'base':
    vectors = vectors - core.to_float(base)
  return _products(list(vectors), axis if base.ndim else None)


def zero_gram(base: jax.Array, models: jax.Array, weight=None, *,
              origin: str = 'zero', **settings) -> jax.Array:
  """`delta_gram` for operators whose default origin is zero."""
  return delta_gram(base, models, weight, origin=origin, **settings)


def cosines(gram: jax.Array, eps: float = 0.0) -> tuple[jax.Array, jax.Array]:
  """Norms `[T, ...]` and cosines `[T, T, ...]` of inner products.

  A vector no longer than `eps` has norm 0 and cosine 0 with all, itself
  included; else the diagonal is exactly 1. Gradients are finite everywhere.
  """
  count = len(gram)
  square = jnp.stack([gram[t, t] for t in range(count)])
  zero = square <= eps**2
  norm = jnp.sqrt(jnp.where(zero, 1, square))
  here = ~(zero[:, None] | zero[None])
  cosine = jnp.clip(gram / (norm[:, None] * norm[None]), -1, 1)
  own = jnp.eye(count, dtype=bool).reshape(
      (count, count) + (1,) * (gram.ndim - 2))
  return jnp.where(zero, 0, norm), jnp.where(
      here, jnp.where(own, 1, cosine), 0)


def is_whole_vector(*, axis: int | tuple[int, ...] | None = None,
                    **settings) -> bool:
  """Whether a vector is a whole leaf, so that its products sum over chunks."""
  del settings
  return axis is None


def check_gram(fn: str, gram: jax.Array, count: int) -> None:
  """Refuses an argument `gram` of another shape."""
  if gram.shape[:2] != (count, count):
    raise core.UserError(f'{fn}: gram has shape {gram.shape}; this leaf asks '
                         f'for ({count}, {count}).')


def _products(vectors, axis):
  """Half of the products are computed: the result is exactly symmetric."""
  def product(x, y):
    if axis is None:
      return _sum(x * y)
    return jnp.sum(x * y, axis, keepdims=True)
  half = {(i, j): product(x, y) for i, x in enumerate(vectors)
          for j, y in enumerate(vectors[:i + 1])}
  return jnp.stack([
      jnp.stack([half[max(i, j), min(i, j)] for j in range(len(vectors))])
      for i in range(len(vectors))])


def _sum(x):
  """The sum of all entries; long rows in parts, which keeps rounding small."""
  if x.ndim and x.shape[-1] >= 2**14 and x.shape[-1] % 2**10 == 0:
    x = jnp.sum(x.reshape(*x.shape[:-1], -1, 2**10), -1)
  return jnp.sum(jnp.sum(x, -1) if x.ndim > 1 else x)
