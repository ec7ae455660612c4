"""`kt-merge` on checkpoints of a gigabyte, beside mergekit and the disk."""
from collections.abc import Mapping
from concurrent import futures
import dataclasses
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from typing import Any

import ml_dtypes
import numpy as np
import tqdm

from experiments.bench import turns
from kt_jax import checkpoint
from kt_jax import core
from kt_jax import data
from kt_jax.launch import report

OURS, PEER, FLOOR = 'kt-merge', 'mergekit', 'read and write'
_BUFFER = 2 ** 21  # bytes
_THREADS = 2


@dataclasses.dataclass(frozen=True)
class Settings:
  mergekit: str = ''  # path of mergekit-yaml
  repeats: int = 3  # turns
  width: int = 2048
  inner: int = 5632
  layers: int = 8
  vocabulary: int = 32000
  experts: int = 3


@dataclasses.dataclass(frozen=True)
class Workload:
  recipe: Mapping[str, Any]
  speedup: float  # over mergekit, asked for
  over_disk: float  # limit
  memory_gb: float  # limit


def check(settings, workloads):
  """Refuses a missing command or a full disk before checkpoints are written."""
  del workloads
  if settings.mergekit and not shutil.which(settings.mergekit):
    raise core.UserError(
        f'config.settings.mergekit: no command {settings.mergekit!r}; give its '
        "path, or '' to leave it out.")
  free = shutil.disk_usage(_folder(settings).parent).free
  need = _bytes(settings) * (settings.experts + 2)
  if free < need:
    raise core.UserError(f'{_folder(settings).parent}: {need / 1e9:.1f} GB are '
                         f'needed, {free / 1e9:.1f} are free.')
  return []


def measure(settings, workloads):
  models = _checkpoints(settings)
  imported = _run([sys.executable, '-c', 'import time, kt_jax.cli.main, jax; '
                   'jax.devices(); time.sleep(0.1)'])['anonymous']
  raw = {}
  with tempfile.TemporaryDirectory(dir=_folder(settings).parent) as folder:
    folder = pathlib.Path(folder)
    for name, work in workloads.items():
      recipe, used = _recipe(work.recipe, models)
      (folder / f'{name}.yml').write_text(recipe)
      cases = _cases(settings, folder, name, used)
      raw[name] = {case: [] for case in cases}
      for turn in tqdm.trange(-1, settings.repeats, desc=name, disable=None):
        for case in list(cases)[::-1 if turn % 2 else 1]:
          if turn >= 0:
            raw[name][case].append(cases[case]())
          elif case != PEER:  # this turn fills the page cache
            cases[case]()
  return dict(imported=imported, workloads=raw), *_table(
      settings, workloads, raw, imported)


def _cases(settings, folder, name, used):
  """Case -> function that runs it once: seconds and bytes."""
  def command(*words):
    def once():
      out = folder / 'out'
      shutil.rmtree(out, ignore_errors=True)
      return _run([*words, str(folder / f'{name}.yml'), str(out)])
    return once
  cases = {FLOOR: lambda: _floor(used, folder / 'floor'),
          OURS: command(sys.executable, '-m', 'kt_jax.cli.kt_merge', '--quiet')}
  if settings.mergekit:
    cases[PEER] = command(settings.mergekit, '--quiet')
  return cases


def _table(settings, workloads, raw, imported):
  seconds = lambda name, case: np.array([x['seconds'] for x in raw[name][case]])
  rows = [['recipe', 'kt-merge s', 'over the disk', 'limit', 'mergekit s',
           'mergekit over kt-merge', 'quartiles', 'target', 'memory GB',
           'limit']]
  metrics = {}
  for name, limits in workloads.items():
    ours, floor = seconds(name, OURS), seconds(name, FLOOR)
    memory = max(x['anonymous'] for x in raw[name][OURS]) - imported
    metrics |= {f'{name}_s': float(np.median(ours)),
                f'{name}_over_disk': float(np.median(ours / floor)),
                f'{name}_memory_gb': memory / 1e9}
    peer = ['', '', '']
    if PEER in raw[name]:
      ratio = seconds(name, PEER) / ours
      metrics[f'{name}_speedup'] = float(np.median(ratio))
      peer = [f'{np.median(seconds(name, PEER)):.1f}',
              f'{np.median(ratio):.1f}', turns.quartiles(ratio, '.1f')]
    rows.append([name, f'{np.median(ours):.2f}',
                 f'{np.median(ours / floor):.2f}', str(limits.over_disk), *peer,
                 str(limits.speedup), f'{memory / 1e9:.2f}',
                 str(limits.memory_gb)])
  table = report.table(rows, bars=True) + (
      f'\n\n{settings.experts} experts and a base of '
      f'{_bytes(settings) / 1e9:.2f} GB each, bfloat16. Whole processes, '
      'medians over turns, ratios within a turn; the disk is '
      f'{_THREADS} threads that read the same inputs and write one output '
      'through warm page cache. Memory: largest anonymous resident set above '
      'that of a process that only imports the package.\n')
  return table, metrics


def _run(command) -> dict[str, float]:
  """Wall seconds of a process and its largest anonymous resident set."""
  begin, peak = time.perf_counter(), 0
  process = subprocess.Popen(command, stdout=subprocess.PIPE,
                             stderr=subprocess.STDOUT, text=True)
  done = threading.Event()

  def watch():
    nonlocal peak
    while not done.wait(0.01):
      peak = max(peak, _anonymous(process.pid))
  watcher = threading.Thread(target=watch)
  watcher.start()
  output, _ = process.communicate()
  seconds = time.perf_counter() - begin
  done.set()
  watcher.join()
  if process.returncode:
    raise core.UserError(f'{command[0]} failed: {output[-500:]}')
  return dict(seconds=seconds, anonymous=peak)


def _anonymous(pid) -> int:
  try:
    text = pathlib.Path(f'/proc/{pid}/status').read_text()
  except OSError:
    return 0
  return 1024 * next((int(line.split()[1]) for line in text.splitlines()
                      if line.startswith('RssAnon')), 0)


def _floor(inputs, out) -> dict[str, float]:
  """Reads the inputs and writes as much as one of them, doing nothing."""
  buffers = [np.zeros(_BUFFER, np.uint8) for _ in range(_THREADS)]
  out.unlink(missing_ok=True)

  def half(path, number, move, mode):
    size = inputs[0].stat().st_size
    at, end = (size * k // _THREADS for k in (number, number + 1))
    with open(path, mode, buffering=0) as file:
      while at < end:
        view = memoryview(buffers[number])[:min(_BUFFER, end - at)]
        at += move(file.fileno(), view, at)

  begin = time.perf_counter()
  out.touch()
  with futures.ThreadPoolExecutor(_THREADS) as pool:
    for path, move, mode in [
        *((path, _read, 'rb') for path in inputs), (out, os.pwrite, 'r+b')]:
      list(pool.map(lambda n: half(path, n, move, mode), range(_THREADS)))
  with open(out, 'rb') as file:
    os.fsync(file.fileno())  # as kt-merge does
  return dict(seconds=time.perf_counter() - begin)


def _read(file, view, at) -> int:
  return os.preadv(file, [view], at)


def _recipe(recipe, models):
  """The recipe with paths for names (JSON is YAML), and the files it reads."""
  text = json.dumps(dict(recipe), indent=1)
  for name, path in models.items():
    text = text.replace(f'"{name}"', json.dumps(str(path)))
  return text, [path / 'model.safetensors' for path in models.values()
                if str(path) in text]


def _entries(settings):
  """Names and shapes of a Llama."""
  wide, inner, vocabulary = settings.width, settings.inner, settings.vocabulary
  yield 'model.embed_tokens.weight', (vocabulary, wide)
  for layer in range(settings.layers):
    for name, shape in (
        *((f'self_attn.{n}_proj', (wide, wide)) for n in 'qkvo'),
        ('mlp.gate_proj', (inner, wide)), ('mlp.up_proj', (inner, wide)),
        ('mlp.down_proj', (wide, inner)), ('input_layernorm', (wide,)),
        ('post_attention_layernorm', (wide,))):
      yield f'model.layers.{layer}.{name}.weight', shape
  yield 'model.norm.weight', (wide,)
  yield 'lm_head.weight', (vocabulary, wide)


def _bytes(settings) -> int:
  return 2 * sum(int(np.prod(shape)) for _, shape in _entries(settings))


def _folder(settings) -> pathlib.Path:
  key = checkpoint.config_hash({k: getattr(settings, k) for k in (
      'width', 'inner', 'vocabulary', 'layers', 'experts')})
  folder = pathlib.Path(data.cache_dir()) / 'bench_merge' / key
  folder.parent.mkdir(parents=True, exist_ok=True)
  return folder


def _checkpoints(settings):
  """Name -> directory of the base and the experts, written if missing."""
  names = ['base', *(f'expert{t}' for t in range(settings.experts))]
  folder = _folder(settings)
  models = {name: folder / name for name in names}
  if folder.exists():
    return models
  new = pathlib.Path(tempfile.mkdtemp(dir=folder.parent))
  entries = [(n, s, ml_dtypes.bfloat16) for n, s in _entries(settings)]
  for number, name in enumerate(tqdm.tqdm(names, 'checkpoints', disable=None)):
    (new / name).mkdir()
    writer = checkpoint.TensorWriter(new / name, entries,
                                     metadata=dict(format='pt'))
    common = np.random.default_rng(0)  # the base's, drawn again for experts
    own = np.random.default_rng(number)
    for path, shape, dtype in entries:
      values = 0.02 * common.standard_normal(int(np.prod(shape)), np.float32)
      if number:
        values += 0.002 * own.standard_normal(len(values), np.float32)
      writer.write(path, 0, values.astype(dtype))
    writer.close()
    (new / name / 'config.json').write_text(json.dumps(dict(
        architectures=['LlamaForCausalLM'], model_type='llama',
        hidden_size=settings.width, intermediate_size=settings.inner,
        num_hidden_layers=settings.layers, num_attention_heads=16,
        num_key_value_heads=16, vocab_size=settings.vocabulary,
        max_position_embeddings=2048, rms_norm_eps=1e-5,
        torch_dtype='bfloat16', tie_word_embeddings=False)))
  new.rename(folder)
  return models
