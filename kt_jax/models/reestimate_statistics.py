"""Re-estimation of BatchNorm statistics."""
from collections.abc import Callable, Iterable, Mapping
import functools
from typing import Any

from flax import nnx
import jax
from jax import numpy as jnp

from kt_jax import core
from kt_jax.models import net as net_lib
from kt_jax.models.intercept import intercept


def reestimate_statistics(
    net: net_lib.Net, params: net_lib.Arrays, stats: net_lib.Arrays,
    batches: Iterable[Mapping[str, Any]], *,
    prepare: Callable[[jax.Array], jax.Array] | None = None,
) -> net_lib.Arrays:
  r"""Statistics that fit the parameters, for merged models.

    mean = 1/N sum_b n_b m_b,   var = 1/N sum_b n_b (v_b + (m_b - mean)^2)

  with the mean m_b and the variance v_b (divided by n_b) of the n_b inputs of a
  BatchNorm in batch b: the moments of all inputs together. Each batch is
  normalized by its own statistics, as in training; dropout is off. The order of
  the batches changes rounding only; their size matters to layers behind another
  BatchNorm, and larger is better.

  Args:
    net: of the model.
    params: path -> parameter.
    stats: path -> statistic; those outside of a BatchNorm stay as they are.
    batches: dicts with `images [B, ...]` and `where` bool `[B]`, the valid
      rows (default all).
    prepare: images to the model's inputs (`data.normalize`); None: as they are.
      Pass the same function object at every call to compile once.

  Returns:
    The new `stats`.

  Raises:
    UserError: the model has no BatchNorm, a batch lacks images, or there are
      no examples.

  Departures: torch's update_bn averages the batches' variances, which leaves
  out how their means differ; and it divides by n_b - 1.

  References: izmailov2018swa (batch normalization).
  """
  pooled = None
  for batch in batches:
    if 'images' not in batch:
      raise core.UserError("reestimate_statistics: a batch lacks 'images'; it "
                           f'has {sorted(batch)}.')
    images = jnp.asarray(batch['images'])
    where = batch.get('where')
    where = jnp.ones(len(images), bool) if where is None else jnp.asarray(where)
    pooled = _add(net, prepare, params, stats, pooled, images, where)
    if not pooled:
      raise core.UserError('reestimate_statistics: no BatchNorm ran in the '
                           'model.')
  if pooled is None or not min(int(p[0]) for p in pooled.values()):
    raise core.UserError('reestimate_statistics: batches have no examples.')
  new = dict(stats)
  for path, (_, mean, var) in pooled.items():
    for name, value in (('mean', mean), ('var', var)):
      name = f'{path}/{name}' if path else name
      new[name] = value.astype(stats[name].dtype)
  return new


@functools.partial(jax.jit, static_argnums=(0, 1))
def _add(net, prepare, params, stats, pooled, images, where):
  """Path -> `(count, mean, var)` with one more batch."""
  pooled = {} if pooled is None else dict(pooled)
  x = images if prepare is None else prepare(images)

  def handler(path, module, call, x, *_, **__):
    axis = module.axis % x.ndim
    axes = tuple(a for a in range(x.ndim) if a != axis)
    keep = where.astype(bool).reshape(-1, *(1,) * (x.ndim - 1))
    wide = core.to_float(x)
    count = jnp.sum(where, dtype=jnp.float32) * (
        x.size // x.shape[0] // x.shape[axis])
    mean_of = lambda x: jnp.sum(x, axes, where=keep) / jnp.maximum(count, 1)
    mean = mean_of(wide)
    shape = [-1 if a == axis else 1 for a in range(x.ndim)]
    var = mean_of(jnp.square(wide - mean.reshape(shape)))
    pooled[path] = _pool(pooled.get(path), (count, mean, var))
    # BatchNorm itself computes E x^2 - (E x)^2, which loses small variances.
    module.mean[...] = mean.astype(module.mean[...].dtype)
    module.var[...] = var.astype(module.var[...].dtype)
    return call(x, use_running_average=True)

  def run(model):
    with intercept(model, nnx.BatchNorm, handler):
      model(x)
  net_lib.call(net, params, stats, run)
  return pooled


def _pool(old, new):
  """The moments of two sets together, each `(count, mean, var)`."""
  if old is None:
    return new
  count = old[0] + new[0]
  share = new[0] / jnp.maximum(count, 1)
  gap = new[1] - old[1]
  return (count, old[1] + share * gap,
          old[2] + share * (new[2] - old[2]) + share * (1 - share) * gap**2)
