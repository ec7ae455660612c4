"""From the command to the first step: the launcher, watched from inside.

It runs in a process of its own, with an empty cache of compiled programs and
with the one that this left.
"""
import builtins
import collections
import dataclasses
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from typing import Any

import jax
from jax import monitoring
import tqdm

from experiments import train as protocol
from kt_jax import core
from kt_jax.launch import main as launcher
from kt_jax.launch import report
from kt_jax.train import image_run
from kt_jax.train import loop
from kt_jax.train import pool
from kt_jax.train import session as sessions

ROOT = pathlib.Path(__file__).resolve().parents[2]
# Where the time to the first step goes; each moment counts for one of them.
STAGES = {
    'interpreter': 'the process starts',
    'imports': 'the launcher and all that it imports',
    'later imports': 'what a stage imports when it gets there',
    'devices': 'JAX finds its devices',
    'check': 'the config is validated, one step traced',
    'data': 'read, split, first batch on the device',
    'model': 'graph of the model, settings, first parameters',
    'trace': 'Python to StableHLO',
    'compile': 'XLA compiles, or the cache is read',
    'first step': 'one step of the compiled program',
    'other': 'config, workdir, checkpoint manager, writer'}
EVENTS = {'/jax/core/compile/jaxpr_trace_duration': 'trace',
          '/jax/core/compile/jaxpr_to_mlir_module_duration': 'trace',
          '/jax/core/compile/backend_compile_duration': 'compile'}


@dataclasses.dataclass(frozen=True)
class Settings:
  repeats: int = 3  # launches of each kind
  platform: str = ''  # JAX_PLATFORMS of the launches; '' as it is here


def measure(settings, workloads):
  raw = {name: dict(cold=[], warm=[]) for name in workloads}
  bar = tqdm.tqdm(total=2 * settings.repeats * len(workloads), disable=None,
                  desc='launches')
  with bar:
    for _ in range(settings.repeats):
      for name, work in workloads.items():
        with tempfile.TemporaryDirectory() as folder:
          for kind in ('cold', 'warm'):
            raw[name][kind].append(
                _launch(work, pathlib.Path(folder), kind, settings.platform))
            bar.update()
  middle = lambda name, kind, stage: statistics.median(
      launch[stage] for launch in raw[name][kind])
  table, metrics = '', {}
  for name in workloads:
    rows = [[stage, *(f'{middle(name, kind, stage):.2f}'
                      for kind in ('cold', 'warm')), STAGES.get(stage, '')]
            for stage in (*STAGES, 'total')]
    table += f'{name}, from the command to the first step, in seconds\n\n'
    head = ['stage', 'cold', 'warm', 'what it is']
    table += report.table([head, *rows], bars=True) + '\n\n'
    metrics |= {f'{name}_{kind}_s': middle(name, kind, 'total')
                for kind in ('cold', 'warm')}
  table += (f'Medians of {settings.repeats} launches each. cold: an empty '
            'cache of compiled programs; warm: the one that the cold launch '
            'left.\n')
  return raw, table, metrics


def _launch(work, folder, kind, platforms):
  """Stage -> seconds of one launch in a new process."""
  file, out = folder / 'launch.py', folder / f'{kind}.json'
  text = json.dumps(core.spec.to_json(work))
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
          'from experiments.bench import startup; '
          'sys.exit(startup.child(begin, *sys.argv[1:]))')
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
  """Raised after the first step; no handler of the launcher catches it."""


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
  def listen(event: str, start_time: float, end_time: float,
             **kwargs: str | int) -> None:
    del kwargs
    if event in EVENTS:
      line.add(EVENTS[event], start_time, end_time)
  monitoring.register_event_time_span_listener(listen)
  line.imports('later imports')
  line.timed('devices', jax.devices)()

  protocol.check = line.timed('check', protocol.check)
  pool.load_data = line.timed('data', pool.load_data)
  image_run.open_stream = line.timed('data', image_run.open_stream)
  make = line.timed('model', sessions.make_session)
  def make_session(*args, **kw):
    session = make(*args, **kw)
    return session._replace(init=line.timed('model', session.init))
  sessions.make_session = make_session

  def fit(step, state, stream, inputs, *, shard_batch, **_):
    batch = line.timed('data', lambda: jax.block_until_ready(
        shard_batch(next(stream))))()
    line.timed('first step', lambda: jax.block_until_ready(
        step(state, batch, inputs)))()
    raise _Done
  patched: Any = fit
  loop.fit = patched

  try:
    return launcher.main(list(argv)) or 1  # it cannot end without a step
  except _Done:
    end = line.intervals[-1][2]
  seconds = {s: line.exclusive()[s] for s in STAGES}
  seconds |= dict(other=end - spawned - sum(seconds.values()),
                total=end - spawned)
  pathlib.Path(out).write_text(json.dumps(seconds))
  return 0
