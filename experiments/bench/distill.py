"""What knowledge transfer costs: a teacher, its cache, each loss.

A workload with teachers is held against training on labels. One without is the
step that every loss is held against: `losses`.
"""
import dataclasses
import tempfile
import time

import jax
import numpy as np

from experiments.bench import losses
from experiments.bench import turns
from kt_jax import core
from kt_jax import train
from kt_jax.launch import report

# Case -> what it is, the cases it is held against (their sum), and the limit.
CASES = {
    'labels': ('label step, one fixed batch', (), 0),
    'teacher': ('forward pass of the teacher, likewise', (), 0),
    'kd': ('KD step, likewise', ('labels', 'teacher'), 1.05),
    'fed': ('label step, fed by its stream', (), 0),
    'cached': ('KD step, fed by its stream with the teacher from the cache',
               ('fed',), 1.10)}


@dataclasses.dataclass(frozen=True)
class Settings:
  repeats: int = 9  # turns
  warmup: int = 8  # steps that a stream feeds before those that are timed
  seconds: float = 0.1  # that a loss is called for in a turn
  losses: tuple[str, ...] = ()  # names; () all
  maps: tuple[str, ...] = ('stages/0', 'stages/1', 'stages/2')  # to compare


def measure(settings, workloads):
  raw, table, metrics = {}, '', {}
  for name, work in workloads.items():
    run = _measure if work.teachers else losses.measure
    raw[name], text, values = run(name, work, settings)
    table += text + '\n\n'
    metrics |= {f'{name}_{k}': v for k, v in values.items()}
  table += (
      'Medians over turns; a turn runs every line once, every other turn in '
      'reverse; ratios and shares are taken within a turn.\n')
  return raw, table, metrics


def _measure(name, work, settings):
  with tempfile.TemporaryDirectory() as folder:
    runs = prepared(work, folder)
    cases = _cases(runs, settings.warmup)
    times = turns.in_turns(
        name, cases, dict.fromkeys(cases, work.loop.steps), settings.repeats)
    for _, stream in runs.values():
      stream.close()
  rows, metrics = [], {'step_ms': float(np.median(times['labels']))}
  for case, (what, against, limit) in CASES.items():
    cells = [''] * 4
    if against:
      ratio = np.divide(times[case], np.sum([times[a] for a in against], 0))
      metrics[f'{case}_ratio'] = float(np.median(ratio))
      cells = [' + '.join(str(1 + list(CASES).index(a)) for a in against),
               f'{np.median(ratio):.3f}',
               turns.quartiles(ratio, '.3f'), f'{limit:.2f}']
    rows.append([f'{len(rows) + 1} {what}', f'{np.median(times[case]):.2f}',
                 *cells])
  teacher = train.pool.training_of(work, next(iter(work.pool))).model
  sizes = lambda model: ' '.join(
      [model.name, *(f'{k} {v}' for k, v in model.kw.items())])
  text = (f'{name}: {sizes(work.model)}, taught by {sizes(teacher)}, batch '
          f'{work.batch.size}, {work.loop.steps} steps per turn, '
          f'{settings.repeats} turns\n\n')
  head = ['', 'ms', 'over', 'ratio', 'quartiles', 'limit']
  return times, text + report.table([head, *rows], bars=True), metrics


def prepared(work, folder):
  """'labels', 'kd' and 'cached' -> `(train.Prepared, its stream)`."""
  def of(views, teachers=True):
    spec = core.spec.change(work, dict(
        pool_dir=folder, cache=dict(folder=folder, views=views)))
    if not teachers:
      spec = dataclasses.replace(
          spec, teachers={}, pool={}, terms={
              n: t for n, t in spec.terms.items() if not t.teacher})
    run = train.prepare(spec, folder)
    return run, run.kind.stream(run.session)
  return dict(labels=of(0, teachers=False), kd=of(0),
              cached=of(work.cache.views))


def _cases(runs, warmup):
  """Case -> `run(count)`, milliseconds per call."""
  labels, kd, cached = (runs[n] for n in ('labels', 'kd', 'cached'))
  put = train.make_shard_batch(labels[0].session.mesh)
  batch = jax.block_until_ready(put(next(labels[1])))
  def steps(prepared, fed):
    (_, session, _), stream = prepared
    def run(count):
      state = jax.block_until_ready(session.init())
      # What reading threads have ready is used up before time counts.
      first, begin = warmup if fed else 1, 0.0
      for i in range(first + count):
        if i == first:
          jax.block_until_ready(state)
          begin = time.perf_counter()
        now = put(next(stream)) if fed else batch
        state, _ = session.step(state, now, session.inputs)
      jax.block_until_ready(state)
      return 1e3 * (time.perf_counter() - begin) / count
    return run

  t = kd[0].parents[0]
  predict = train.make_predict(t.net, t.info)
  return dict(
      labels=steps(labels, False),
      teacher=turns.timed(predict, t.params, t.stats, batch['images']),
      kd=steps(kd, False), fed=steps(labels, True), cached=steps(cached, True))
