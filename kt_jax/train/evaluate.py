"""Logits of a whole split, and metrics of them."""
from collections.abc import Callable

import jax
from jax import numpy as jnp
from jax.experimental import multihost_utils
import numpy as np

from kt_jax import core
from kt_jax import data
from kt_jax import models
from kt_jax.train import mesh as meshes
from kt_jax.train.graph import quantize
from kt_jax.train.step import make_cast


def make_predict(net: models.Net, info: data.Info, *,
                 compute_dtype: str = 'float32', bits: int = 0
                ) -> Callable[..., jax.Array]:
  """Jitted `(params, stats, images uint8 [B, H, W, C]) -> logits [B, K]`.

  The model runs in evaluation mode.
  """
  cast = make_cast(compute_dtype)

  @jax.jit
  def predict(params, stats, images):
    x = data.normalize(images, info.mean, info.std)
    out = models.apply(net, cast(quantize(params, bits)), stats, cast(x))
    return out.logits.astype(jnp.float32)
  return predict


def predict_all(predict, params, stats, arrays: data.Arrays, *,
                batch_size: int, mesh: jax.sharding.Mesh | None = None
               ) -> np.ndarray:
  """Logits `[N, K]` of every example of `arrays`, in order, on every process.

  Batches have one shape (the last is padded), so nothing compiles twice.
  """
  span, put = slice(None), lambda x: x
  if mesh is not None:
    devices = mesh.shape['data']
    batch_size = -(-batch_size // devices) * devices
    span, put = meshes.rows(mesh, batch_size), meshes.make_shard_batch(mesh)
  parts = []
  for batch in data.batches_for_eval(arrays, batch_size):
    logits = predict(params, stats, put(batch['images'][span]))
    if not logits.is_fully_addressable:
      logits = multihost_utils.process_allgather(logits, tiled=True)
    parts.append(logits)
  return np.concatenate(jax.device_get(parts))[:len(arrays.labels)]


def classification_metrics(logits, labels, bins: int = 15) -> dict[str, float]:
  """`accuracy`, `nll` (nats) and `ece` of logits `[N, K]`, labels `[N]`.

  ECE is the expected calibration error over `bins` equal-width bins of the
  largest probability (guo2017calibration, Eq. 3).
  """
  logits = np.asarray(logits, np.float64)
  if not np.isfinite(logits).all():
    raise core.UserError('The logits of the model are not finite.')
  log_p = logits - logits.max(-1, keepdims=True)
  log_p -= np.log(np.exp(log_p).sum(-1, keepdims=True))
  right = logits.argmax(-1) == labels
  sure = np.exp(log_p.max(-1))
  bin_of = np.minimum((sure * bins).astype(int), bins - 1)
  gaps = np.bincount(bin_of, weights=right - sure, minlength=bins)
  return dict(accuracy=float(right.mean()),
              nll=float(-log_p[np.arange(len(labels)), labels].mean()),
              ece=float(np.abs(gaps).sum() / len(labels)))
