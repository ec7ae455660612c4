"""An interrupted run ends as one that was not: bit for bit."""
import json
import logging
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys

import interrupted
import jax
from jax import numpy as jnp
import numpy as np
from orbax import checkpoint as ocp
import pytest

from experiments import evaluate
from kt_jax import checkpoint
from kt_jax import core
from kt_jax import train

# Orbax leaves coroutines behind when a file is damaged.
pytestmark = pytest.mark.filterwarnings(
    'ignore::pytest.PytestUnraisableExceptionWarning')
STEPS, SAVE = interrupted.STEPS, interrupted.SAVE


def launch(workdir, how='none', step=0, timeout=150):
  """The run as a process; `(status, stderr)`."""
  done = subprocess.run(
      [sys.executable, interrupted.__file__, str(workdir), how, str(step)],
      capture_output=True, text=True, timeout=timeout, check=False)
  return done.returncode, done.stderr


def outcome(workdir):
  """All that a finished run leaves, without times and paths."""
  workdir = pathlib.Path(workdir)
  card = json.loads((workdir / 'card.json').read_text())
  meta = checkpoint.read(workdir, STEPS).meta
  with np.load(workdir / 'predictions.npz') as file:
    predictions = {k: file[k].tobytes() for k in file}
  return dict(
      meta=meta,  # digests of parameters, statistics, average, optimizer
      metrics=(workdir / 'metrics.jsonl').read_text(),
      predictions=predictions, step=card['step'], digest=card['digest'],
      scores=card['metrics'], status=card['status'],
      left=sorted(p.name for p in (workdir / 'checkpoints').iterdir()))


@pytest.fixture(scope='module', autouse=True)
def sessions():
  """Runs of one spec in this process trace their step once."""
  known, make = {}, train.session.make_session

  def make_session(spec, *args, **kw):
    key = json.dumps(core.spec.to_json(spec), sort_keys=True)
    if key not in known:
      known[key] = make(spec, *args, **kw)
    return known[key]
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(train.session, 'make_session', make_session)
    yield


@pytest.fixture(scope='module', autouse=True)
def cache():
  before = jax.config.jax_compilation_cache_dir
  least = jax.config.jax_persistent_cache_min_compile_time_secs
  interrupted.use_cache()
  yield
  jax.config.update('jax_compilation_cache_dir', before)
  jax.config.update('jax_persistent_cache_min_compile_time_secs', least)


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
  """The workdir of a run that nothing interrupted; it keeps all."""
  workdir = tmp_path_factory.mktemp('runs') / 'whole'
  interrupted.run(workdir)
  return workdir


def test_reference_run_exercises_what_it_should(whole):
  result = outcome(whole)
  rows = train.read_metrics(whole / 'metrics.jsonl')
  assert [(r['step'], r['split']) for r in rows[:-1]] == [
      (4, 'validation'), (5, 'train'), (8, 'validation'), (10, 'train'),
      (12, 'train'), (12, 'validation')]
  assert rows[-1]['split'] == 'test'
  scores = {r['step']: r['accuracy'] for r in rows
            if r['split'] == 'validation'}
  best = max(scores.values())
  assert result['step'] == max(s for s, v in scores.items() if v == best)
  assert rows[-1]['step'] == result['step']
  assert result['meta']['data_state'] == {'next_index': STEPS}
  assert (whole / 'tensorboard').is_dir() and (whole / 'curves.png').exists()
  assert {'accuracy', 'peer_accuracy', 'trained_besides'} <= set(
      result['scores'])
  # Everything with a state moves to the end.
  states = [core.flatten(ocp.PyTreeCheckpointHandler().restore(
      whole / 'checkpoints' / str(step) / 'training'))
            for step in (2 * SAVE, STEPS)]
  moving = {n for n in states[0] if np.any(states[0][n] != states[1][n])}
  for part in ('params/student/head', 'params/peer/head', 'params/memory/',
               'stats/student/', 'stats/peer/', 'stats/memory/student_bank',
               'opt_state'):
    assert any(part in n for n in moving), part
  assert not any('_z' in n for n in moving)  # fixed by the first batch


def test_kill_9_in_a_process_of_its_own(whole, tmp_path):
  """The same command twice; the first is killed at a random step."""
  seed = random.SystemRandom().randrange(2**32)
  step = random.Random(seed).randint(SAVE + 1, STEPS)
  print(f'killed at the batch of step {step} (seed {seed})')
  status, stderr = launch(tmp_path / 'a', 'kill', step)
  assert status == -signal.SIGKILL, stderr
  assert not (tmp_path / 'a' / 'predictions.npz').exists()
  status, stderr = launch(tmp_path / 'a')
  assert status == 0, stderr
  assert outcome(tmp_path / 'a') == outcome(whole)


@pytest.mark.parametrize('step', [SAVE, 2 * SAVE, STEPS])
def test_kill_9_in_the_middle_of_a_save(whole, tmp_path, step):
  status, stderr = launch(tmp_path / 'a', 'kill_save', step)
  assert status == -signal.SIGKILL, stderr
  names = [p.name for p in (tmp_path / 'a' / 'checkpoints').iterdir()]
  assert str(step) not in names
  assert any(n.startswith(f'{step}.') for n in names), names  # half written
  interrupted.run(tmp_path / 'a')
  assert outcome(tmp_path / 'a') == outcome(whole)  # nothing half written left


def test_sigterm_saves_and_resumes(whole, tmp_path):
  """At a step where neither a row nor a checkpoint is due."""
  status, stderr = launch(tmp_path / 'a', 'term', 7)
  assert status == 143, stderr
  assert 'SIGTERM at step 7: saved' in stderr
  assert (tmp_path / 'a' / 'checkpoints' / '7').is_dir()
  interrupted.run(tmp_path / 'a')
  assert outcome(tmp_path / 'a') == outcome(whole)


def test_full_disk(whole, tmp_path):
  """One clear line; the checkpoint before is intact and the run goes on."""
  status, stderr = launch(tmp_path / 'a', 'full', SAVE + 2)
  lines = [x for x in stderr.splitlines() if x.startswith('error: ')]
  assert status == 2 and len(lines) == 1, stderr
  assert 'Cannot write' in lines[0] and f'step {SAVE} is intact' in lines[0]
  assert checkpoint.read(tmp_path / 'a').step == SAVE
  interrupted.run(tmp_path / 'a')
  assert outcome(tmp_path / 'a') == outcome(whole)


@pytest.fixture(scope='module')
def stopped(tmp_path_factory):
  """The workdir of a run that Ctrl-C stopped; it has checkpoints 4 and 8."""
  workdir = tmp_path_factory.mktemp('runs') / 'stopped'

  def stop():
    raise KeyboardInterrupt
  undo = interrupted.at_batch(2 * SAVE + 1, stop)
  try:
    with pytest.raises(KeyboardInterrupt):
      interrupted.run(workdir)
  finally:
    undo()
  assert steps_in(workdir) == [SAVE, 2 * SAVE]
  return workdir


def steps_in(workdir):
  return sorted(int(p.name) for p in (workdir / 'checkpoints').iterdir())


def biggest(folder):
  return max((p for p in folder.rglob('*') if p.is_file()),
             key=lambda p: p.stat().st_size)


def cut(path):
  os.truncate(path, path.stat().st_size // 2)


def flip(path):
  content = bytearray(path.read_bytes())
  content[len(content) // 2] ^= 1
  path.write_bytes(bytes(content))


@pytest.mark.parametrize('damage,place', [
    (cut, 'training/d'), (pathlib.Path.unlink, 'training/d'),
    (flip, 'training/d'), (flip, 'model/d'), (flip, 'meta')])
def test_damaged_newest_checkpoint(
    whole, stopped, tmp_path, caplog, damage, place):
  workdir = tmp_path / 'a'
  shutil.copytree(stopped, workdir)
  newest = workdir / 'checkpoints' / str(2 * SAVE)
  damage(biggest(newest / place))
  with caplog.at_level(logging.WARNING, 'kt_jax'):
    interrupted.run(workdir)
  (record,) = [r for r in caplog.records if r.name == 'kt_jax']
  assert str(newest) in record.getMessage()
  assert 'Skipping' in record.getMessage()
  assert outcome(workdir) == outcome(whole)


def test_no_checkpoint_is_whole(stopped, tmp_path):
  workdir = tmp_path / 'a'
  shutil.copytree(stopped, workdir)
  for folder in (workdir / 'checkpoints').iterdir():
    cut(biggest(folder / 'training' / 'd'))
  with pytest.raises(core.UserError, match=r'No checkpoint .* is whole'):
    interrupted.run(workdir)
  assert steps_in(workdir) == [SAVE, 2 * SAVE]  # nothing was thrown away


@pytest.mark.parametrize('experiment', ['evaluate', 'train'])
def test_flipped_bit_is_not_evaluated_or_trained_on(
    whole, tmp_path, experiment):
  shutil.copytree(whole, tmp_path / 'a')
  step = outcome(whole)['step']
  flip(biggest(tmp_path / 'a' / 'checkpoints' / str(step) / 'model' / 'd'))
  start = str(tmp_path / 'a')
  with pytest.raises(core.UserError, match='damaged'):
    if experiment == 'evaluate':
      evaluate.run(evaluate.Spec(checkpoint=start), tmp_path / 'b')
    else:
      train.run(interrupted.single(init_from=start), tmp_path / 'b')


def test_evaluate_repeats_the_metrics_of_the_run(whole, tmp_path):
  metrics = evaluate.run(evaluate.Spec(checkpoint=str(whole)), tmp_path / 'b')
  want = outcome(whole)['scores']
  assert metrics['accuracy'] == want['accuracy']
  np.testing.assert_allclose(metrics['nll'], want['nll'], rtol=1e-5)
  card = json.loads((tmp_path / 'b' / 'card.json').read_text())
  assert card['parents'][0]['digest'] == outcome(whole)['digest']


def test_other_config_is_refused_by_key(stopped, tmp_path):
  shutil.copytree(stopped, tmp_path / 'a')
  for key, change in {
      'optimizer.learning_rate': dict(optimizer=dict(learning_rate=0.2)),
      'optimizers.peer.name': dict(optimizers=dict(peer=dict(name='sgd'))),
      'loop.steps': dict(loop=dict(steps=20)), 'seed': dict(seed=1),
      'model.kw.dropout': dict(model=dict(kw=dict(dropout=0.1))),
      'terms.crd.weight': dict(terms=dict(crd=dict(weight=0.4))),
      'modules.memory.kw.negatives': dict(modules=dict(memory=dict(
          kw=dict(negatives=8))))}.items():
    with pytest.raises(core.UserError, match='another config') as e:
      interrupted.run(tmp_path / 'a', **change)
    assert f'({key} was' in str(e.value)
  assert steps_in(tmp_path / 'a') == [SAVE, 2 * SAVE]


def test_resumes_on_another_mesh(stopped, whole, tmp_path):
  """Saved on one device; goes on on a mesh of (4, 2), near enough."""
  want = {k: np.asarray(v) for k, v in
          checkpoint.read(whole, STEPS).model['params'].items()}
  shutil.copytree(stopped, tmp_path / 'a')
  interrupted.run(tmp_path / 'a', mesh=dict(data=4, model=2))
  params = checkpoint.read(tmp_path / 'a', STEPS).model['params']
  for name, value in want.items():
    np.testing.assert_allclose(
        params[name], value, rtol=1e-4, atol=1e-4 * np.abs(value).max())


def test_finished_run_is_not_run_again(whole, monkeypatch):
  monkeypatch.setattr(train.session, 'make_session', None)
  assert interrupted.run(whole) == outcome(whole)['scores']


def test_killed_before_the_last_line(whole, tmp_path):
  """All is trained, the test row is written, the card is not."""
  shutil.copytree(whole, tmp_path / 'a')
  (tmp_path / 'a' / 'predictions.npz').unlink()
  path = tmp_path / 'a' / 'card.json'
  path.write_text(json.dumps(
      json.loads(path.read_text()) | dict(status='running')))
  interrupted.run(tmp_path / 'a')
  assert outcome(tmp_path / 'a') == outcome(whole)


def test_torn_row_of_metrics(whole, stopped, tmp_path):
  shutil.copytree(stopped, tmp_path / 'a')
  with (tmp_path / 'a' / 'metrics.jsonl').open('a') as file:
    file.write('{"step": 9, "spl')
  interrupted.run(tmp_path / 'a')
  assert outcome(tmp_path / 'a') == outcome(whole)


@pytest.mark.parametrize('place', ['/proc/kt_jax', 'file/below'])
def test_workdir_that_cannot_be_written(tmp_path, place):
  (tmp_path / 'file').write_text('')
  with pytest.raises(core.UserError, match='cannot be written'):
    interrupted.run(tmp_path / place)


def nan_if_poisoned(student_logits, labels):
  """Cross entropy; NaN for the batch that is marked by a label below 0."""
  loss = -jnp.sum(jax.nn.log_softmax(student_logits) * labels, -1)
  return jnp.where(jnp.min(labels) < 0, jnp.nan, loss)


@pytest.mark.parametrize('log_every', [1, 5])
def test_nan_is_told_by_its_step(tmp_path, monkeypatch, log_every):
  """The step is exact though numbers are fetched once in `log_every` steps."""
  prepare_images = train.images.prepare_images

  def poisoned(*args, **kw):
    prepare = prepare_images(*args, **kw)
    def bad(batch, key):
      arrays = prepare(batch, key)['data']
      return {'data': arrays | {'labels': jnp.where(
          batch['step'][0] == 6, -1.0, arrays['labels'])}}
    return bad
  monkeypatch.setattr(train.images, 'prepare_images', poisoned)
  open_stream = train.open_stream

  class Stream:
    def __init__(self, stream):
      self._stream = stream
      self.get_state, self.set_state = stream.get_state, stream.set_state

    def __next__(self):
      batch = next(self._stream)
      at = self.get_state()['next_index']
      return batch | {'step': np.full(len(batch['labels']), at)}
  monkeypatch.setattr(train.image_run, 'open_stream',
                      lambda *args: Stream(open_stream(*args)))

  spec = interrupted.single(loop=dict(log_every=log_every), terms=dict(
      task=dict(loss=nan_if_poisoned)))
  with pytest.raises(core.UserError) as e:
    train.run(spec, tmp_path / 'a')
  assert ' is nan at step 6 of convnet' in str(e.value)
  assert f'Last good checkpoint: step {SAVE}.' in str(e.value)
  saved = checkpoint.read(tmp_path / 'a')
  assert saved.step == SAVE
  assert all(np.isfinite(v).all() for v in saved.model['params'].values())
  rows = train.read_metrics(tmp_path / 'a' / 'metrics.jsonl')
  assert all(np.isfinite(v) for r in rows for k, v in r.items() if k != 'split')
