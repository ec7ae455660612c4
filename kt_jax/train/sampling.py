"""Responses that replace those of the data, drawn within a step."""
from collections.abc import Callable
from typing import Any

import jax
from jax import numpy as jnp

from kt_jax import core
from kt_jax import models
from kt_jax.train import language
from kt_jax.train import stage as stages

SOURCES = 'data', 'student', 'mixed', 'speculative', 'blend'


def make_sample(stage: stages.Stage, sampling, *, prompt: int, stop: int,
                pad: int, narrow: Callable[[Any], Any]) -> Callable | None:
  """`train.make_step`'s `sample` from `config.sampling`; None for the data.

  Sources: 'student' draws every response; 'mixed' does so in a `share` of the
  steps (agarwal2024gkd); 'speculative' keeps a token that the student draws
  where it is among the `accept` likeliest of the teacher and takes one of the
  teacher else (xu2024skd), token by token, which is what drafts that are cut
  at the first rejected token come to; 'blend' draws from
  `share` p + (1 - share) q (gu2024minillm) and says `sample_log_probs`.

  Args:
    stage: of decoders.
    sampling: `config.sampling`.
    prompt: P, positions of the prompt.
    stop: end token.
    pad: what stands after it.
    narrow: cast of parameters.

  Returns:
    A function whose pool has `batch`, what was drawn (and aligned), and
    `data`, what was given. Metrics: `response_length`, and `accepted`, the
    share of the student's tokens that stayed.
  """
  source = sampling.source
  if source == 'data':
    return None
  pair = source in ('speculative', 'blend')
  choose = dict(speculative=_speculative, blend=_blend).get(
      source, lambda s: _student(s))(sampling)

  def draw(params, stats, pool, key, shared):
    data = pool[language.DATA]
    found = shared.frozen['networks']
    member = lambda name, params, stats: models.DecodeModel(
        stage.networks[name].net, narrow(params), stats)
    own = language.quantize(stages.part(params, stages.STUDENT),
                            stage.networks[stages.STUDENT].bits)
    members = [member(stages.STUDENT, own, stages.part(stats, stages.STUDENT))]
    if pair:
      teacher = found[sampling.teacher]
      members.append(member(sampling.teacher, teacher['params'],
                            teacher['stats']))
    rows = data['tokens']
    new = models.generate(
        members, rows[:, :prompt], where=data['segments'][:, :prompt] > 0,
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
    return language.align(batch), metrics

  def sample(params, stats, pool, key, shared):
    given = pool[language.DATA]
    if source != 'mixed':
      drawn, metrics = draw(params, stats, pool, key, shared)
    else:
      coin, key = jax.random.split(key)
      drawn, metrics = jax.lax.cond(
          jax.random.bernoulli(coin, sampling.share),
          lambda: draw(params, stats, pool, key, shared),
          lambda: (given, dict(response_length=given['where'].sum(1).mean(
              dtype=jnp.float32))))
    return {'batch': drawn, language.DATA: given}, metrics
  return sample


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
    said = jnp.take_along_axis(mixed, token[:, None], 1)[:, 0]
    return token, dict(sample_log_probs=said)
  return choose
