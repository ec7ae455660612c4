"""A distillation step of a decoder beside its parts, on random tokens."""
import copy
import time

import jax
import numpy as np

from experiments import members
from experiments import pretrain_lm
from experiments.bench import turns
from kt_jax import models
from kt_jax import train
from kt_jax.launch import report


def check(config):
  found = []
  for name, work in config.workloads.items():
    info, _ = pretrain_lm.abstract(work.run)
    session, _, batch = train.make_language_session(
        work.run, info, _abstract(work.run))
    found.append(pretrain_lm.describe(work.run, session, batch)._replace(
        name=name, steps=0))
  return found


def measure(config, workloads):
  del workloads  # those of supervised runs
  rows = [['', 'label step ms', 'teacher ms', 'KD step ms', 'over both',
           'quartiles', 'limit', 'in chunks ms']]
  raw, metrics = {}, {}
  for name, work in config.workloads.items():
    raw[name] = found = _measure(name, work, config.repeats)
    ratio = np.divide(found['kd'], np.add(found['labels'], found['teacher']))
    metrics[f'{name}_ratio'] = float(np.median(ratio))
    ms = lambda arm, found=found: f'{np.median(found[arm]):.1f}'
    rows.append([name, ms('labels'), ms('teacher'), ms('kd'),
                 f'{np.median(ratio):.2f}', turns.quartiles(ratio, '.2f'),
                 '1.2', ms('chunks')])
  return raw, report.table(rows, bars=True) + (
      '\n\nMedians over turns, ratios within a turn. In chunks: the KD step by '
      '`losses.linear_head`.\n'), metrics


def _abstract(run):
  """The teacher with the arrays that it would begin with."""
  return {name: members.abstract(run, spec.member)
          for name, spec in run.teachers.items()}


def _measure(name, work, repeats):
  run, (teacher,) = work.run, _abstract(work.run).values()
  info, _ = pretrain_lm.abstract(run)
  made = models.init(models.builder(
      'decoder', classes=info.classes, input_shape=info.input_shape,
      **teacher.model['kw']))
  teacher = teacher._replace(params=made[1], stats=made[2])
  rng = np.random.default_rng(0)
  shape = run.batch.size, *info.input_shape
  batch = dict(
      tokens=rng.integers(0, info.classes, shape, np.int32),
      segments=np.ones(shape, np.int32), targets=np.ones(shape, bool),
      index=np.arange(shape[0], dtype=np.int32),
      domain=np.zeros(shape[0], np.int32))

  def steps(config):
    session, _, _ = train.make_language_session(
        config, info, {n: teacher for n in config.teachers})
    put = train.putter(session.mesh)(batch)
    def calls(count):
      state = jax.block_until_ready(session.init())
      for i in range(1 + count):
        if i == 1:
          jax.block_until_ready(state)
          begin = time.perf_counter()
        state, _ = session.step(state, put, session.settings)
      jax.block_until_ready(state)
      return 1e3 * (time.perf_counter() - begin) / count
    return calls

  labels = copy.deepcopy(run).unlock()
  labels.terms, labels.teachers = {'task': run.terms.task}, {}
  chunks = copy.deepcopy(run).unlock()
  chunks.chunk = work.chunk
  forward = jax.jit(lambda params, tokens: models.apply(
      teacher.net, params, teacher.stats, tokens).logits)
  arms = dict(labels=steps(labels), teacher=turns.timed(
      forward, teacher.params, batch['tokens']), kd=steps(run),
              chunks=steps(chunks))
  return turns.in_turns(name, arms, dict.fromkeys(arms, work.steps),
                              repeats)
