"""Checkpoints on disk: restored as saved, or one clear error."""
import json
import logging
import pathlib
import resource
import shutil

import jax
from jax import numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec
import numpy as np
import pytest

from kt_jax import checkpoint
from kt_jax import core
from kt_jax.checkpoint import content_hash

# Orbax leaves coroutines behind when a file is damaged.
pytestmark = pytest.mark.filterwarnings(
    'ignore::pytest.PytestUnraisableExceptionWarning')


def model(step):
  return dict(params={'w': jnp.arange(200.0) + step, 'b': jnp.ones(3) * step},
              stats={})


def training(step):
  return dict(step=jnp.int32(step), opt_state=({'w': jnp.arange(200.0)},))


def save(run, step, accuracy=None):
  run.save(step, model(step), training(step), data_state={'next_index': step},
           metrics={} if accuracy is None else {'accuracy': accuracy})


@pytest.fixture(scope='module')
def saved(tmp_path_factory):
  workdir = tmp_path_factory.mktemp('saved')
  with checkpoint.Run(workdir, best='accuracy') as run:
    save(run, 2, 0.5)
    save(run, 4, 0.75)
  return workdir


def files(workdir, step):
  folder = workdir / 'checkpoints' / str(step)
  return sorted(p for p in folder.rglob('*') if p.is_file())


def damage(path, how):
  content = path.read_bytes()
  if how == 'delete':
    path.unlink()
  elif how == 'cut':
    path.write_bytes(content[:len(content) // 2])
  else:
    at = len(content) // 2
    path.write_bytes(
        content[:at] + bytes([content[at] ^ 1]) + content[at + 1:])


@pytest.mark.parametrize('how', ['cut', 'delete', 'flip'])
def test_any_damaged_file(saved, tmp_path, how, caplog):
  """Whatever happens to any one file: never a wrong number, never a crash."""
  logging.getLogger('absl').setLevel(logging.CRITICAL)
  want = {s: checkpoint.digest(model(s)) for s in (2, 4)}
  skipped = 0
  for file in files(saved, 4):
    caplog.clear()
    copy = tmp_path / 'copy'
    shutil.copytree(saved, copy)
    damage(copy / file.relative_to(saved), how)
    try:
      found = checkpoint.read(copy)
      assert found.step == 4 and checkpoint.digest(found.model) == want[4], file
      assert found.meta['data_state'] == {'next_index': 4}
      assert found.meta['metrics'] == {'accuracy': 0.75}
    except core.UserError as e:
      assert 'damaged' in str(e) and '\n' not in str(e)
    with checkpoint.Run(copy, best='accuracy') as run:
      found = run.latest(model(0), training(0))
      assert checkpoint.digest(found.model) == want[found.step], file
      assert found.meta['data_state'] == {'next_index': found.step}
      assert run.best_step() == found.step
      warnings = [r for r in caplog.records if r.name == 'kt_jax']
      assert len(warnings) == (found.step == 2)
      skipped += len(warnings)
      if warnings and skipped == 1:  # the run reaches that step again
        save(run, 4, 0.75)
        run.wait()
        assert run.at(4, model(0), training(0)).step == 4
        assert run.steps() == [2, 4]
    shutil.rmtree(copy)
  assert skipped >= 4  # data of both items, metadata, meta


def test_keeps_the_newest_and_the_best_over_restarts(tmp_path):
  scores = {1: 0.5, 2: 0.9, 3: 0.9, 4: None, 5: 0.1, 6: 0.2, 7: 0.3}
  for step, accuracy in scores.items():  # each in a run that resumes
    with checkpoint.Run(tmp_path, keep=2, best='accuracy') as run:
      save(run, step, accuracy)
  with checkpoint.Run(tmp_path, keep=2, best='accuracy') as run:
    assert run.steps() == [3, 6, 7]  # of equal ones the newest
    assert run.best_step() == 3
  with checkpoint.Run(tmp_path, keep=2) as run:
    assert run.best_step() is None


def test_an_existing_step_stays(tmp_path):
  with checkpoint.Run(tmp_path) as run:
    save(run, 1)
    run.wait()
    run.save(1, model(9), training(9))
    assert float(run.latest(model(0), training(0)).model['params']['b'][0]) == 1


def test_empty_run(tmp_path):
  with checkpoint.Run(tmp_path) as run:
    assert run.latest(model(0), training(0)) is None
    assert run.steps() == [] and run.best_step() is None


def test_meta_comes_back(tmp_path):
  log = dict(count=3, sums={'loss': 0.1 + 0.2})
  with checkpoint.Run(tmp_path) as run:
    run.save(5, model(5), training(5), data_state={'next_index': 5}, log=log)
    run.wait()
    assert run.meta(5)['log'] == log
    with pytest.raises(core.UserError):
      run.meta(6)


def test_another_model_does_not_fit(saved):
  other = model(0) | dict(params={'w': jnp.zeros(7)})
  with checkpoint.Run(saved) as run:
    with pytest.raises(core.UserError, match='does not fit'):
      run.at(4, other, training(0))


def test_read_chooses_the_step(saved, tmp_path):
  assert checkpoint.read(saved).step == 4
  assert checkpoint.read(saved, 2).step == 2
  found = checkpoint.read(saved, 2)
  assert found.training is None
  assert isinstance(found.model['params']['w'], np.ndarray)
  with pytest.raises(core.UserError, match=r'No checkpoint of step 3.*2, 4'):
    checkpoint.read(saved, 3)
  with pytest.raises(core.UserError, match='it is not the --workdir of a run'):
    checkpoint.read(tmp_path)
  (tmp_path / 'checkpoints').mkdir()
  with pytest.raises(core.UserError, match='No finished checkpoint'):
    checkpoint.read(tmp_path)
  shutil.copytree(saved, tmp_path / 'copy')
  checkpoint.write_json(tmp_path / 'copy' / 'card.json', dict(step=2))
  assert checkpoint.read(tmp_path / 'copy').step == 2


def test_digest_sees_names_shapes_dtypes_and_bits_not_placement():
  x = jnp.arange(8.0)
  trees = [{'a': x}, {'b': x}, {'a': x.reshape(2, 4)}, {'a': x.astype(int)},
           {'a': x.at[3].set(jnp.nextafter(x[3], 9.0))},
           {'a': x.at[0].set(-0.0)}]
  digests = [checkpoint.digest(t) for t in trees]
  assert len(set(digests)) == len(trees)
  mesh = jax.make_mesh((8,), ('data',))
  placed = jax.device_put(x, NamedSharding(mesh, PartitionSpec('data')))
  assert checkpoint.digest({'a': placed}) == digests[0]
  assert checkpoint.digest({'a': np.asarray(x)}) == digests[0]


@pytest.fixture
def full_disk():
  """`full_disk(bytes)`: no file grows beyond that; SIGXFSZ is off in Python."""
  soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
  yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
  resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_full_disk(tmp_path, full_disk):
  big = lambda s: {'w': jnp.asarray(np.random.default_rng(s).normal(size=9999))}
  error = None
  try:
    with checkpoint.Run(tmp_path) as run:
      run.save(1, big(1), big(1))
      run.wait()
      full_disk(9000)
      run.save(2, big(2), big(2))
      run.wait()
  except core.UserError as e:
    error = str(e)
  finally:
    full_disk(resource.getrlimit(resource.RLIMIT_FSIZE)[1])
  assert 'Cannot write a checkpoint' in error and '\n' not in error
  assert 'step 1 is intact' in error
  with checkpoint.Run(tmp_path) as run:
    assert run.latest(big(0), big(0)).step == 1
    run.save(2, big(2), big(2))
    run.wait()
    assert [p.name for p in sorted((tmp_path / 'checkpoints').iterdir())] == [
        '1', '2']  # the half-written one is cleared away


def test_shards_fill_up_and_keep_tensors_aligned(tmp_path):
  arrays = dict(a=np.arange(3, dtype=np.int8), b=np.arange(5, dtype=np.float32),
                c=np.arange(2, dtype=np.float64), d=np.arange(7, dtype=np.int8))
  writer = checkpoint.TensorWriter(
      tmp_path, [(n, x.shape, x.dtype) for n, x in arrays.items()],
      shard_bytes=3 + 20 + 16)
  for name, x in arrays.items():
    writer.write(name, 1, x[1:])
    writer.write(name, 0, x[:1])
  writer.close()
  index = checkpoint.read_json(tmp_path / 'model.safetensors.index.json')
  assert index == dict(metadata=dict(total_size=46), weight_map=dict.fromkeys(
      'abc', 'model-00001-of-00002.safetensors') | dict(
          d='model-00002-of-00002.safetensors'))
  for name, tensor in checkpoint.open_tensors(tmp_path).items():
    np.testing.assert_array_equal(tensor.array(), arrays[name])
    assert tensor._offset % tensor.dtype.itemsize == 0


def test_content_hash():
  x = np.arange(content_hash.BLOCK + 9, dtype=np.float32)
  def digest(x, key='x', updates=()):
    content = content_hash.ContentHash()
    for start, stop in updates:
      content.update(key, start, x[start:stop])
    return content.hexdigest({key: checkpoint.ArrayTensor(key, x)})
  whole = digest(x)
  # A part of a block does not pass for the block.
  for updates in ([(0, 5)], [(content_hash.BLOCK, content_hash.BLOCK + 3)],
                  [(0, None)]):
    assert digest(x, updates=updates) == whole
  others = [digest(x, 'y'), digest(x.view(np.int32)), digest(x[:-1]),
            digest(x.reshape(1, -1)), digest(x + (x == x[-1]))]
  assert len({whole, *others}) == 6
  both = {n: checkpoint.ArrayTensor(n, x[:5]) for n in 'xy'}
  assert content_hash.ContentHash().hexdigest(both) == (
      content_hash.ContentHash().hexdigest(dict(reversed(both.items()))))


def test_write_atomic_leaves_the_old_file(tmp_path, full_disk):
  path = tmp_path / 'a.json'
  checkpoint.write_json(path, dict(x=1))
  assert [p.name for p in tmp_path.iterdir()] == ['a.json']
  full_disk(1000)
  with pytest.raises(core.UserError, match=f'Cannot write {path}'):
    checkpoint.write_atomic(path, b'x' * 5000)
  assert checkpoint.read_json(path) == dict(x=1)
  assert [p.name for p in tmp_path.iterdir()] == ['a.json']


def test_read_json_errors(tmp_path):
  for content in (b'{"x": ', b'\xff\xfe', b''):
    (tmp_path / 'x').write_bytes(content)
    with pytest.raises(core.UserError, match='Cannot read'):
      checkpoint.read_json(tmp_path / 'x')
  with pytest.raises(core.UserError, match='Cannot read'):
    checkpoint.read_json(tmp_path / 'y')


CONFIG = dict(a=dict(b=1, c=(1, 2)), mesh=dict(data=8), data=dict(data_dir='x'))


def test_workdir_refuses_another_config_but_not_another_mesh(tmp_path):
  first = checkpoint.open_workdir(tmp_path / 'w', CONFIG)
  assert first.is_absolute()
  assert json.loads((tmp_path / 'w/config.json').read_text())['a']['b'] == 1
  free = CONFIG | dict(mesh=dict(data=1, model=2), data=dict(data_dir='y'))
  checkpoint.open_workdir(tmp_path / 'w', free)
  assert checkpoint.config_hash(free) == checkpoint.config_hash(CONFIG)
  within, moved = ({'run': dict(CONFIG, data=dict(data_dir=x))} for x in 'xy')
  assert checkpoint.config_hash(within) == checkpoint.config_hash(moved)
  other = CONFIG | dict(a=dict(b=2, c=[1, 2]))
  assert checkpoint.config_hash(other) != checkpoint.config_hash(CONFIG)
  with pytest.raises(core.UserError, match='a.b was 1, now 2'):
    checkpoint.open_workdir(tmp_path / 'w', other)
  with pytest.raises(core.UserError, match="new was 'absent', now 3"):
    checkpoint.open_workdir(tmp_path / 'w', CONFIG | dict(new=3))


def test_checkpoint_of_another_config_is_not_resumed(tmp_path):
  """A stopped run may save after its directory was cleared for the next."""
  with checkpoint.Run(tmp_path, config='one') as run:
    run.save(1, model(1), training(1))
    run.wait()
    assert run.latest(model(0), training(0)).step == 1
  with checkpoint.Run(tmp_path, config='two') as run:
    with pytest.raises(core.UserError, match='1 was saved by .* another conf'):
      run.latest(model(0), training(0))


@pytest.mark.parametrize('path', ['/proc/kt_jax', 'file', 'file/below'])
def test_workdir_that_cannot_be_written(tmp_path, path):
  (tmp_path / 'file').write_text('')
  with pytest.raises(core.UserError, match='--workdir .* cannot be written'):
    checkpoint.open_workdir(tmp_path / path, CONFIG)


def test_run_where_nothing_can_be_written():
  with pytest.raises(core.UserError, match='Cannot write a checkpoint'):
    checkpoint.Run(pathlib.Path('/proc/kt_jax'))


def test_relative_workdir_is_resolved(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  found = checkpoint.open_workdir('here', CONFIG)
  assert found == (tmp_path / 'here').resolve()


def test_later_changes_of_the_loop_are_not_written(tmp_path):
  """Saving goes on in another thread; later changes must not reach it."""
  log = dict(count=1, sums={'loss': 1.0})
  with checkpoint.Run(tmp_path) as run:
    for step in range(1, 6):
      run.save(step, model(step), training(step), log=log)
      log['count'] += 1
      log['sums'] = {'loss': float(step)}
    run.wait()
    assert run.latest(model(0), training(0)).meta['log']['count'] == 5
