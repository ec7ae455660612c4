"""Measures the library itself: how it starts, and what its loop adds to a step.

It asserts nothing. Times on a shared machine move, so what is compared is
measured in turn, and ratios are taken within a turn. `bench.json` keeps every
number, `report.md` the tables.
"""
import builtins
import collections
import contextlib
import io
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time

from flax import nnx
import jax
from jax import monitoring
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec
from ml_collections import config_dict
import numpy as np
import tqdm

from kt_jax import checkpoint
from kt_jax import core
from kt_jax import data
from kt_jax import models
from kt_jax import train
from experiments import pretrain
from experiments import run as launcher

ROOT = pathlib.Path(__file__).resolve().parent.parent
# Where the time to the first step goes; each moment counts for one of them.
STAGES = {
    'interpreter': 'the process starts',
    'imports': 'the launcher and all that it imports',
    'later imports': 'what a stage imports when it gets there',
    'devices': 'JAX finds its devices',
    'check': 'the launcher refuses what it can; traces one step',
    'data': 'read, split, first batch on the device',
    'model': 'graph of the model, settings, first parameters',
    'trace': 'Python to StableHLO',
    'compile': 'XLA compiles, or the cache is read',
    'first step': 'one step of the compiled program',
    'other': 'config, workdir, checkpoint manager, writer'}
EVENTS = {'/jax/core/compile/jaxpr_trace_duration': 'trace',
          '/jax/core/compile/jaxpr_to_mlir_module_duration': 'trace',
          '/jax/core/compile/backend_compile_duration': 'compile'}
ARMS = {'bare': 'bare jitted step, one fixed batch',
        'nnx': 'nnx.jit + nnx.Optimizer, likewise',
        'loop': 'train.fit: stream, log, bar',
        'whole': 'train.fit, and a checkpoint at its end'}

OWN = ('measure', 'repeats', 'workloads', 'platform', 'threads', 'batches')


def images(config):
  """A data set without files: `data.name='experiments.bench:images'`.

  Random images; `data.shape` `(H, W, C)`, `data.count`, `data.classes`.
  """
  rng = np.random.default_rng(0)
  count, classes = config['count'], config['classes']
  make = lambda n: (rng.integers(0, 256, (n, *config['shape']), np.uint8),
                    np.arange(n) % classes)
  return data.from_arrays('random images', dict(
      train=make(count), test=make(classes)))


def check(config):
  if config.measure not in MEASURES:
    raise core.UserError(
        core.nearest('measure', config.measure, MEASURES))
  return [r._replace(name=name) for name, work in _workloads(config).items()
          for r in pretrain.check(work)]


def run(config, workdir):
  """Writes `bench.json` and `report.md`; returns the table and key numbers."""
  check(config)
  workdir = checkpoint.open_workdir(workdir, json.loads(config.to_json()))
  if (workdir / 'bench.json').exists():
    return checkpoint.read_json(workdir / 'bench.json')['metrics']
  machine = dict(checkpoint.code_version(), system=platform.platform(),
                 device=jax.devices()[0].device_kind, cores=os.cpu_count(),
                 devices=jax.device_count(), load_before=_load())
  raw, table, metrics = MEASURES[config.measure](config, _workloads(config))
  machine['load_after'] = _load()
  table += (f'\nPython {machine["python"]}, jax {machine["jax"]}, flax '
            f'{machine["flax"]}; {machine["devices"]} x {machine["device"]}, '
            f'{machine["cores"]} cores, load average '
            f'{machine["load_before"]:.1f} before, '
            f'{machine["load_after"]:.1f} after.\n')
  metrics = dict(metrics, table=table)
  checkpoint.write_atomic(workdir / 'report.md',
                          f'# bench: {config.measure}\n\n{table}')
  checkpoint.write_json(workdir / 'bench.json', dict(
      measure=config.measure, machine=machine, metrics=metrics, raw=raw))
  return metrics


def _workloads(config):
  """Name -> config of a supervised run."""
  found = {}
  for name, changes in config.workloads.items():
    work = config_dict.ConfigDict({
        k: v for k, v in config.to_dict().items() if k not in OWN})
    work.update(changes.to_dict())
    found[name] = work.lock()
  return found


# Start: the launcher itself in a process of its own, watched from inside.


def _startup(config, workloads):
  raw = {name: dict(cold=[], warm=[]) for name in workloads}
  bar = tqdm.tqdm(total=2 * config.repeats * len(workloads), disable=None,
                  desc='launches')
  with bar:
    for _ in range(config.repeats):
      for name, work in workloads.items():
        with tempfile.TemporaryDirectory() as folder:
          for kind in ('cold', 'warm'):
            raw[name][kind].append(
                _launch(work, pathlib.Path(folder), kind, config.platform))
            bar.update()
  middle = lambda name, kind, stage: statistics.median(
      found[stage] for found in raw[name][kind])
  table, metrics = '', {}
  for name in workloads:
    rows = [[stage, *(f'{middle(name, kind, stage):.2f}'
                      for kind in ('cold', 'warm')), STAGES.get(stage, '')]
            for stage in (*STAGES, 'total')]
    table += f'{name}, from the command to the first step, in seconds\n\n'
    table += _markdown(['stage', 'cold', 'warm', 'what it is'], rows) + '\n'
    metrics |= {f'{name}_{kind}_s': middle(name, kind, 'total')
                for kind in ('cold', 'warm')}
  table += (f'Medians of {config.repeats} launches each. cold: an empty cache '
            'of compiled programs; warm: the one that the cold launch left.\n')
  return raw, table, metrics


def _launch(work, folder, kind, platforms):
  """Stage -> seconds of one launch in a new process."""
  file, out = folder / 'launch.py', folder / f'{kind}.json'
  text = json.dumps(json.loads(work.to_json()) | dict(experiment='pretrain'))
  file.write_text(
      'import json\nfrom ml_collections import config_dict\n'
      'def get_config():\n'
      f'  return config_dict.ConfigDict(json.loads({text!r}))\n')
  env = dict(os.environ, KT_JAX_CACHE=str(folder / 'cache'),
             TF_CPP_MIN_LOG_LEVEL='2',
             # This process may have taken most of an accelerator's memory.
             XLA_PYTHON_CLIENT_PREALLOCATE='false')
  env.pop('JAX_COMPILATION_CACHE_DIR', None)
  if platforms:
    env['JAX_PLATFORMS'] = platforms
  code = ('import time; begin = time.time(); import sys; '
          'from experiments import bench; '
          'sys.exit(bench.child(begin, *sys.argv[1:]))')
  spawned = time.time()
  done = subprocess.run(
      [sys.executable, '-c', code, str(spawned), str(out), '--config',
       str(file), '--workdir', str(folder / kind)],
      cwd=ROOT, env=env, text=True, capture_output=True, check=False)
  if done.returncode or not out.exists():
    last = (done.stderr.strip().splitlines() or ['no message'])[-1]
    raise core.UserError(f'A launch failed: {last}')
  return json.loads(out.read_text())


class _Done(BaseException):
  """The first step is made; no handler of the launcher takes it."""


class Timeline:
  """Named intervals of the main thread; they nest."""

  def __init__(self):
    self.intervals, self._importing = [], False

  def add(self, name, begin, end):
    if threading.current_thread() is threading.main_thread():
      self.intervals.append((name, begin, end))

  def timed(self, name, fn):
    """`fn`, its calls on record."""
    def call(*args, **kw):
      begin = time.time()
      try:
        return fn(*args, **kw)
      finally:
        self.add(name, begin, time.time())
    return call

  def imports(self, name):
    """Records what is imported from now on, the outermost import only."""
    plain = builtins.__import__
    def watched(*args, **kw):
      if (self._importing
          or threading.current_thread() is not threading.main_thread()):
        return plain(*args, **kw)
      self._importing, begin = True, time.time()
      try:
        return plain(*args, **kw)
      finally:
        self._importing, end = False, time.time()
        if end - begin > 1e-3:  # else it was there
          self.add(name, begin, end)
    builtins.__import__ = watched

  def exclusive(self):
    """Name -> seconds; a moment counts for the innermost interval.

    But what is traced and compiled in a check is the price of the check.
    """
    total, outer = collections.Counter(), []
    for name, begin, end in sorted(
        self.intervals, key=lambda x: (x[1], -x[2])):
      while outer and outer[-1][1] <= begin:
        outer.pop()
      if name in EVENTS.values() and any(n == 'check' for n, _ in outer):
        continue
      if outer:
        total[outer[-1][0]] -= end - begin
      total[name] += end - begin
      outer.append((name, end))
    return total


def child(begin, spawned, out, *argv):
  """Runs the launcher's command `argv` up to its first step; writes `out`."""
  line, spawned = Timeline(), float(spawned)
  line.add('interpreter', spawned, begin)
  line.add('imports', begin, time.time())
  monitoring.register_event_time_span_listener(
      lambda event, begin, end, **_: event in EVENTS and line.add(
          EVENTS[event], begin, end))
  line.imports('later imports')
  line.timed('devices', jax.devices)()

  pretrain.check = line.timed('check', pretrain.check)
  data.load = line.timed('data', data.load)
  train.open_stream = line.timed('data', train.open_stream)
  make = line.timed('model', train.make_session)
  def make_session(*args, **kw):
    session = make(*args, **kw)
    return session._replace(init=line.timed('model', session.init))
  train.make_session = make_session

  def fit(step, state, stream, settings, *, put, **_):
    batch = line.timed('data', lambda: jax.block_until_ready(
        put(next(stream))))()
    line.timed('first step', lambda: jax.block_until_ready(
        step(state, batch, settings)))()
    raise _Done
  train.fit = fit

  try:
    return launcher.main(list(argv)) or 1  # it cannot end without a step
  except _Done:
    end = line.intervals[-1][2]
  found = {s: line.exclusive()[s] for s in STAGES}
  found |= dict(other=end - spawned - sum(found.values()),
                total=end - spawned)
  pathlib.Path(out).write_text(json.dumps(found))
  return 0


# Loop: a bare step against `train.fit` with everything on.


def _loop(config, workloads):
  raw, table, metrics = {}, '', {}
  for name, work in workloads.items():
    found = raw[name] = _measure_loop(name, work, config)
    middle = lambda key, arm: float(np.median(found[key][arm]))
    more = lambda key, arm, q=50: 100 * float(np.percentile(
        np.divide(found[key][arm], found[key]['bare']), q) - 1)
    bare = middle('ms_a_step', 'bare')
    rate = 1e3 * work.batch.size / bare
    rows = []
    for arm, what in ARMS.items():
      cells = [''] * 3 if arm == 'bare' else [
          f'{more("ms_a_step", arm):+.1f} %',
          f'{more("ms_a_step", arm, 25):+.1f} to '
          f'{more("ms_a_step", arm, 75):+.1f}',
          f'{more("cpu_ms_a_step", arm):+.1f} %']
      rows.append([what, f'{middle("ms_a_step", arm):.2f}', *cells])
    table += (f'{name}: {work.model.name}, batch {work.batch.size} of '
              f'{"x".join(map(str, found["input_shape"]))}, {work.loop.steps} '
              f'steps a turn, {config.repeats} turns\n\n')
    table += _markdown(['', 'ms a step', 'over bare', 'quartiles',
                        'CPU time over bare'], rows)
    save = float(np.median(found['checkpoint_s']))
    table += (f'\nThe loop adds {more("ms_a_step", "loop"):.1f} %. A '
              f'checkpoint of {found["state_mib"]:.1f} MiB takes {save:.3f} s: '
              f'one every {1e5 * save / bare:,.0f} steps adds 1 %.\n\n')
    pipeline = {t: float(np.median(v))
                for t, v in found['images_a_second'].items()}
    rows = [['step', f'{rate:,.0f}', '1.0']]
    rows += [[f'stream alone, {t} threads', f'{v:,.0f}', f'{v / rate:.1f}']
             for t, v in pipeline.items()]
    table += _markdown(['', 'images/s', 'times the step'], rows) + '\n'
    metrics |= {
        f'{name}_step_ms': bare,
        f'{name}_loop_percent': more('ms_a_step', 'loop'),
        f'{name}_whole_percent': more('ms_a_step', 'whole'),
        f'{name}_nnx_percent': more('ms_a_step', 'nnx'),
        f'{name}_loop_cpu_percent': more('cpu_ms_a_step', 'loop'),
        f'{name}_checkpoint_s': save,
        f'{name}_stream_over_step': max(pipeline.values()) / rate}
  table += (
      'Medians over turns; a turn runs every line once, every other turn in '
      'reverse; "over bare" is the ratio within a turn. CPU time is that of '
      'all threads: neighbours on a shared machine move it less, and on a CPU '
      'it also counts what overlaps with the step.\n')
  return raw, table, metrics


def _measure_loop(name, work, config):
  """Of every turn: milliseconds a step by arm, the stream's images a second."""
  splits = data.load(work.data)
  session = train.make_session(work, splits.info)
  put = train.putter(session.mesh)
  stream = train.open_stream(work, splits.train, session.mesh)
  batch = jax.block_until_ready(put(next(stream)))
  stream.close()

  def bare(steps):
    state = jax.block_until_ready(session.init())
    with _Watch() as watch:
      for _ in range(steps):
        state, _ = session.step(state, batch, session.settings)
      jax.block_until_ready(state)
    return watch

  reference = _nnx_step(work, splits.info, session.mesh)
  def with_nnx(steps):
    with _Watch() as watch:
      for _ in range(steps):
        loss = reference(batch)
      loss.block_until_ready()
    return watch

  saves, sizes = [], []
  def loop(steps, save=False):
    state = jax.block_until_ready(session.init())
    stream = train.open_stream(work, splits.train, session.mesh)
    with (tempfile.TemporaryDirectory() as folder,
          checkpoint.Run(folder) as saver, train.Writer(folder) as writer,
          contextlib.redirect_stderr(_Terminal())):
      with _Watch() as watch:
        state = train.fit(
            session.step, state, stream, session.settings, steps=steps,
            put=put, log_every=work.loop.log_every,
            run=saver if save else None, writer=writer, name=name)
        saver.wait()
        jax.block_until_ready(state)
      if not save:
        with _Watch() as saving:
          saver.save(steps, *train.to_items(state),
                     data_state=stream.get_state())
          saver.wait()
        saves.append(saving.wall)
        sizes.append(sum(x.nbytes for x in jax.tree.leaves(state)))
    stream.close()
    return watch

  arms = dict(bare=bare, nnx=with_nnx, loop=loop,
              whole=lambda steps: loop(steps, save=True))
  for arm in arms.values():
    arm(2)  # compiles
  saves.clear()
  steps = work.loop.steps
  wall, cpu = ({arm: [] for arm in arms} for _ in range(2))
  rates = {str(t): [] for t in config.threads}
  for turn in tqdm.trange(config.repeats, desc=name, disable=None):
    for arm in list(arms)[::-1 if turn % 2 else 1]:
      watch = arms[arm](steps)
      wall[arm].append(1e3 * watch.wall / steps)
      cpu[arm].append(1e3 * watch.cpu / steps)
    for threads in config.threads:
      rates[str(threads)].append(
          _stream_rate(work, splits.train, threads, config.batches))
  return dict(ms_a_step=wall, cpu_ms_a_step=cpu, images_a_second=rates,
              checkpoint_s=saves, state_mib=sizes[0] / 2**20,
              input_shape=splits.info.input_shape)


def _stream_rate(work, arrays, threads, batches):
  """Images a second of the stream alone, once it flows."""
  stream = data.stream(
      arrays, batch_size=work.batch.size, seed=work.seed,
      augment=work.batch.augment, threads=threads)
  for _ in range(1 + 3 * threads):  # what threads have ready is no measure
    next(stream)
  with _Watch() as watch:
    for _ in range(batches):
      next(stream)
  stream.close()
  return batches * work.batch.size / watch.wall


def _nnx_step(work, info, mesh):
  """`step(batch) -> loss` as Flax's documentation writes it."""
  model = models.builder(
      work.model.name, classes=info.classes, input_shape=info.input_shape,
      seed=work.seed, **work.model.kw)()
  model.train()
  everywhere = NamedSharding(mesh, PartitionSpec())
  nnx.update(model, jax.device_put(nnx.state(model), everywhere))
  optimizer = nnx.Optimizer(
      model, train.make_optimizer(work.optimizer, work.loop.steps),
      wrt=nnx.Param)
  prepare = train.classification(info)
  objective = train.make_objective(work.terms)

  @nnx.jit
  def step(model, optimizer, batch):
    pool = prepare(batch, jax.random.key(0))
    def loss_fn(model):
      logits = model(pool['inputs'])
      sums = objective(pool | {'student_logits': logits})
      return sum(total / count for total, count in sums.values())
    loss, grads = nnx.value_and_grad(loss_fn)(model)
    optimizer.update(model, grads)
    return loss

  return lambda batch: step(model, optimizer, batch)


class _Watch:
  """Seconds inside of it: `wall`, and `cpu` of all threads."""

  def __enter__(self):
    self._begin = time.perf_counter(), time.process_time()
    return self

  def __exit__(self, *_):
    self.wall = time.perf_counter() - self._begin[0]
    self.cpu = time.process_time() - self._begin[1]


class _Terminal(io.StringIO):
  """Nobody sees it, but a progress bar draws on it as on a terminal."""

  def isatty(self):
    return True


MEASURES = {'startup': _startup, 'loop': _loop}


def _markdown(head, rows):
  """A table that also reads well in a terminal."""
  widths = [max(map(len, column)) for column in zip(head, *rows)]
  line = lambda cells: '| ' + ' | '.join(
      c.ljust(w) for c, w in zip(cells, widths)) + ' |\n'
  rule = '|' + '|'.join('-' * (w + 2) for w in widths) + '|\n'
  return line(head) + rule + ''.join(map(line, rows))


def _load():
  """Load average of the last minute: who else was at work."""
  return os.getloadavg()[0] if hasattr(os, 'getloadavg') else float('nan')
