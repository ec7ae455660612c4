"""What `train.fit` adds to a bare jitted step, its data included."""
import contextlib
import dataclasses
import io
import tempfile
import time
from typing import Any

from flax import nnx
import jax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec
import numpy as np
import tqdm

from kt_jax import checkpoint
from kt_jax import core
from kt_jax import data
from kt_jax import models
from kt_jax import train
from kt_jax.launch import report

CASES = {'bare': 'bare jitted step, one fixed batch',
        'nnx': 'nnx.jit + nnx.Optimizer, likewise',
        'loop': 'train.fit: stream, log, bar',
        'whole': 'train.fit, and a checkpoint at its end'}


@dataclasses.dataclass(frozen=True)
class Settings:
  repeats: int = 5  # turns
  threads: tuple[int, ...] = (0, 1, 2, 4)  # of the stream alone
  batches: int = 50  # that it is timed over


def measure(settings, workloads):
  raw, table, metrics = {}, '', {}
  for name, work in workloads.items():
    times: Any = _measure_loop(name, work, settings)
    raw[name] = times
    middle = lambda key, case: float(np.median(times[key][case]))
    more = lambda key, case, q=50: 100 * float(np.percentile(
        np.divide(times[key][case], times[key]['bare']), q) - 1)
    bare = middle('ms_per_step', 'bare')
    rate = 1e3 * work.batch.size / bare
    rows = []
    for case, what in CASES.items():
      cells = [''] * 3 if case == 'bare' else [
          f'{more("ms_per_step", case):+.1f} %',
          f'{more("ms_per_step", case, 25):+.1f} to '
          f'{more("ms_per_step", case, 75):+.1f}',
          f'{more("cpu_ms_per_step", case):+.1f} %']
      rows.append([what, f'{middle("ms_per_step", case):.2f}', *cells])
    table += (f'{name}: {work.model.name}, batch {work.batch.size} of '
              f'{"x".join(map(str, times["input_shape"]))}, {work.loop.steps} '
              f'steps per turn, {settings.repeats} turns\n\n')
    head = ['', 'ms per step', 'over bare', 'quartiles', 'CPU time over bare']
    table += report.table([head, *rows], bars=True) + '\n'
    save = float(np.median(times['checkpoint_s']))
    table += (f'\nThe loop adds {more("ms_per_step", "loop"):.1f} %. A '
              f'checkpoint of {times["state_mib"]:.1f} MiB takes {save:.3f} s: '
              f'one every {1e5 * save / bare:,.0f} steps adds 1 %.\n\n')
    pipeline = {t: float(np.median(v))
                for t, v in times['images_per_second'].items()}
    rows = [['step', f'{rate:,.0f}', '1.0']]
    rows += [[f'stream alone, {t} threads', f'{v:,.0f}', f'{v / rate:.1f}']
             for t, v in pipeline.items()]
    head = ['', 'images/s', 'times the step']
    table += report.table([head, *rows], bars=True) + '\n\n'
    metrics |= {
        f'{name}_step_ms': bare,
        f'{name}_loop_percent': more('ms_per_step', 'loop'),
        f'{name}_whole_percent': more('ms_per_step', 'whole'),
        f'{name}_nnx_percent': more('ms_per_step', 'nnx'),
        f'{name}_loop_cpu_percent': more('cpu_ms_per_step', 'loop'),
        f'{name}_checkpoint_s': save,
        f'{name}_stream_over_step': max(pipeline.values()) / rate}
  table += (
      'Medians over turns; a turn runs every line once, every other turn in '
      'reverse; "over bare" is the ratio within a turn. CPU time is that of '
      'all threads: other jobs on a shared machine move it less, and on a CPU '
      'it also counts what overlaps with the step.\n')
  return raw, table, metrics


def _measure_loop(name, work, settings):
  """Milliseconds per step by case, images per second of the stream; per turn.
  """
  splits = data.load(work.data)
  session = train.make_session(work, splits.info)
  put = train.make_shard_batch(session.mesh)
  stream = train.open_stream(work, splits.train, session.mesh)
  batch = jax.block_until_ready(put(next(stream)))
  stream.close()

  def bare(steps):
    state = jax.block_until_ready(session.init())
    with _Watch() as watch:
      for _ in range(steps):
        state, _ = session.step(state, batch, session.inputs)
      jax.block_until_ready(state)
    return watch

  reference = _nnx_step(work, splits.info, session.mesh)
  def with_nnx(steps):
    with _Watch() as watch:
      loss = [reference(batch) for _ in range(steps)][-1]
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
            session.step, state, stream, session.inputs, steps=steps,
            shard_batch=put, log_every=work.loop.log_every,
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

  cases = dict(bare=bare, nnx=with_nnx, loop=loop,
              whole=lambda steps: loop(steps, save=True))
  for case in cases.values():
    case(2)  # compiles
  saves.clear()
  steps = work.loop.steps
  wall, cpu = ({case: [] for case in cases} for _ in range(2))
  rates = {str(t): [] for t in settings.threads}
  for turn in tqdm.trange(settings.repeats, desc=name, disable=None):
    for case in list(cases)[::-1 if turn % 2 else 1]:
      watch = cases[case](steps)
      wall[case].append(1e3 * watch.wall / steps)
      cpu[case].append(1e3 * watch.cpu / steps)
    for threads in settings.threads:
      rates[str(threads)].append(
          _stream_rate(work, splits.train, threads, settings.batches))
  return dict(ms_per_step=wall, cpu_ms_per_step=cpu, images_per_second=rates,
              checkpoint_s=saves, state_mib=sizes[0] / 2**20,
              input_shape=splits.info.input_shape)


def _stream_rate(work, arrays, threads, batches):
  """Images per second of the stream alone, once it flows."""
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
  prepare = train.prepare_images(info)
  losses = train.resolve_terms(work.terms)

  @nnx.jit
  def step(model, optimizer, batch):
    arrays = prepare(batch, jax.random.key(0))['data']
    def loss_fn(model):
      pool = arrays | {'student_logits': model(arrays['inputs'])}
      return sum(core.masked_mean(core.bind(fn, pool, **work.terms[n].kw))
                 for n, fn in losses.items())
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
  """A stream on which progress bars draw as on a terminal."""

  def isatty(self):
    return True
