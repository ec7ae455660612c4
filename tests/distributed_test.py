"""One run on one device, on eight, on sharded parameters, in two processes.

As a program it is one process of two:

  python tests/distributed_test.py WORKDIR PORT PROCESS
"""
import json
import os
import pathlib
import socket
import subprocess
import sys

if __name__ == '__main__':
  sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import interrupted
import jax
from jax.sharding import PartitionSpec
import numpy as np
import pytest

from kt_jax import checkpoint
from kt_jax import core
from kt_jax import data
from kt_jax import train

INFO = data.Info('tiny', 10, (8, 8, 1), (0.5,), (0.5,), (), {})
RULES = (('head/kernel', (None, 'model')), ('head/bias', ('model',)),
         (r'conv/kernel', (None, None, None, 'model')))
STEPS = 5


def spec_of(data=-1, model=1, rules=()):
  """BatchNorm, dropout, mixup, momentum and average."""
  return interrupted.single(
      loop=dict(steps=STEPS, save_every=3, log_every=2),
      optimizer=dict(schedule=dict(name='')),
      mesh=dict(data=data, model=model), sharding=rules)


def batch_of(step):
  rng = np.random.default_rng(step)
  return dict(images=rng.integers(0, 256, (32, 8, 8, 1)).astype(np.uint8),
              labels=rng.integers(0, 10, 32).astype(np.int32))


class Stream:
  """Batches that depend on the step, as those of `data.stream`."""

  def __init__(self):
    self.at = 0

  def __next__(self):
    self.at += 1
    return batch_of(self.at)

  def get_state(self):
    return dict(next_index=self.at)

  def set_state(self, state):
    self.at = state['next_index']


def trained(session, state=None, stream=None, steps=STEPS, **kw):
  return train.fit(
      session.step, session.init() if state is None else state,
      stream or Stream(), session.inputs, steps=steps,
      shard_batch=train.make_shard_batch(session.mesh), **kw)


def close(got, want, rtol=1e-4):
  """To `rtol` of the largest entry of each array."""
  got, want = core.flatten(got), core.flatten(want)
  assert got.keys() == want.keys()
  for name in want:
    size = np.abs(np.asarray(want[name])).max()
    np.testing.assert_allclose(got[name], want[name], rtol=rtol,
                               atol=rtol * size, err_msg=name)


@pytest.fixture(scope='module')
def alone():
  """`(session, last state on the host)` of one device."""
  session = train.make_session(spec_of(data=1), INFO)
  assert session.mesh.size == 1
  return session, jax.device_get(trained(session))


@pytest.fixture(scope='module')
def eight():
  return train.make_session(spec_of(), INFO)


@pytest.fixture(scope='module')
def sharded():
  return train.make_session(spec_of(data=4, model=2, rules=RULES), INFO)


def test_eight_devices(alone, eight):
  assert eight.mesh.shape == {'data': 8, 'model': 1}
  state = trained(eight)
  _, want = alone
  close(state.params, want.params)
  close(state.stats, want.stats)
  close(state.ema, want.ema)
  start = jax.device_get(eight.init())
  jax.tree.map(np.testing.assert_array_equal, start,
               jax.device_get(alone[0].init()))  # the same from the first bit
  assert eight.step._cache_size() == 1


def test_sharded_parameters(alone, sharded):
  state = sharded.init()
  for _ in range(2):
    for name, leaf in core.flatten(state).items():
      if name.endswith('head/kernel'):
        assert leaf.sharding.spec == PartitionSpec(None, 'model'), name
        assert leaf.addressable_shards[0].data.shape == (8, 5)
      elif name.endswith('head/bias'):
        assert leaf.sharding.spec == PartitionSpec('model'), name
      elif name.endswith('conv/kernel'):
        assert leaf.sharding.spec == PartitionSpec(
            None, None, None, 'model'), name
      else:
        assert leaf.is_fully_replicated, name
    where = [n for n in core.flatten(state) if n.endswith('head/kernel')]
    assert len(where) == 3, where  # parameter, momentum, average
    state = trained(sharded, state)
  close(state.params, alone[1].params)
  close(state.stats, alone[1].stats)
  assert sharded.step._cache_size() == 1


def test_saved_on_eight_resumes_on_others(alone, eight, sharded, tmp_path):
  with checkpoint.Run(tmp_path) as run:
    saved = jax.device_get(trained(eight, steps=3, run=run))
  for session in (alone[0], sharded):
    stream = Stream()
    with checkpoint.Run(tmp_path) as run:
      state = train.resume(run, session.init(), stream)
    assert stream.at == 3 and int(state.step) == 3
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(state), saved)
    want = session.init()
    assert jax.tree.map(lambda x: x.sharding, state) == jax.tree.map(
        lambda x: x.sharding, want)
    close(trained(session, state, stream).params, alone[1].params)


@pytest.mark.parametrize('sizes', [
    dict(data=3, model=3), dict(model=3), dict(data=0), dict(model=0),
    dict(data=-2), dict(data=16)])
def test_mesh_that_does_not_fit(sizes):
  with pytest.raises(core.UserError, match='does not fit 8 device'):
    train.make_mesh(**sizes)


def test_mesh_of_the_first_devices():
  mesh = train.make_mesh(data=2, model=2)
  assert list(mesh.devices.flat) == jax.devices()[:4]
  assert train.make_mesh().shape == {'data': 8, 'model': 1}
  assert train.make_mesh(model=4).shape == {'data': 2, 'model': 4}


@pytest.mark.parametrize('rules,message', [
    ((('head/bias', ('modle',)),), "Did you mean 'model'"),
    ((('head/kernel', ('model', None)), ('bias', ('data',))),
     'not divisible'),
    ((('kernel', (None, 'model')), ('kernel', (None, None, 'model'))),
     "'kernel' with 3 axes matches nothing")])
def test_rules_that_do_not_fit(rules, message):
  with pytest.raises(core.UserError, match=message):
    train.make_session(spec_of(data=4, model=2, rules=rules), INFO)


def test_initialize_refuses():
  with pytest.raises(core.UserError, match='needs --processes N'):
    train.initialize('localhost:1', 2, 2)
  train.initialize()  # one process: nothing happens


def launch(workdir):
  """Statuses and outputs of both processes of a run."""
  with socket.socket() as free:
    free.bind(('localhost', 0))
    port = free.getsockname()[1]
  environment = os.environ | {
      'XLA_FLAGS': '--xla_force_host_platform_device_count=1'}
  both = [subprocess.Popen(
      [sys.executable, __file__, str(workdir), str(port), str(i)],
      env=environment, text=True, stdout=subprocess.PIPE,
      stderr=subprocess.PIPE) for i in range(2)]
  try:
    outputs = [p.communicate(timeout=120) for p in both]
  finally:
    for process in both:
      process.kill()
  return [p.returncode for p in both], outputs


def test_two_processes(tmp_path):
  """The same command in both; one checkpoint, one set of files."""
  try:  # Gloo asks for the address of this machine by its name
    socket.getaddrinfo(socket.gethostname(), None)
  except OSError:
    pytest.skip(f'the name of this machine, {socket.gethostname()!r}, has no '
                'address: add it to /etc/hosts')
  statuses, outputs = launch(tmp_path / 'two')
  assert statuses == [0, 0], outputs
  first, other = (json.loads(out.splitlines()[-1]) for out, _ in outputs)
  assert first['devices'] == other['devices'] == 2
  assert first['metrics'] == other['metrics']
  # Of the second process there are only its parts of the checkpoint.
  assert other['written'] == ['.writable1'], other['written']
  assert {'config.json', 'card.json', 'metrics.jsonl', 'predictions.npz',
          'curves.png'} <= set(first['written'])

  train.run(spec_of(data=2), tmp_path / 'one')
  two, one = (checkpoint.read(tmp_path / n, STEPS) for n in ('two', 'one'))
  close(two.model['params'], one.model['params'])
  close(two.model['stats'], one.model['stats'])
  rows = [train.read_metrics(tmp_path / n / 'metrics.jsonl')
          for n in ('two', 'one')]
  assert len(rows[0]) == len(rows[1])
  for a, b in zip(*rows):
    assert (a['step'], a['split']) == (b['step'], b['split'])
    assert all(np.isclose(a[k], b[k], rtol=1e-3)
               for k in a.keys() - {'split', 'accuracy'})
  with np.load(tmp_path / 'two' / 'predictions.npz') as a, np.load(
      tmp_path / 'one' / 'predictions.npz') as b:
    close(dict(a), dict(b))

  # One process takes over what two have saved: model and optimizer.
  spec = spec_of(data=1)
  splits = data.load(spec.data)
  session = train.make_session(spec, splits.info)
  stream = train.open_stream(spec, splits.train, session.mesh)
  key = checkpoint.config_hash(core.spec.to_json(spec))
  with checkpoint.Run(tmp_path / 'two', config=key) as run:
    state = train.resume(run, session.init(), stream)
  assert stream.get_state() == dict(next_index=STEPS)
  model, training = train.to_items(state)
  assert checkpoint.digest(model) == two.meta['model']
  assert checkpoint.digest(training) == two.meta['training']


def main(workdir, port, process):
  train.initialize(f'localhost:{port}', 2, int(process))
  written = set()

  def hook(event, args):
    if event == 'open' and isinstance(args[0], (str, os.PathLike)) and (
        args[2] & (os.O_WRONLY | os.O_RDWR)):
      path = pathlib.Path(args[0])
      if path.is_relative_to(workdir):
        name = path.relative_to(workdir).parts[0]
        written.add(name.removeprefix('.').removesuffix('.part')
                    if name.endswith('.part') else name)
  sys.addaudithook(hook)
  interrupted.use_cache()
  metrics = train.run(spec_of(), workdir)
  print(json.dumps(dict(devices=jax.device_count(), metrics=metrics,
                        written=sorted(written - {'checkpoints'}))))


if __name__ == '__main__':
  main(*sys.argv[1:])
