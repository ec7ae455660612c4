"""Second moments of the inputs of linear layers."""
from collections.abc import Callable, Iterable, Mapping
import functools
from typing import Any

import jax
from jax import numpy as jnp

from kt_jax import core


def gram(
    inputs_fn: Callable[..., Mapping[str, jax.Array]],
    params: Any,
    batches: Iterable[Mapping[str, Any]],
    *,
    context: tuple[Any, ...] = (),
) -> dict[str, jax.Array]:
  r"""Gram matrices of the inputs of linear layers, for RegMean.

    G = 1/n sum_r x_r x_r^T

  over the rows r of all examples: one per example or token for a dense layer,
  one per position for a convolution.

  Args:
    inputs_fn: `(params, images [B, ...], *context) -> {path of a kernel:
      [B, ..., d_in]}`, in evaluation mode; from `models.linear_inputs`:
      `lambda params, x, stats: models.linear_inputs(net, params, stats, x)`.
      Pass the same function object for all models to compile once.
    params: pytree.
    batches: dicts with `images [B, ...]` and `where` bool `[B]`: valid rows, by
      default all.
    context: further arguments of `inputs_fn` (BatchNorm's statistics).

  Returns:
    Path -> `[d_in, d_in]` float32, symmetric, products at full precision.

  Raises:
    UserError: a batch without images, or no examples.

  Departures: the mean is over rows; the authors' code divides by the number of
  batches. A convolution's matrix is of its patches, in the order of
  `kernel.reshape(-1, outputs)`; the paper has dense layers only.

  References: jin2022regmean (inner product matrices of the inputs).
  """
  total, count = None, jnp.int32(0)
  for batch in batches:
    if 'images' not in batch:
      raise core.UserError("gram: a batch lacks 'images'; it has "
                           f'{sorted(batch)}.')
    images = jnp.asarray(batch['images'])
    where = batch.get('where')
    where = jnp.ones(len(images), bool) if where is None else jnp.asarray(where)
    mean, valid = _moments(inputs_fn, params, context, images, where)
    # Means rather than sums: the count of all rows may exceed 2^24.
    count += valid
    share = valid / jnp.maximum(count, 1)
    total = mean if total is None else jax.tree.map(
        lambda t, m: t + share * (m - t), total, mean)
  if total is None or not int(count):
    raise core.UserError('gram: batches have no examples.')
  return total


@functools.partial(jax.jit, static_argnums=0)
def _moments(inputs_fn, params, context, images, where):
  """`(path -> mean of the batch's products, number of examples)`."""
  valid = jnp.sum(where, dtype=jnp.int32)

  def leaf(x):
    x = core.to_float(x)
    keep = where.astype(bool).reshape(-1, *(1,) * (x.ndim - 1))
    rows = jnp.where(keep, x, 0).reshape(-1, x.shape[-1])
    count = jnp.maximum(valid, 1) * (len(rows) // len(x))
    return jnp.matmul(rows.T, rows,
                      precision=jax.lax.Precision.HIGHEST) / count
  inputs = inputs_fn(params, images, *context)
  return {path: leaf(x) for path, x in inputs.items()}, valid
