"""The run that resume_test.py interrupts; as a program, how it is interrupted.

  python tests/interrupted.py WORKDIR HOW STEP
"""
import os
import pathlib
import signal
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:
  sys.path.insert(0, str(ROOT))

STEPS, SAVE = 12, 4


def config(**changes):
  """All that has state: BatchNorm, dropout, momentum, average, random data."""
  from configs import common
  c = common.supervised()
  c.model = dict(name='convnet', kw=dict(widths=(4, 8), dropout=0.3))
  c.batch.size, c.batch.mixup, c.batch.cutmix = 32, 0.2, 0.5
  c.batch.augment = dict(shift=dict(pixels=1), noise=dict(std=0.05))
  c.terms.task = common.term('cross_entropy', warmup=3)
  c.optimizer.kw = dict(momentum=0.9)
  c.optimizer.weight_decay = 1e-3
  c.optimizer.schedule = dict(name='cosine_decay_schedule', kw={})
  c.loop = dict(steps=STEPS, log_every=5, save_every=SAVE, keep=2)
  c.train.ema = 0.9
  c.mesh = dict(data=1, model=1)
  c.update_from_flattened_dict(changes)
  return c


def use_cache():
  """What one process compiled the others need not."""
  import jax
  jax.config.update('jax_compilation_cache_dir',
                    os.path.join(os.environ['KT_JAX_CACHE'], 'resume_test'))
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.1)


def run(workdir, **changes):
  """`pretrain.run`, whole or resumed."""
  from experiments import pretrain
  return pretrain.run(config(**changes), workdir)


def at_batch(step, action):
  """`action()` when the run asks for the batch of update `step`."""
  from kt_jax import train
  opened = train.open_stream

  class Stream:

    def __init__(self, stream):
      self._stream = stream
      self.get_state, self.set_state = stream.get_state, stream.set_state

    def __next__(self):
      if self.get_state()['next_index'] == step - 1:
        action()
      return next(self._stream)

  train.open_stream = lambda *args: Stream(opened(*args))
  return lambda: setattr(train, 'open_stream', opened)


def at_rename(name, action):
  """`action()` when a checkpoint is written and about to get its name."""
  def hook(event, args):
    if event == 'os.rename' and os.path.basename(str(args[1])) == name and (
        'checkpoints' in str(args[1])):
      action()
  sys.addaudithook(hook)


def fill_disk(limit, after):
  """When the checkpoint `after` is there, no file grows beyond `limit`."""
  import resource
  import time
  while not after.exists():  # it is written meanwhile
    time.sleep(0.01)
  signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
  hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
  resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))


def main(workdir, how, step):
  kill = lambda number: lambda: os.kill(os.getpid(), number)
  if how == 'kill':
    at_batch(int(step), kill(signal.SIGKILL))
  elif how == 'kill_save':
    at_rename(step, kill(signal.SIGKILL))
  elif how == 'term':
    at_batch(int(step), kill(signal.SIGTERM))
  elif how == 'full':
    at_batch(int(step), lambda: fill_disk(
        2000, pathlib.Path(workdir, 'checkpoints', str(SAVE))))
  from kt_jax import core
  use_cache()
  try:
    run(workdir)
  except core.UserError as e:
    print(f'error: {e}', file=sys.stderr)
    return 2
  return 0


if __name__ == '__main__':
  os.environ.setdefault('JAX_PLATFORMS', 'cpu')
  sys.exit(main(*sys.argv[1:]))
