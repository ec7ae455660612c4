"""A distillation step of a decoder beside its parts, on random tokens."""
import dataclasses
import time

import jax
import numpy as np

from experiments.bench import turns
from kt_jax import core
from kt_jax import data
from kt_jax import models
from kt_jax import train
from kt_jax.launch import report


@dataclasses.dataclass(frozen=True)
class Settings:
  repeats: int = 7  # turns


@dataclasses.dataclass(frozen=True)
class Workload:
  run: train.Training
  steps: int  # of a turn
  chunk: int  # tokens of which logits are held at a time


def check(settings, workloads):
  del settings
  return [train.check(work.run)[-1]._replace(name=name, steps=0)
          for name, work in workloads.items()]


def measure(settings, workloads):
  rows = [['', 'label step ms', 'teacher ms', 'KD step ms', 'over both',
           'quartiles', 'limit', 'in chunks ms']]
  raw, metrics = {}, {}
  for name, work in workloads.items():
    raw[name] = times = _measure(name, work, settings.repeats)
    ratio = np.divide(times['kd'], np.add(times['labels'], times['teacher']))
    metrics[f'{name}_ratio'] = float(np.median(ratio))
    ms = lambda case, times=times: f'{np.median(times[case]):.1f}'
    rows.append([name, ms('labels'), ms('teacher'), ms('kd'),
                 f'{np.median(ratio):.2f}', turns.quartiles(ratio, '.2f'),
                 '1.2', ms('chunks')])
  return raw, report.table(rows, bars=True) + (
      '\n\nMedians over turns, ratios within a turn. In chunks: the KD step by '
      '`losses.linear_head`.\n'), metrics


def _measure(name, work, repeats):
  run = work.run
  info = data.abstract_text(run.data)
  (teacher,) = (train.pool.load(run, t.init_from)
                for t in run.teachers.values())
  _, params, stats = models.init(models.builder(
      'decoder', classes=info.classes, input_shape=info.input_shape,
      **teacher.model['kw']))
  teacher = teacher._replace(params=params, stats=stats)
  rng = np.random.default_rng(0)
  shape = run.batch.size, *info.input_shape
  batch = dict(
      tokens=rng.integers(0, info.classes, shape, np.int32),
      segments=np.ones(shape, np.int32), targets=np.ones(shape, bool),
      index=np.arange(shape[0], dtype=np.int32),
      domain=np.zeros(shape[0], np.int32))

  def steps(spec):
    session = train.make_session(spec, info, {n: teacher
                                              for n in spec.teachers})
    put = train.make_shard_batch(session.mesh)(batch)
    def calls(count):
      state, begin = jax.block_until_ready(session.init()), 0.0
      for i in range(1 + count):
        if i == 1:
          jax.block_until_ready(state)
          begin = time.perf_counter()
        state, _ = session.step(state, put, session.inputs)
      jax.block_until_ready(state)
      return 1e3 * (time.perf_counter() - begin) / count
    return calls

  labels = dataclasses.replace(run, terms={'task': run.terms['task']},
                               teachers={})
  chunks = core.spec.change(run, dict(train=dict(chunk=work.chunk)))
  forward = jax.jit(lambda params, tokens: models.apply(
      teacher.net, params, teacher.stats, tokens).logits)
  cases = dict(labels=steps(labels), teacher=turns.timed(
      forward, teacher.params, batch['tokens']), kd=steps(run),
              chunks=steps(chunks))
  return turns.in_turns(name, cases, dict.fromkeys(cases, work.steps),
                              repeats)
