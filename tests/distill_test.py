"""The protocol `distill` on digits, end to end, tiny."""
import json

import jax
import numpy as np
import pytest

from configs import common
from experiments import compare
from experiments import distill
from kt_jax import checkpoint
from kt_jax import core
from kt_jax import data
from kt_jax import models
from kt_jax import train


def config(**terms):
  c = common.distill()
  c.data = common.data('digits', subset=60, validation=20, test_limit=50)
  c.pretrain.data = c.data
  for part in (c, c.pretrain):
    part.model = dict(name='mlp', kw=dict(width=8, depth=1))
    part.batch.size = part.eval_batch_size = 16
    part.loop.update(steps=4, log_every=2, save_every=0)
  c.pretrain.terms.task = common.term('cross_entropy')
  c.teachers.teacher = common.teacher(changes=dict(
      model=dict(name='mlp', kw=dict(width=12, depth=1))))
  c.terms.task = common.term('cross_entropy')
  c.terms.kd = common.term('kd', teacher='teacher')
  c.terms.update(terms)
  return c


def params(workdir):
  return {k: np.asarray(v) for k, v in
          checkpoint.read(workdir).model['params'].items()}


@pytest.fixture(scope='module')
def plain(tmp_path_factory):
  workdir = tmp_path_factory.mktemp('plain') / 'run'
  return workdir, distill.run(config(), workdir)


def test_leaves_a_run(plain):
  workdir, metrics = plain
  card = json.loads((workdir / 'card.json').read_text())
  assert card['status'] == 'finished' and card['method'] == 'distill'
  assert len(card['parents']) == 1 and card['parents'][0]['digest']
  found = train.load_trained(workdir)
  assert found.digest == card['digest']
  assert metrics['parameters'] == sum(v.size for v in found.params.values())
  assert metrics['trained_besides'] == 0
  assert distill.run(config(), workdir) == metrics  # finished: nothing runs


def test_metrics_against_the_teacher(plain):
  """By hand, from the logits that the run and its teacher leave."""
  workdir, metrics = plain
  with np.load(workdir / 'predictions.npz') as f:
    ours, labels = f['logits'], f['labels']
  source = json.loads((workdir / 'card.json').read_text())['parents'][0]
  t = train.load_trained(source['source'])
  test = data.load(config().data).test
  theirs = np.asarray(train.make_predict(t.net, t.info)(
      t.params, t.stats, test.images))
  right = lambda z: z.argmax(-1) == labels
  assert metrics['teacher_accuracy'] == pytest.approx(right(theirs).mean())
  assert metrics['teacher_agreement'] == pytest.approx(
      (ours.argmax(-1) == theirs.argmax(-1)).mean())
  assert metrics['teacher_positive_flips'] == pytest.approx(
      (right(ours) & ~right(theirs)).mean())
  assert metrics['teacher_negative_flips'] == pytest.approx(
      (~right(ours) & right(theirs)).mean())
  assert metrics['top5_accuracy'] == pytest.approx(np.mean(
      [y in np.argsort(-z)[:5] for z, y in zip(ours, labels)]))


def test_teacher_is_kept_for_others(plain, tmp_path, monkeypatch):
  del plain
  monkeypatch.setattr(distill.pool.pretrain, 'supervised', None)
  distill.run(config(), tmp_path / 'run')


@pytest.mark.parametrize('taps', [(), 'pool'])
def test_cache_is_the_teacher(plain, tmp_path, taps, monkeypatch):
  """With it no teacher is in memory, and the student is the same."""
  c = config()
  if taps:
    c.terms.kd = common.term('rkd_distance', teacher='teacher', taps=taps)
  c.cache.update(views=2, dtype='float32', folder=str(tmp_path / 'cache'))
  c.batch.augment.shift = dict(pixels=1)
  live = config()
  live.terms, live.batch = c.terms, c.batch
  sessions, make = [], train.make_stage_session
  def spy(*args, **kw):
    sessions.append(make(*args, **kw))
    return sessions[-1]
  monkeypatch.setattr(train, 'make_stage_session', spy)
  opened = data.stream
  # The same views of the examples, and the teacher itself.
  monkeypatch.setattr(data, 'stream', lambda *a, **kw: opened(
      *a, **kw | dict(views=2)))
  distill.run(live, tmp_path / 'live')
  distill.run(c, tmp_path / 'cached')
  assert sessions[0][0].settings.frozen['networks']
  assert not sessions[-1][0].settings.frozen['networks']
  want, found = params(tmp_path / 'live'), params(tmp_path / 'cached')
  for name in want:
    np.testing.assert_allclose(found[name], want[name], rtol=1e-4, atol=1e-5)
  files = sorted((tmp_path / 'cache').rglob('*'))
  distill.run(c, tmp_path / 'again')
  assert sorted((tmp_path / 'cache').rglob('*')) == files
  other = params(tmp_path / 'again')
  for name in found:
    np.testing.assert_array_equal(other[name], found[name])


def everybody():
  """Memory bank, average, a teacher that learns, another's optimiser."""
  c = config()
  c.train.ema = 0.9
  c.teachers.peer = common.teacher(
      'online', model=dict(name='mlp', kw=dict(width=6, depth=1)))
  c.teachers.mean = common.teacher('average')
  c.modules.memory = common.module('ContrastiveMemory', negatives=8, width=4)
  c.optimizers.peer = common.optimizer('adam', 0.01)
  c.terms.peer = common.term('kd', learner='peer', teacher='student')
  c.terms.mean = common.term('kd', teacher='mean')
  c.terms.crd = common.term('crd', teacher='teacher', taps='pool',
                            module='memory')
  c.loop.update(steps=6, save_every=2, keep=3)
  return c


def test_resume_is_exact(tmp_path):
  """Bit for bit, with all the state that a stage can have."""
  c = everybody()
  distill.run(c, tmp_path / 'whole')
  class Killed(Exception):
    pass
  def kill(state, batch, settings):
    if int(state.step) == 5:
      raise Killed
    return step(state, batch, settings)
  make, step = train.make_stage_session, None
  def dying(*args, **kw):
    nonlocal step
    session, *rest = make(*args, **kw)
    step = session.step
    return session._replace(step=kill), *rest
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(distill, 'check_one', lambda c: [])
    patch.setattr(train, 'make_stage_session', dying)
    with pytest.raises(Killed):
      distill.run(c, tmp_path / 'cut')
  distill.run(c, tmp_path / 'cut')
  meta = lambda name: checkpoint.read(tmp_path / name, 6).meta
  assert meta('cut')['training'] == meta('whole')['training']
  assert meta('cut')['model'] == meta('whole')['model']
  read = lambda name: (tmp_path / name / 'metrics.jsonl').read_text()
  assert read('cut') == read('whole')


def test_online_teacher_that_was_trained(tmp_path):
  c = config()
  c.teachers.teacher.kind = 'online'
  c.terms.kd.trains = ('student', 'teacher')
  metrics = distill.run(c, tmp_path / 'run')
  assert metrics['trained_besides'] == 64 * 12 + 12 + 12 * 10 + 10
  assert 0 <= metrics['teacher_accuracy'] <= 1


def test_generations(tmp_path):
  c = config()
  del c.teachers.teacher
  c.generations.count = 3
  c.terms.kd = common.term('kd', teacher='previous', temperature=1.0)
  metrics = distill.run(c, tmp_path / 'run')
  assert metrics['accuracy'] == metrics['accuracy_2']
  for i in (1, 2):
    card = json.loads(
        (tmp_path / f'run/generation_{i}/card.json').read_text())
    assert card['parents'][0]['source'].endswith(f'generation_{i - 1}')
  seeds = {json.loads((tmp_path / f'run/generation_{i}/config.json')
                      .read_text())['seed'] for i in range(3)}
  assert len(seeds) == 3
  distill.check(c)


def test_label_weight_is_the_best_of_a_grid(tmp_path):
  """Of kernel regressions on the last generation's features."""
  c = config()
  c.generations.update(count=2, label='task', teacher='kd', ridge=0.1)
  del c.teachers.teacher
  c.terms.kd = common.term('kd', teacher='previous', temperature=1.0)
  metrics = distill.run(c, tmp_path / 'run')
  share = metrics['label_weight_1']
  t = train.load_trained(tmp_path / 'run/generation_0')
  splits = data.load(c.data)
  def seen(arrays):
    out = models.apply(t.net, t.params, t.stats, data.normalize(
        arrays.images, t.info.mean, t.info.std), taps=('pool',))
    return (np.asarray(out.features['pool'], np.float64),
            np.asarray(jax.nn.softmax(out.logits), np.float64))
  (f, fitted), (g, _) = seen(splits.train), seen(splits.validation)
  scale, hot = np.mean(np.sum(f * f, -1)), np.eye(10)
  solve = g @ f.T @ np.linalg.inv(f @ f.T + 0.1 * scale * np.eye(len(f)))
  def error(a):
    target = a * hot[splits.train.labels] + (1 - a) * fitted
    return np.sum((solve @ target - hot[splits.validation.labels])**2)
  grid = np.linspace(0, 1, 1001)
  best = grid[np.argmin([error(a) for a in grid])]
  assert share == pytest.approx(best, abs=1e-3)


def test_nan_teacher_is_told(plain, tmp_path):
  workdir, _ = plain
  t = train.load_trained(json.loads(
      (workdir / 'card.json').read_text())['parents'][0]['source'])
  poisoned = t.params | {'head/bias': t.params['head/bias'] * np.nan}
  with checkpoint.Run(tmp_path / 'bad', keep=1) as saver:
    saver.save(4, dict(params=poisoned, stats=t.stats), dict(step=4))
  checkpoint.write_json(tmp_path / 'bad/card.json', t.card() | dict(step=4))
  c = config()
  c.teachers.teacher.checkpoint = str(tmp_path / 'bad')
  with pytest.raises(core.UserError, match='logits of teacher teacher .*bad'):
    distill.run(c, tmp_path / 'run')


def test_cache_of_another_is_refused(plain, tmp_path):
  splits = data.load(config().data)
  say = lambda images: dict(logits=np.ones((len(images), 10), np.float32))
  write = lambda digest: data.write_cache(
      tmp_path / 'cache', say, splits.train, batch_size=16,
      key=dict(teacher=digest, data=splits.info.fingerprint))
  write('a')
  write('a')
  with pytest.raises(core.UserError, match='teacher'):
    write('b')


@pytest.mark.parametrize('change, says', [
    (dict(cache=dict(views=1), batch=dict(mixup=0.5)), 'mixup'),
    (dict(cache=dict(views=-1)), 'views'),
    (dict(cka=(('pool', 'poll'),)), "'pool'"),
    (dict(targets=dict(teacher_aspects='image_aspect')), 'image_aspects'),
    (dict(bilevel=dict(module='m')), 'module'),
    (dict(generations=dict(count=2, label='tsak', teacher='kd')), "'task'"),
], ids=lambda x: x if isinstance(x, str) else '')
def test_bad_config(change, says, tmp_path):
  c = config()
  c.update(change)
  with pytest.raises(ValueError, match=says):
    distill.check(c)
    distill.run(c, tmp_path / 'run')


def test_compare(tmp_path):
  c = common.compare(config())
  c.arms.label, c.arms.kd = common.arm('task'), common.arm('task', 'kd')
  c.arms.wide = common.arm('task', model=dict(name='mlp', kw=dict(width=9)))
  c.seeds, c.baseline = (0, 1, 2), 'label'
  c.claims.kd = common.claim('kd', 'label')
  c.claims.same = common.claim('kd', 'kd', margin=-0.01)
  c.claims.more = common.claim('wide', 'label', 'parameters')
  c.claims.differ = common.claim('kd', 'label', above=('kd', 'label'))
  assert compare.check(c)
  table = compare.run(c, tmp_path / 'w')['table']
  verdict = {line.split('|')[1].strip(): line.split('|')[-2].strip()
             for line in table.splitlines() if line.startswith('|')}
  assert verdict['same'] == verdict['more'] == 'holds'
  assert verdict['differ'] == 'undecided'
  found = {(a, s): json.loads(
      (tmp_path / f'w/runs/{a}-{s}/card.json').read_text())['metrics']
           for a in c.arms for s in c.seeds}
  gap = np.array([found['kd', s]['accuracy'] - found['label', s]['accuracy']
                  for s in c.seeds])
  line = next(x for x in table.splitlines() if x.startswith('| kd '))
  assert f'{gap.mean():+.4f} +- {gap.std(ddof=1) / 3**0.5:.4f}' in line
  assert table in (tmp_path / 'w/report.md').read_text()
  c.claims.kd.better = 'kdd'
  with pytest.raises(core.UserError, match="'kd'"):
    compare.check(c)


def test_arm_keeps_what_its_terms_need():
  c = common.compare(everybody())
  c.arms.crd = common.arm('task', 'crd')
  c.arms.peer = common.arm('task', 'kd', 'peer')
  assert set(compare.arm_config(c, 'crd', 0).modules) == {'memory'}
  assert not compare.arm_config(c, 'peer', 0).modules
  assert 'peer' not in compare.arm_config(c, 'crd', 0).teachers
  assert 'peer' in compare.arm_config(c, 'peer', 0).teachers
  assert compare.arm_config(c, 'peer', 5).seed == 5
