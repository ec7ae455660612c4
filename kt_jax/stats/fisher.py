"""The diagonal of the Fisher information, example by example."""
from collections.abc import Callable, Iterable, Mapping
import functools
from typing import Any

import jax
from jax import numpy as jnp

from kt_jax import core

_LABELS = ('exact', 'sampled', 'given')


def fisher(
    logits_fn: Callable[..., jax.Array],
    params: Any,
    batches: Iterable[Mapping[str, Any]],
    *,
    labels: str = 'exact',
    key: jax.Array | None = None,
    context: tuple[Any, ...] = (),
    chunk: int = 8,
) -> Any:
  r"""The diagonal of the Fisher information, for each parameter.

    F = 1/N sum_i sum_y p(y|x_i) (d log p(y|x_i) / d theta)^2

  The gradients of single examples are squared; the square of a batch's mean
  gradient is another, much smaller quantity. The floor and the normalization of
  the paper's code are arguments of the merge (`merge.fisher`).

  Args:
    logits_fn: `(params, images [b, ...], *context) -> [b, K]`, in evaluation
      mode: no example may depend on another. Pass the same function object for
      all models, and differences in `context`, to compile once.
    params: pytree of floating arrays.
    batches: dicts with `images [B, ...]`; `where` bool `[B]`: valid rows, by
      default all; `labels` int `[B]`, for 'given' only; `index` int `[B]`, for
      'sampled' only: number of each example, by default its number among the
      valid rows of all batches.
    labels: 'exact': the sum over all K labels, K backward passes per example.
      'sampled': one label per example, drawn from p(y|x), unbiased. 'given':
      the data's label, the so-called empirical Fisher: another quantity, which
      does not estimate F.
    key: for 'sampled'; folded with each example's index, so that draws do not
      depend on the order of examples and the size of batches.
    context: further arguments of `logits_fn`, not differentiated (BatchNorm's
      statistics).
    chunk: number of examples at a time; memory is twice that many gradients. A
      multiple of the devices over which a batch is sharded keeps all busy.

  Returns:
    Pytree like `params`, float32, >= 0: a mean over examples.

  Raises:
    UserError: an unknown kind of labels, no key for 'sampled', a batch that
      lacks an array, no examples, a leaf that is not floating.

  References: matena2021fisher (the diagonal Fisher).
  """
  if labels not in _LABELS:
    raise core.UserError(core.nearest('kind of labels', labels, _LABELS))
  if labels == 'sampled' and key is None:
    raise core.UserError("fisher: labels='sampled' needs a key.")
  core.check_positive('fisher', chunk=chunk)
  for path, leaf in core.flatten(params).items():
    if not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
      raise core.UserError(f'fisher: leaf {path!r} of params is '
                           f'{jnp.result_type(leaf)}; all must be floating.')
  needs = ('images', 'labels') if labels == 'given' else ('images',)
  total = jax.tree.map(
      lambda leaf: jnp.zeros_like(leaf, jnp.float32), params)
  count = jnp.int32(0)
  for batch in batches:
    for name in needs:
      if name not in batch:
        raise core.UserError(f'fisher: a batch lacks {name!r}; it has '
                             f'{sorted(batch)}.')
    used = {name: jnp.asarray(batch[name])
            for name in (*needs, 'where', 'index') if name in batch}
    total, count = _add(logits_fn, labels, chunk, total, count, params, key,
                        context, used)
  if not int(count):
    raise core.UserError('fisher: batches have no examples.')
  return jax.tree.map(lambda leaf: leaf / count, total)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _add(logits_fn, labels, chunk, total, count, params, key, context, batch):
  """`(total, count)` with one more batch."""
  images = batch['images']
  size = images.shape[0]
  where = batch.get('where', jnp.ones(size, bool)).astype(bool)
  index = batch.get('index', count + jnp.cumsum(where) - 1)
  targets = batch.get('labels', jnp.zeros(size, jnp.int32))

  def example(image, label, index):
    def log_p_of(params):
      logits = logits_fn(params, image[None], *context)[0]
      return jax.nn.log_softmax(core.to_float(logits))
    log_p, pull = jax.vjp(log_p_of, params)
    def square(label):
      grad, = pull(jax.nn.one_hot(label, len(log_p), dtype=log_p.dtype))
      return jax.tree.map(lambda g: jnp.square(core.to_float(g)), grad)
    if labels == 'given':
      return square(label)
    if labels == 'sampled':
      return square(jax.random.categorical(
          jax.random.fold_in(key, index), log_p))
    def body(total, label):
      return jax.tree.map(lambda t, s: t + jnp.exp(log_p[label]) * s,
                          total, square(label)), None
    zero = jax.tree.map(lambda p: jnp.zeros_like(p, jnp.float32), params)
    return jax.lax.scan(body, zero, jnp.arange(len(log_p)))[0]

  def add(total, rows):
    *rows, where = rows
    squares = jax.vmap(example)(*rows)
    def masked(total, square):
      keep = where.reshape(-1, *(1,) * (square.ndim - 1))
      return total + jnp.sum(square, 0, where=keep)
    return jax.tree.map(masked, total, squares), None

  chunk = min(chunk, size)
  def split(x):
    x = jnp.pad(x, [(0, -size % chunk)] + [(0, 0)] * (x.ndim - 1))
    # The batch is sharded along its first axis: each step takes from all.
    return jnp.moveaxis(x.reshape(chunk, -1, *x.shape[1:]), 0, 1)
  rows = tuple(map(split, (images, targets, index, where)))
  total, _ = jax.lax.scan(add, total, rows)
  return total, count + jnp.sum(where, dtype=jnp.int32)
