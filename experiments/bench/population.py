"""Many merge recipes scored in one program, beside a loop of jitted calls."""
import dataclasses
import importlib
import inspect
import time
from typing import Any

import jax
from jax import monitoring
from jax import numpy as jnp
import numpy as np

from experiments.bench import turns
from kt_jax import core
from kt_jax import data
from kt_jax import merge
from kt_jax import models
from kt_jax import procedures
from kt_jax import scores
from kt_jax import train
from kt_jax.data import Images
from kt_jax.launch import report

LOOP = 'loop'
_COMPILED = '/jax/core/compile/backend_compile_duration'
# The package has the function under this name.
_module = importlib.import_module('kt_jax.procedures.evaluate_population')


@dataclasses.dataclass(frozen=True)
class Settings:
  repeats: int = 9  # turns
  seconds: float = 0.1  # that an case is called for in a turn, once at least
  experts: int = 3
  genomes: int = 64
  batch_sizes: tuple[int, ...] = (1, 8, 64)


@dataclasses.dataclass(frozen=True)
class Workload:
  operator: str  # of kt_jax.merge
  genes: tuple[str, ...]
  examples: int
  shape: tuple[int, int, int]  # (H, W, C) of random images
  count: int = 1000  # of them
  model: train.Model = train.Model()

  @property
  def data(self) -> Images:
    return Images('experiments.bench:images', validation=0, kw=dict(
        shape=self.shape, count=self.count, labels=10))


def check(settings, workloads):
  del settings
  for work in workloads.values():
    core.resolve(merge, work.operator, 'operator')
  return []


def measure(settings, workloads):
  raw, table, metrics = {}, '', {}
  default = inspect.signature(
      procedures.evaluate_population).parameters['batch_size'].default
  for name, work in workloads.items():
    score, genomes, args = problem(work, settings)
    cases = _cases(score, args, settings.batch_sizes)
    compiled = {case: compilations(run, genomes) for case, run in cases.items()}
    megabytes = _temporaries(score, genomes, args, settings.batch_sizes)
    cpu = {case: [] for case in cases}
    timed = {case: _timed(run, genomes, cpu[case])
             for case, run in cases.items()}
    calls = {case: int(np.clip(1e3 * settings.seconds / run(1), 1, 100))
             for case, run in timed.items()}
    times = turns.in_turns(name, timed, calls, settings.repeats)
    cpu = {case: values[-settings.repeats:] for case, values in cpu.items()}
    raw[name] = dict(ms=times, cpu_ms=cpu, compilations=compiled,
                     megabytes=megabytes)
    rows = []
    for case, values in times.items():
      ratio = np.divide(values, times[LOOP])
      cells = [''] * 4
      if case != LOOP:
        key = f'{name}_{case.replace(" ", "_")}'
        metrics[f'{key}_ratio'] = float(np.median(ratio))
        cells = [f'{np.median(ratio):.2f}',
                 turns.quartiles(ratio, '.2f'),
                 '1.00' if case == f'batch {default}' else '',
                 f'{np.median(np.divide(cpu[case], cpu[LOOP])):.2f}']
      rows.append([case, f'{np.median(values):.1f}', *cells,
                   f'{megabytes[case]:.2f}', str(compiled[case])])
    sizes = ' '.join(f'{k} {v}' for k, v in work.model.kw.items())
    images = 'x'.join(map(str, work.shape))
    table += (f'{name}: {work.operator} of {settings.experts} x '
              f'{work.model.name} {sizes} on {images}, '
              f'{genomes.shape[1]} genes, {work.examples} examples, '
              f'{settings.genomes} genomes, {settings.repeats} turns\n\n')
    head = ['', 'ms per population', 'over the loop', 'quartiles', 'limit',
            'CPU time over the loop', 'temporaries MB', 'compilations']
    table += report.table([head, *rows], bars=True) + '\n\n'
  table += (
      'The loop dispatches one jitted merge and evaluation per genome and '
      f'waits at the end; batch {default} is the default. Medians over turns, '
      'ratios within a turn. Compilations: of three generations, one of them '
      'smaller. Temporaries: of one call.\n')
  return raw, table, metrics


def _timed(run, genomes, cpu):
  """As `turns.timed`; appends milliseconds of processor time to `cpu`.

  On a busy machine the loop, with many small programs under way, gets a larger
  share than one program does; processor time does not show that.
  """
  clock = turns.timed(run, genomes)
  def both(count):
    begin = time.process_time()
    ms = clock(count)
    cpu.append(1e3 * (time.process_time() - begin) / count)
    return ms
  return both


def problem(work, settings):
  """`(score, genomes, args)`: accuracy of merges of an MLP and its kin."""
  splits = data.load(work.data)
  info, rng = splits.info, np.random.default_rng(0)
  net, base, stats = models.init(models.builder(
      work.model.name, classes=info.classes, input_shape=info.input_shape,
      **work.model.kw))
  experts = [{path: x + 0.01 * jnp.asarray(rng.normal(size=x.shape), x.dtype)
              for path, x in base.items()} for _ in range(settings.experts)]
  op = core.resolve(merge, work.operator, 'operator')
  random: dict[str, Any] = dict(key=jax.random.key(0)) if (
      'key' in inspect.signature(op).parameters) else {}
  space = procedures.parameter_space(
      op, base, settings.experts, genes=tuple(work.genes), **random)
  rows = slice(work.examples)
  images = data.normalize(jnp.asarray(splits.train.images[rows]), info.mean,
                          info.std)
  labels = jnp.asarray(splits.train.labels[rows])

  def score(genome, base, experts, images, labels):
    merged = space.decode(genome, base, experts)
    return scores.accuracy(models.apply(net, merged, stats, images).logits,
                           labels)
  genomes = rng.uniform(0, 1, (settings.genomes, space.size)).astype(np.float32)
  return score, genomes, (base, experts, images, labels)


def compilations(run, genomes) -> int:
  """How many programs three generations compile, one of them smaller."""
  count = 0

  def listen(event: str, duration_secs: float, **kwargs: str | int) -> None:
    nonlocal count
    del duration_secs, kwargs
    count += event == _COMPILED
  monitoring.register_event_duration_secs_listener(listen)
  try:
    for generation in (genomes, genomes[::-1], genomes[:len(genomes) // 2 + 1]):
      run(generation)
  finally:
    monitoring.unregister_event_duration_listener(listen)
  return count


def _cases(score, args, batch_sizes):
  """Case -> function of genomes that scores them."""
  one = jax.jit(lambda *inputs: score(*inputs))  # a cache of its own

  def loop(genomes):
    return np.array([float(x) for x in [one(g, *args) for g in genomes]])

  def batched(size):
    return lambda genomes: procedures.evaluate_population(
        score, genomes, *args, batch_size=size)
  return {LOOP: loop} | {f'batch {n}': batched(n) for n in batch_sizes}


def _temporaries(score, genomes, args, batch_sizes) -> dict[str, float]:
  """Megabytes that a call of an case needs beside arguments and results."""
  scores_of = _module._scores  # pylint: disable=protected-access
  of = lambda lowered: (
      lowered.compile().memory_analysis().temp_size_in_bytes / 1e6)
  return {LOOP: of(jax.jit(score).lower(genomes[0], *args))} | {
      f'batch {n}': of(scores_of.lower(
          score, n, np.resize(genomes, (_module.padded(n), genomes.shape[1])),
          np.int32(1), args)) for n in batch_sizes}
