"""The forward pass of language models: terms between networks, on tokens.

Arrays of a batch are `[B, S]`. The shift is done once, in `align`: what stands
at position i is about token i + 1.
"""
from collections.abc import Callable, Mapping
import inspect
from typing import Any, NamedTuple

import jax
from jax import numpy as jnp
import numpy as np

from kt_jax import core
from kt_jax import losses
from kt_jax import models
from kt_jax.train import stage as stages
from kt_jax.train.objective import resolve_terms

DATA = 'data'  # `on` of terms that read the data while others read samples


class Network(NamedTuple):
  """A decoder. Arrays are elsewhere: see `Scene.params_of`."""
  net: models.Net | None  # None: its outputs come with the batch
  kind: str  # 'student', 'frozen', 'prompted', 'average' or 'cached'
  classes: int  # V
  softcap: float = 0.0
  of: str = ''  # the frozen network that a prompted one is
  module: str = ''  # module of its prompt
  bits: int = 0  # of its matrices when it runs; 0 as they are
  # It reads `retokenized/NAME/...` of the batch, as `data.retokenize` says.
  retokenized: bool = False
  mapping: np.ndarray | None = None  # [V] its token for each of ours, or -1


def align(batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
  """Adds `labels` and `where`: the token that follows each, and if it counts.

  Args:
    batch: `tokens`, `segments`, `targets`, as `data.load_text` says.
  """
  follow = lambda x: jnp.concatenate([x[:, 1:], jnp.zeros_like(x[:, :1])], 1)
  segments = batch['segments']
  where = (follow(batch['targets']) & (segments > 0)
           & (follow(segments) == segments))
  return dict(batch, labels=follow(batch['tokens']), where=where)


def from_likeliest(tokens: jax.Array, log_probs: jax.Array, classes: int
                  ) -> jax.Array:
  """Log-probabilities `[..., V]` of which the k likeliest were kept.

  What the others have together is shared evenly among them.

  Args:
    tokens: `[..., k]` which, distinct; whole numbers of any dtype.
    log_probs: `[..., k]`, in nats.
    classes: V > k.
  """
  kept = core.to_float(log_probs)
  rest = jnp.maximum(1 - jnp.exp(kept).sum(-1, keepdims=True), 1e-9)
  tail = jnp.log(rest / (classes - kept.shape[-1]))
  whole = jnp.broadcast_to(tail, (*kept.shape[:-1], classes))
  return jnp.put_along_axis(whole, tokens.astype(jnp.int32), kept, -1,
                            inplace=False)


def make_forward(stage: stages.Stage, chunk: int = 0) -> Callable:
  """`train.make_step`'s forward pass of a stage of decoders.

  Args:
    stage: its networks are `Network`s of this module.
    chunk: positions whose logits are held at a time, by
      `losses.linear_head`; 0: all.
  """
  functions = resolve_terms(stage.terms)

  def forward(params, stats, pool, key, shared):
    scenes, after, seen, sums = {}, dict(stats), {}, {}
    for name, term in stage.terms.items():
      who, on = stages.trains(term), term['on']
      if (who, on) not in scenes:
        scenes[who, on] = Scene(stage, who, params, stats, pool[on], key,
                                shared, after, seen.setdefault(on, {}))
      sums[name] = scenes[who, on].sums(functions[name], name, term, chunk)
    return sums, {n: v.astype(stats[n].dtype) for n, v in after.items()}
  return forward


class Scene(stages.Scene):
  """As of images, for tokens."""

  def params_of(self, name, params=None):
    network = self.stage.networks.get(name)
    if network and network.kind == 'prompted':
      return super().params_of(network.of, params)
    return super().params_of(name, params)

  def output(self, who):
    if who not in self._seen:
      self._seen[who] = self._output(who, self._all)
    out, network = self._seen[who], self.stage.networks[who]
    learns = {who, network.module} & set(self.who)
    return out if learns else jax.lax.stop_gradient(out)

  def _output(self, who, params):
    network, pool = self.stage.networks[who], self.pool
    if network.net is None:
      kept = (pool[f'cached/{who}/{n}'] for n in ('tokens', 'log_probs'))
      return models.Output(from_likeliest(*kept, network.classes), {}, {})
    learns, prefix = network.kind == stages.STUDENT, None
    if network.module:
      prefix = stages.part(params, network.module)['embedding']
    own, stats = self.params_of(who, params)
    own = quantize(own, network.bits)

    of = f'retokenized/{who}/' if network.retokenized else ''

    def run(model):
      hidden = model.hidden(pool[of + 'tokens'], pool[of + 'segments'],
                            prefix=prefix)
      if of:  # from its positions to ours
        places = jnp.maximum(pool[of + 'places'], 0)
        hidden = jnp.take_along_axis(hidden, places[..., None], axis=1)
      return model.logits(hidden), dict(hidden=hidden,
                                        head=model.head_kernel())
    (logits, features), after = models.call(
        network.net, self._narrow(own), stats, run, train=learns,
        key=core.fold_path(self.key, who))
    if learns:
      self.after.update({stages.prefix(who) + n: v for n, v in after.items()})
    if network.mapping is not None:
      logits = _only_shared(logits[..., np.maximum(network.mapping, 0)],
                            network.mapping)
    return models.Output(logits, after, features)

  def arrays(self, name, term, wanted):
    found = super().arrays(name, term, wanted)
    teacher = self.stage.networks.get(term['teacher'])
    if getattr(teacher, 'mapping', None) is not None and (
        'student_logits' in found):
      found['student_logits'] = _only_shared(found['student_logits'],
                                             teacher.mapping)
    return found

  def where(self, fn, term):
    """The tokens of which a term can say something."""
    where, who = self.pool['where'], term['teacher']
    teacher = self.stage.networks.get(who)
    if getattr(teacher, 'retokenized', False):
      where &= self.pool[f'retokenized/{who}/places'] >= 0
      if teacher.mapping is not None and 'labels' in stages.positional(fn):
        where &= jnp.asarray(teacher.mapping >= 0)[self.pool['labels']]
    return where

  def sums(self, fn, name, term, chunk):
    """Sum and count of a term."""
    if not chunk:
      return core.masked_sum(self.value(fn, name, term), self.where(fn, term))
    wanted = {n for n in stages.positional(fn) if not n.endswith('_logits')}
    arrays, settings = self.bound(fn, name, term, wanted)
    student = self.output(term['learner']).features
    given = dict(student_hidden=student['hidden'],
                 student_head=student['head'],
                 student_softcap=self.stage.networks[term['learner']].softcap)
    if 'teacher_logits' in inspect.signature(fn).parameters:
      who = dict(term['rename']).get('teacher_logits', term['teacher'])
      who = who.removesuffix('_logits')
      teacher = self.output(who).features
      given |= dict(teacher_hidden=teacher['hidden'],
                    teacher_head=teacher['head'],
                    teacher_softcap=self.stage.networks[who].softcap)
    takes = inspect.signature(losses.linear_head).parameters
    given |= {n: v for n, v in arrays.items() if n in takes}
    return losses.linear_head(fn, **given, chunk=chunk, **settings)


def _only_shared(logits, mapping):
  """Our tokens that the other vocabulary lacks at -inf: losses skip them."""
  return jnp.where(mapping >= 0, logits, -jnp.inf)


def quantize(params: Mapping[str, jax.Array], bits: int
            ) -> dict[str, jax.Array]:
  """Matrices rounded to `2^bits - 1` levels a column; 0 bits: as they are.

  Levels are even, symmetric about 0 and scaled to the largest magnitude of a
  column. The gradient passes as if nothing were rounded.
  """
  if not bits:
    return params
  top = 2 ** (bits - 1) - 1

  def rounded(w):
    step = jnp.max(jnp.abs(w), axis=0, keepdims=True) / top
    near = jnp.round(w / jnp.where(step == 0, 1, step)) * step
    return w + jax.lax.stop_gradient(near - w)
  return {n: rounded(w) if n.endswith('/kernel') else w
          for n, w in params.items()}


def make_observe(stage: stages.Stage) -> Callable | None:
  """What modules with `update(loss)` make of their term's mean."""
  users = {t['module']: n for n, t in stage.terms.items() if t['module']}
  learn = {}
  for name, module in stage.modules.items():
    if module.updates and name in users:
      learn[name] = users[name]
  if not learn:
    return None

  def observe(params, stats, means):
    stats = dict(stats)
    for name, term in learn.items():
      _, after = models.call(
          stage.modules[name].net, stages.part(params, name),
          stages.part(stats, name), lambda m, term=term: m.update(means[term]),
          train=True)
      stats |= {stages.prefix(name) + n: v.astype(stats[
          stages.prefix(name) + n].dtype) for n, v in after.items()}
    return stats
  return observe


def make_score(net: models.Net,
               narrow: Callable[[Any], Any] = lambda tree: tree,
               bits: int = 0) -> Callable:
  """Jitted `(params, stats, batch) -> {name: [B]}`, float32.

  `nll` sums over a row what its valid labels cost, in nats, `right` counts
  those that were likeliest, `count` all of them.
  """
  @jax.jit
  def score(params, stats, batch):
    pool = align(batch)
    logits = models.call(net, quantize(narrow(params), bits), stats, lambda m:
                         m(pool['tokens'], pool['segments']))[0]
    where = pool['where']
    nll = losses.cross_entropy(logits, pool['labels'])
    right = jnp.argmax(logits, -1) == pool['labels']
    row = lambda x: jnp.sum(x, 1, where=where, dtype=jnp.float32)
    return dict(nll=row(nll), right=row(right),
                count=where.sum(1).astype(jnp.float32))
  return score
