"""Responses sampled within a step, in place of those of the data."""
from collections.abc import Callable
from typing import Any

import jax
from jax import numpy as jnp

from kt_jax import core
from kt_jax import models
from kt_jax.train import specs
from kt_jax.train.graph import quantize
from kt_jax.train.graph import TermGraph
from kt_jax.train.specs import STUDENT
from kt_jax.train.tokens import align


def make_sample(graph: TermGraph, sampling: specs.Sampling, *, prompt: int,
                stop: int, pad: int, cast: Callable[[Any], Any]
               ) -> Callable | None:
  """`train.make_step`'s `sample`; None where responses are those of the data.

  Sources: 'student' samples every response; 'mixed' does so in a `share` of the
  steps (agarwal2024gkd); 'speculative' keeps a token that the student samples
  if it is among the `accept` likeliest of the teacher, and otherwise takes one
  of the teacher (xu2024skd), token by token, which equals drafts that are cut
  at the first rejected token; 'blend' samples from `share` p + (1 - share) q
  (gu2024minillm) and adds `sample_log_probs`.

  Args:
    graph: of decoders.
    sampling: of the run.
    prompt: P, positions of the prompt.
    stop: end token.
    pad: token that stands after it.
    cast: of parameters.

  Returns:
    A function that adds `sampled`, aligned, to the `data` of a step. Metrics:
    `response_length`, and `accepted`, the share of the student's tokens that
    were kept.

  Raises:
    UserError: there is no prompt to continue, or no such teacher.
  """
  source = sampling.source
  if source == 'data':
    return None
  _check(graph, sampling, prompt)
  pair = source in ('speculative', 'blend')
  choose = dict(speculative=_speculative, blend=_blend).get(
      source, lambda s: _student(s))(sampling)

  def draw(params, stats, batches, key, step_context):
    data = batches['data']
    decoder = lambda name, params, stats: models.DecodeModel(
        graph.net(name), cast(params), stats)
    own = quantize(params[STUDENT], graph.networks[STUDENT].bits)
    decoders = [decoder(STUDENT, own, stats[STUDENT])]
    if pair:
      teacher = step_context.constants['networks'][sampling.teacher]
      decoders.append(decoder(sampling.teacher, teacher['params'],
                              teacher['stats']))
    rows = data['tokens']
    new = models.generate(
        decoders, rows[:, :prompt], where=data['segments'][:, :prompt] > 0,
        steps=rows.shape[1] - prompt, key=key, choose=choose, stop=stop,
        pad=pad)
    join = lambda old, tail: jnp.concatenate(
        [old[:, :prompt], tail.astype(old.dtype)], 1)
    batch = dict(data, tokens=join(rows, new.tokens),
                 segments=join(data['segments'], new.where),
                 targets=join(jnp.zeros_like(data['targets']), new.where))
    for name, value in new.info.items():
      if name == 'sample_log_probs':  # at the position before, as logits
        batch[name] = jnp.pad(value, [(0, 0), (prompt - 1, 1)])
    metrics = dict(response_length=new.where.sum(1).mean(dtype=jnp.float32))
    if 'accepted' in new.info:
      metrics['accepted'] = core.masked_mean(
          new.info['accepted'].astype(jnp.float32), new.where)
    return align(batch), metrics

  def sample(params, stats, batches, key, step_context):
    data = batches['data']
    if source != 'mixed':
      sampled, metrics = draw(params, stats, batches, key, step_context)
    else:
      coin, key = jax.random.split(key)
      sampled, metrics = jax.lax.cond(
          jax.random.bernoulli(coin, sampling.share),
          lambda: draw(params, stats, batches, key, step_context),
          lambda: (data, dict(response_length=data['where'].sum(1).mean(
              dtype=jnp.float32))))
    return dict(batches, sampled=sampled), metrics
  return sample


def _check(graph, sampling, prompt):
  if prompt < 1:
    raise core.UserError('sampling.source continues prompts: data.prompt must '
                         f'be from 1 on, got {prompt}.')
  if any(n.kind == 'cached' for n in graph.networks.values()):
    raise core.UserError('A cache holds outputs for the data: with '
                         f'sampling.source {sampling.source!r} set '
                         'cache.views 0.')
  if sampling.source in ('speculative', 'blend') and (
      sampling.teacher not in graph.networks
      or graph.networks[sampling.teacher].kind != 'frozen'):
    raise core.UserError(core.nearest(
        'frozen teacher (sampling.teacher)', sampling.teacher,
        [n for n, t in graph.networks.items() if t.kind == 'frozen']))


def _settings(sampling):
  return dict(temperature=sampling.temperature, top_k=sampling.top_k,
              top_p=sampling.top_p)


def _student(sampling):
  return models.sampler(**_settings(sampling))


def _speculative(sampling):
  """Ranks raw logits, and tests the token that is kept."""
  def choose(logits, key):
    student, teacher = logits
    mine, theirs = jax.random.split(key)
    token = models.sample_token(student, mine, **_settings(sampling))
    better = (teacher > jnp.take_along_axis(teacher, token[:, None], 1)).sum(1)
    accepted = better < sampling.accept
    other = models.sample_token(teacher, theirs,
                        temperature=sampling.teacher_temperature,
                        top_p=sampling.teacher_top_p)
    return jnp.where(accepted, token, other), dict(accepted=accepted)
  return choose


def _blend(sampling):
  def choose(logits, key):
    log_q, log_p = (jax.nn.log_softmax(core.to_float(z)) for z in logits)
    mixed = jnp.logaddexp(log_q + jnp.log1p(-sampling.share),
                          log_p + jnp.log(sampling.share))
    token = jax.random.categorical(key, mixed).astype(jnp.int32)
    log_prob = jnp.take_along_axis(mixed, token[:, None], 1)[:, 0]
    return token, dict(sample_log_probs=log_prob)
  return choose
