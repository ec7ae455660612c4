"""What is particular to training on tokens.

Arrays of a batch are `[B, S]`. The shift is done once, in `align`: position i
holds what is known about token i + 1.
"""
from collections.abc import Callable, Mapping
from typing import Any

import jax
from jax import numpy as jnp
import numpy as np

from kt_jax import core
from kt_jax import data
from kt_jax import losses
from kt_jax import models
from kt_jax.train.graph import per_example
from kt_jax.train.graph import positional
from kt_jax.train.graph import quantize
from kt_jax.train.graph import teaches_itself
from kt_jax.train.graph import TermContext
from kt_jax.train.images import cached_logits
from kt_jax.train.specs import STUDENT


class TokenContext(TermContext):
  """Decoders that read rows of tokens."""

  def run_network(self, name, params):
    network, batch = self.graph.networks[name], self.batch
    if network.net is None:
      return models.Output(
          cached_logits(batch, name, network.classes), {}, {})
    learns, prefix = network.kind in (STUDENT, 'online'), None
    if network.module:
      prefix = params[network.module]['embedding']
    own, stats = self.params_of(name, params)
    of = f'retokenized/{name}/' if network.retokenized else ''

    def run(model):
      hidden = model.hidden(batch[of + 'tokens'], batch[of + 'segments'],
                            prefix=prefix)
      if of:  # from its positions to those of the data
        places = jnp.maximum(batch[of + 'places'], 0)
        hidden = jnp.take_along_axis(hidden, places[..., None], axis=1)
      return model.logits(hidden), dict(hidden=hidden,
                                        head=model.head_kernel())
    (logits, features), new = models.call(
        network.net, self.cast(own), stats, run, train=learns,
        key=core.fold_path(self.key, name))
    if learns:
      self.new_stats[name].update(new)
    if network.mapping is not None:
      logits = _only_shared(logits[..., np.maximum(network.mapping, 0)],
                            network.mapping)
    return models.Output(logits, new, features)

  def arrays(self, name, inputs):
    arrays = super().arrays(name, inputs)
    teacher = self.graph.networks.get(self.graph.terms[name].teacher)
    if teacher and teacher.mapping is not None and 'student_logits' in arrays:
      arrays['student_logits'] = _only_shared(arrays['student_logits'],
                                              teacher.mapping)
    return arrays

  def where(self, name):
    """The tokens that count, of a retokenized teacher those it can judge."""
    term, where = self.graph.terms[name], self.batch['where']
    teacher = self.graph.networks.get(term.teacher)
    if teacher and teacher.retokenized:
      where &= self.batch[f'retokenized/{term.teacher}/places'] >= 0
      if teacher.mapping is not None and 'labels' in positional(
          self.graph.functions[name]):
        where &= jnp.asarray(teacher.mapping >= 0)[self.batch['labels']]
    return where

  def sums(self, name):
    """Sum and count of a loss term; in chunks, from hidden states."""
    if not self.graph.chunk:
      return super().sums(name)
    term, fn = self.graph.terms[name], self.graph.functions[name]
    weight = [term.example_weight] * bool(term.example_weight)
    arrays, settings = self.bound(name, {
        n for n in (*positional(fn), *weight) if not n.endswith('_logits')})
    if 'student_logits' in term.rename:
      raise core.UserError(
          f'config.terms.{name}.rename: the student_logits of train.chunk are '
          'those of the student of the term; set train.chunk 0.')
    kw = self._head('student', term.student)
    # A weight or a setting of the loss may be learned.
    learns = term.module in self.updates and bool(self.params[term.module])
    if 'teacher_logits' in positional(fn):
      source = term.rename.get('teacher_logits', 'teacher_logits')
      teacher = (term.teacher if source == 'teacher_logits'
                 else source.removesuffix('_logits'))
      if teacher not in self.graph.networks:
        raise core.UserError(
            f'config.terms.{name}: train.chunk computes the logits of one '
            f'teacher, not {source}; set train.chunk 0.')
      constant = teacher == term.teacher and teaches_itself(term)
      kw |= self._head('teacher', teacher, constant)
      learns |= self.learns(teacher) and not constant
    if 'labels' in arrays:
      kw['labels'] = arrays['labels']
    if weight:
      kw['weight'] = per_example(arrays[weight[0]],
                                 kw['student_hidden'].shape[:-1])
    # linear_head is faster, and differentiates the student's arrays alone.
    total = checkpointed_head if learns else losses.linear_head
    return total(fn, **kw, where=self.where(name), chunk=self.graph.chunk,
                 **settings)

  def call(self, module, arrays):
    out = super().call(module, arrays)
    for name in out if self.graph.chunk else ():
      if name.endswith('_logits'):
        raise core.UserError(
            f'config.modules.{module} outputs {name}, and train.chunk computes '
            'logits from hidden states; set train.chunk 0.')
    return out

  def _head(self, role: str, name: str, constant: bool = False
           ) -> dict[str, Any]:
    """Arguments of `losses.linear_head` about a network."""
    network, features = self.graph.networks[name], self.output(name).features
    if network.net is None:
      raise core.UserError(
          f'train.chunk needs hidden states, but the outputs of {name} come '
          'from a cache: set cache.views 0 or train.chunk 0.')
    if constant:
      features = jax.lax.stop_gradient(features)
    return {f'{role}_hidden': features['hidden'],
            f'{role}_head': features['head'],
            f'{role}_softcap': network.softcap}


def checkpointed_head(fn, student_hidden, student_head, teacher_hidden=None,
                      teacher_head=None, labels=None, weight=None, *, where,
                      chunk, student_softcap=0.0, teacher_softcap=0.0,
                      **settings) -> tuple[jax.Array, jax.Array]:
  """As `losses.linear_head`, with gradients for everything that learns.

  Logits of a chunk are computed again for its gradient.
  """
  tokens = where.size
  size = min(chunk, tokens)
  rows = dict(student=student_hidden, where=where, labels=labels,
              teacher=teacher_hidden, weight=weight)
  def in_chunks(x, axes):
    x = x.reshape(tokens, *x.shape[axes:])
    pad = [(0, -tokens % size)] + [(0, 0)] * (x.ndim - 1)
    return jnp.pad(x, pad).reshape(-1, size, *x.shape[1:])
  rows = {n: in_chunks(x, where.ndim) for n, x in rows.items()
          if x is not None}

  def logits(hidden, head, cap):
    z = jnp.matmul(hidden, head, preferred_element_type=jnp.float32)
    return cap * jnp.tanh(z / cap) if cap else z

  @jax.checkpoint
  def one(rows, heads):
    arrays = dict(student_logits=logits(rows['student'], heads[0],
                                        student_softcap))
    if 'teacher' in rows:
      arrays['teacher_logits'] = logits(rows['teacher'], heads[1],
                                        teacher_softcap)
    if 'labels' in rows:
      arrays['labels'] = rows['labels']
    values = core.bind(fn, arrays, **settings)
    if 'weight' in rows:
      values *= rows['weight']
    return core.masked_sum(values, rows['where'])
  totals, counts = jax.lax.map(
      lambda row: one(row, (student_head, teacher_head)), rows)
  return jnp.sum(totals), jnp.sum(counts)


def align(batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
  """Adds `labels` and `where`: the token that follows each, and if it counts.

  Args:
    batch: `tokens`, `segments`, `targets`, as in `data.TextArrays`.
  """
  follow = lambda x: jnp.concatenate([x[:, 1:], jnp.zeros_like(x[:, :1])], 1)
  segments = batch['segments']
  where = (follow(batch['targets']) & (segments > 0)
           & (follow(segments) == segments))
  return dict(batch, labels=follow(batch['tokens']), where=where)


def prepare_tokens(batch, key) -> dict[str, dict[str, jax.Array]]:
  """`train.make_step`'s arrays of a batch of rows."""
  del key
  return {'data': align(batch)}


def _only_shared(logits, mapping):
  """Tokens that the other vocabulary lacks at -inf: losses skip them."""
  return jnp.where(mapping >= 0, logits, -jnp.inf)


def held_out_loss(net: models.Net, rows: Mapping[str, Any]
                 ) -> Callable[..., jax.Array]:
  """`(params, stats, key) -> nats per token` of a student on held-out rows."""
  def loss(params, stats, key):
    batch = align(rows)
    logits, _ = models.call(net, params, stats, lambda m: m(
        batch['tokens'], batch['segments']), train=True, key=key)
    return core.masked_mean(losses.cross_entropy(logits, batch['labels']),
                            batch['where'])
  return loss


def make_score(net: models.Net,
               cast: Callable[[Any], Any] = lambda tree: tree,
               bits: int = 0) -> Callable:
  """Jitted `(params, stats, batch) -> {name: [B]}`, float32.

  `nll` sums over a row the nats of its valid labels, `right` counts the labels
  that were likeliest, `count` all of them.
  """
  @jax.jit
  def score(params, stats, batch):
    batch = align(batch)
    logits = models.call(net, cast(quantize(params, bits)), stats, lambda m:
                         m(batch['tokens'], batch['segments']))[0]
    where = batch['where']
    nll = losses.cross_entropy(logits, batch['labels'])
    right = jnp.argmax(logits, -1) == batch['labels']
    row = lambda x: jnp.sum(x, 1, where=where, dtype=jnp.float32)
    return dict(nll=row(nll), right=row(right),
                count=where.sum(1).astype(jnp.float32))
  return score


def token_shapes(info: data.Info, rows: int
                ) -> dict[str, jax.ShapeDtypeStruct]:
  """Arrays of a batch of `rows` rows of S tokens."""
  shape = lambda *axes, dtype: jax.ShapeDtypeStruct((rows, *axes), dtype)
  line = info.input_shape
  return dict(tokens=shape(*line, dtype=jnp.int32),
              segments=shape(*line, dtype=jnp.int32),
              targets=shape(*line, dtype=jnp.bool_),
              index=shape(dtype=jnp.int32), domain=shape(dtype=jnp.int32))
