"""What is particular to training on images."""
from collections.abc import Callable, Mapping
from typing import Any

import jax
from jax import numpy as jnp
import numpy as np
import optax

from kt_jax import core
from kt_jax import data
from kt_jax import models
from kt_jax.train.graph import TermContext
from kt_jax.train.specs import CLEAN
from kt_jax.train.specs import STUDENT


class ImageContext(TermContext):
  """Networks that read normalized images, through an augmentor or not."""

  def __init__(self, *args):
    super().__init__(*args)
    self._differentiated = {}  # outputs through which the augmentor learns
    self._augmented = None

  def output(self, name):
    if self.graph.augmentor in self.updates and not name.endswith(CLEAN):
      # Gradients must reach the inputs, even of networks that do not learn.
      if name not in self._differentiated:
        self._differentiated[name] = self.run_network(name, self.params)
      return self._differentiated[name]
    return super().output(name)

  def inputs(self, clean: bool) -> jax.Array:
    """Images of the batch, changed by the augmentor unless `clean`."""
    if clean or not self.graph.augmentor:
      return self.batch['inputs']
    if self._augmented is None:
      name = self.graph.augmentor
      self._augmented = self.call(name, dict(
          self.batch, key=core.fold_path(self.key, name + ' draws')))
    return self._augmented['inputs']

  def run_network(self, name, params):
    plain = name.removesuffix(CLEAN)
    network, taps = self.graph.networks[plain], sorted(self.taps[plain])
    learns = network.kind in (STUDENT, 'online')
    if network.net is None:
      cached = lambda array: self.batch[f'cached/{plain}/{array}']
      logits = cached_logits(self.batch, plain, network.classes)
      out = models.Output(logits, {}, {t: cached(t) for t in taps})
    else:
      x = self.inputs(name.endswith(CLEAN))
      student = self.graph.networks[STUDENT]
      if (network.mean, network.std) != (student.mean, student.std):
        as_array = lambda v: jnp.asarray(v, x.dtype)
        x = (x * as_array(student.std) + as_array(student.mean)
             - as_array(network.mean)) / as_array(network.std)
      params, stats = self.params_of(plain, params)
      out = models.apply(
          network.net, self.cast(params), stats, self.cast(x), train=learns,
          key=core.fold_path(self.key, plain), taps=taps)
    if learns:  # a second pass, over clean inputs, does not count twice
      self.new_stats[plain].update(out.stats if name == plain else {
          n: v for n, v in out.stats.items()
          if self.new_stats[plain][n] is self.stats[plain][n]})
    logits = out.logits
    if network.permute_logits:
      logits = permute_logits(logits, self.batch['index'],
                              network.permute_logits)
    if network.class_map:
      logits = logits[..., jnp.asarray(network.class_map)]
    return out._replace(logits=logits)


def cached_logits(batch, name: str, classes: int) -> jax.Array:
  """Logits of a teacher from the cache, those that were not kept filled in."""
  prefix = f'cached/{name}/logits'
  if prefix in batch and f'{prefix}/class' in batch:
    return data.fill_logits(
        batch[prefix], batch[f'{prefix}/class'], batch[f'{prefix}/rest'],
        classes)
  return batch[prefix]


def permute_logits(logits, index, share):
  """Logits with the classes permuted for a fixed `share` of the examples."""
  def row(z, i):
    draw, shuffle = jax.random.split(jax.random.fold_in(jax.random.key(0), i))
    return jnp.where(jax.random.uniform(draw) < share,
                     jax.random.permutation(shuffle, z), z)
  return jax.vmap(row)(logits, index)


def prepare_images(info: data.Info, *, mixup: float = 0.0, cutmix: float = 0.0
                  ) -> Callable[[Mapping[str, Any], jax.Array], dict[str, Any]]:
  """`(batch, key) -> {'data': arrays}`: normalized inputs, mixed if so set.

  With both mixup and cutmix, each step draws one of them with equal chance;
  labels are then `[B, K]` probabilities.
  """
  def prepare(batch, key):
    arrays = {k: v for k, v in batch.items() if k != 'images'}
    x = data.normalize(batch['images'], info.mean, info.std)
    if mixup or cutmix:
      soft = jax.nn.one_hot(batch['labels'], info.classes)
      key_choice, key = jax.random.split(key)
      mix = lambda: data.mixup(key, x, soft, mixup)
      cut = lambda: data.cutmix(key, x, soft, cutmix)
      if mixup and cutmix:
        x, soft = jax.lax.cond(
            jax.random.bernoulli(key_choice), mix, cut)
      else:
        x, soft = mix() if mixup else cut()
      arrays['labels'] = soft
    return {'data': arrays | {'inputs': x}}
  return prepare


def held_out_loss(net: models.Net, info: data.Info, rows: Mapping[str, Any]
                 ) -> Callable[..., jax.Array]:
  """`(params, stats, key) -> cross entropy` of a student on held-out rows."""
  def loss(params, stats, key):
    x = data.normalize(rows['images'], info.mean, info.std)
    out = models.apply(net, params, stats, x, train=True, key=key)
    return jnp.mean(optax.losses.softmax_cross_entropy_with_integer_labels(
        out.logits.astype(jnp.float32), rows['labels']))
  return loss


def image_shapes(info: data.Info, rows: int) -> dict[str, jax.ShapeDtypeStruct]:
  """Arrays of a batch of `rows` examples."""
  return dict(
      images=jax.ShapeDtypeStruct((rows, *info.input_shape), np.uint8),
      labels=jax.ShapeDtypeStruct((rows,), np.int32),
      index=jax.ShapeDtypeStruct((rows,), np.int32))
