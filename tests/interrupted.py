"""The run that resume_test.py interrupts; as a program, how it is interrupted.

  python tests/interrupted.py WORKDIR HOW STEP
"""
import os
import pathlib
import signal
import sys

STEPS, SAVE = 12, 4


def single(**changes):
  """A student with BatchNorm, dropout, momentum, average, random data."""
  from kt_jax import core
  from kt_jax import train
  spec = train.Training(
      model=train.Model('convnet', dict(widths=(4, 8), dropout=0.3)),
      batch=train.Batch(32, dict(shift=dict(pixels=1), noise=dict(std=0.05)),
                        mixup=0.2, cutmix=0.5),
      terms=dict(task=train.LossTerm('cross_entropy', warmup=3)),
      optimizer=train.Optimizer(
          l2=1e-3, kw=dict(momentum=0.9),
          schedule=train.Schedule('cosine_decay_schedule')),
      loop=train.Loop(STEPS, log_every=5, save_every=SAVE, keep=2),
      train=train.Step(ema=0.9), mesh=train.Mesh(1))
  return core.spec.change(spec, changes)


def spec(**changes):
  """All that has state: besides, a teacher that learns with its own optimizer,
  and a module that remembers examples."""
  from kt_jax import core
  from kt_jax import train
  players = dict(
      teachers=dict(peer=train.Teacher(kind='online', model=train.Model(
          'convnet', dict(widths=(4,), dropout=0.2)))),
      modules=dict(memory=train.Module('ContrastiveMemory', dict(
          width=6, negatives=9))),
      optimizers=dict(peer=train.Optimizer('adam', 3e-3),
                      memory=train.Optimizer('sgd', 0.05)),
      terms=dict(
          crd=train.LossTerm('crd', weight=0.3, teacher='peer', taps='pool',
                             module='memory'),
          peer=train.LossTerm('cross_entropy', student='peer')))
  return core.spec.change(core.spec.change(single(), players), changes)


def use_cache():
  """What one process compiles the others need not compile."""
  import jax
  jax.config.update('jax_compilation_cache_dir',
                    os.path.join(os.environ['KT_JAX_CACHE'], 'resume_test'))
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.1)


def run(workdir, **changes):
  """`train.run`, whole or resumed."""
  from kt_jax import train
  return train.run(spec(**changes), workdir)


def at_batch(step, action):
  """`action()` when the run asks for the batch of update `step`."""
  from kt_jax.train import image_run
  open_stream = image_run.open_stream

  class Stream:

    def __init__(self, stream):
      self._stream = stream
      self.get_state, self.set_state = stream.get_state, stream.set_state

    def __next__(self):
      if self.get_state()['next_index'] == step - 1:
        action()
      return next(self._stream)

  image_run.open_stream = lambda *args: Stream(open_stream(*args))
  return lambda: setattr(image_run, 'open_stream', open_stream)


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
  sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
  os.environ.setdefault('JAX_PLATFORMS', 'cpu')
  sys.exit(main(*sys.argv[1:]))
