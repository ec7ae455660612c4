"""Masks of examples: those a model gets right, those two models differ in."""
import jax
from jax import numpy as jnp

from kt_jax import core


def correct(logits: jax.Array, labels: jax.Array) -> jax.Array:
  """`[N]` booleans: the argmax of `logits [N, K]` is `labels [N]`.

  The first of equal logits is the prediction. A row with NaN has no prediction
  and is wrong, as is any label outside 0..K-1.
  """
  defined = ~jnp.isnan(jnp.max(logits, axis=-1))
  return defined & (jnp.argmax(logits, axis=-1) == labels)


def positive_flips(
    fn: str,
    labels: jax.Array,
    where: jax.Array | None = None,
    **logits: jax.Array,
) -> jax.Array:
  """`[N]` booleans: the second model is right where the first is wrong.

  Args:
    fn: name of the caller, for the message.
    labels: `[N]` integer class ids.
    where: `[N]` examples that count, or None for all.
    **logits: two `[N, K]`, by the caller's names.

  Raises:
    ValueError: shapes that do not agree, or labels that are not integers.
  """
  check(fn, labels, where, **logits)
  first, second = logits.values()
  flips = correct(second, labels) & ~correct(first, labels)
  return flips if where is None else flips & where.astype(bool)


def same(fn: str, where: jax.Array | None = None,
         **logits: jax.Array) -> jax.Array:
  """`[N]` booleans: two models, by the caller's names, predict one class."""
  check_pair(fn, where, **logits)
  first, second = logits.values()
  return correct(first, jnp.argmax(second, axis=-1)) & ~jnp.isnan(
      jnp.max(second, axis=-1))


def check(fn: str, labels: jax.Array, where: jax.Array | None = None,
          **logits: jax.Array) -> None:
  """Refuses logits, labels and masks whose shapes do not agree."""
  check_pair(fn, where, **logits)
  if not jnp.issubdtype(labels.dtype, jnp.integer):
    raise ValueError(f'{fn}: labels must be integer class ids, '
                     f'got {labels.dtype}.')
  _check_rows(fn, 'labels', labels, **logits)


def check_pair(fn: str, where: jax.Array | None = None,
               **logits: jax.Array) -> None:
  """Refuses logits and masks whose shapes do not agree."""
  core.check_logits(fn, **logits)
  name, first = next(iter(logits.items()))
  if first.ndim != 2:
    raise ValueError(f'{fn}: {name} must be [N, K], got shape {first.shape}; '
                     'use jax.vmap for more axes.')
  if where is not None:
    _check_rows(fn, 'where', where, **logits)


def _check_rows(fn: str, argument: str, value: jax.Array, **logits) -> None:
  name, first = next(iter(logits.items()))
  if value.shape != first.shape[:1]:
    raise ValueError(f'{fn}: {argument} has shape {value.shape}; it must be '
                     f'{first.shape[:1]}, one entry per row of {name}.')


def rate(hits: jax.Array, where: jax.Array | None) -> jax.Array:
  """Share of `hits [N]`: counts in int32, their ratio in float32."""
  return core.masked_mean(hits.astype(jnp.int32), where)
