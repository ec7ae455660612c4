"""Training from teachers on digits, end to end, tiny; generations, compare."""
import dataclasses
import json

import jax
import numpy as np
import pytest

from experiments import compare
from experiments import generations
from kt_jax import checkpoint
from kt_jax import core
from kt_jax import data
from kt_jax import models
from kt_jax import train
from kt_jax.train import session as sessions

TASK = train.LossTerm('cross_entropy')
KD = train.LossTerm('kd', teacher='teacher')
PREVIOUS = train.LossTerm('kd', teacher='previous', kw=dict(temperature=1.0))


def mlp(width):
  return dict(name='mlp', kw=dict(width=width, depth=1))


def small(**kw):
  return train.Training(
      data=data.Images(subset=60, validation=20, test_limit=50),
      model=train.Model(**mlp(8)), batch=train.Batch(16),
      loop=train.Loop(steps=4, log_every=2),
      evaluate=train.Evaluation(batch_size=16), **kw)


PLAIN = small(
    terms=dict(task=TASK, kd=KD),
    teachers=dict(teacher=train.Teacher('teacher')),
    pool=dict(teacher=train.Pretrained(dict(model=mlp(12)))),
    pretrain=small(terms=dict(task=TASK)))


def change(**changes):
  return core.spec.change(PLAIN, changes)


def params(workdir):
  return checkpoint.read(workdir).model['params']


def card(workdir):
  return json.loads((workdir / 'card.json').read_text())


@pytest.fixture(scope='module')
def plain(tmp_path_factory):
  workdir = tmp_path_factory.mktemp('plain') / 'run'
  return workdir, train.run(PLAIN, workdir)


def test_leaves_a_run(plain):
  workdir, metrics = plain
  written = card(workdir)
  assert written['status'] == 'finished' and written['method'] == 'train'
  parent, = written['parents']
  assert parent['digest'] == train.load_trained(parent['source']).digest
  trained = train.load_trained(workdir)
  assert trained.digest == written['digest']
  assert metrics['parameters'] == sum(v.size for v in trained.params.values())
  assert metrics['trained_besides'] == 0
  assert train.run(PLAIN, workdir) == metrics  # finished: nothing runs


def test_metrics_against_the_teacher(plain):
  """By hand, from the logits that the run and its teacher leave."""
  workdir, metrics = plain
  with np.load(workdir / 'predictions.npz') as f:
    ours, labels = f['logits'], f['labels']
  t = train.load_trained(card(workdir)['parents'][0]['source'])
  test = data.load(PLAIN.data).test
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
  log_p = lambda z: z - np.log(np.exp(z).sum(-1, keepdims=True))
  z, t = log_p(ours.astype(float)), log_p(theirs.astype(float))
  assert metrics['teacher_kl'] == pytest.approx(
      (np.exp(t) * (t - z)).sum(-1).mean(), rel=1e-4)


def test_teacher_is_kept_for_others(plain, tmp_path, monkeypatch):
  """Another run with it trains a student, no teacher."""
  del plain
  sizes, make = [], sessions.make_session
  def spy(spec, *args, **kw):
    sizes.append(spec.model.kw['width'])
    return make(spec, *args, **kw)
  spec = change(terms=dict(kd=dict(weight=0.7)))
  train.check(spec)
  monkeypatch.setattr(sessions, 'make_session', spy)
  train.run(spec, tmp_path / 'run')
  assert sizes == [8]


@pytest.mark.parametrize('term,cache', [
    (KD, dict(top_k=9)),  # of ten classes: the last one follows
    (train.LossTerm('rkd_distance', teacher='teacher', taps='pool'), {})],
                         ids=['top_k', 'taps'])
def test_cache_is_the_teacher(plain, tmp_path, term, cache, monkeypatch):
  """With it no teacher is in memory, and the student is the same."""
  del plain
  live = change(terms=dict(kd=term), batch=dict(
      augment=dict(shift=dict(pixels=1))))
  cached = core.spec.change(live, dict(cache=dict(
      cache, views=2, dtype='float32', folder=str(tmp_path / 'cache'))))
  inputs, make = [], sessions.make_session
  def spy(*args, **kw):
    session = make(*args, **kw)
    inputs.append(session.inputs)
    return session
  monkeypatch.setattr(sessions, 'make_session', spy)
  opened = data.stream
  # The same views of the examples, and the teacher itself.
  monkeypatch.setattr(data, 'stream', lambda *a, **kw: opened(
      *a, **kw | dict(views=2)))
  train.run(live, tmp_path / 'live')
  train.run(cached, tmp_path / 'cached')
  assert inputs[0].constants['networks']
  assert not inputs[-1].constants['networks']
  want, got = params(tmp_path / 'live'), params(tmp_path / 'cached')
  for name in want:
    np.testing.assert_allclose(got[name], want[name], rtol=1e-4, atol=1e-5)
  times = lambda: {f: f.stat().st_mtime_ns
                   for f in (tmp_path / 'cache').glob('teacher-*/*')}
  before = times()
  train.run(cached, tmp_path / 'again')
  assert before and times() == before
  again = params(tmp_path / 'again')
  for name in got:
    np.testing.assert_array_equal(again[name], got[name])


# Memory bank, average, a teacher that learns, the optimizer of another.
ALL = change(
    train=dict(ema=0.9), loop=dict(steps=6, save_every=2, keep=3),
    teachers=dict(peer=train.Teacher(kind='online',
                                     model=train.Model(**mlp(6))),
                  mean=train.Teacher(kind='average')),
    modules=dict(memory=train.Module('ContrastiveMemory',
                                     dict(negatives=8, width=4))),
    optimizers=dict(peer=train.Optimizer('adam', 0.01)),
    terms=dict(
        peer=train.LossTerm('kd', student='peer', teacher='student'),
        mean=train.LossTerm('kd', teacher='mean'),
        crd=train.LossTerm('crd', teacher='teacher', taps='pool',
                           module='memory')))


def test_resume_is_exact(tmp_path, monkeypatch):
  """Bit for bit, with all the state that a run can have."""
  train.run(ALL, tmp_path / 'whole')
  class Killed(Exception):
    pass
  make = sessions.make_session
  def dying(*args, **kw):
    session = make(*args, **kw)
    def step(state, batch, inputs):
      if int(state.step) == 5:
        raise Killed
      return session.step(state, batch, inputs)
    return session._replace(step=step)
  with monkeypatch.context() as patch:
    patch.setattr(sessions, 'make_session', dying)
    with pytest.raises(Killed):
      train.run(ALL, tmp_path / 'cut')
  train.run(ALL, tmp_path / 'cut')
  meta = lambda name: checkpoint.read(tmp_path / name, 6).meta
  assert meta('cut')['training'] == meta('whole')['training']
  assert meta('cut')['model'] == meta('whole')['model']
  read = lambda name: (tmp_path / name / 'metrics.jsonl').read_text()
  assert read('cut') == read('whole')


def test_online_teacher_that_was_trained(tmp_path):
  metrics = train.run(change(
      teachers=dict(teacher=dict(kind='online')),
      terms=dict(kd=dict(updates=('student', 'teacher')))), tmp_path / 'run')
  assert metrics['trained_besides'] == 64 * 12 + 12 + 12 * 10 + 10
  assert 0 <= metrics['teacher_accuracy'] <= 1


def turns(**kw):
  """Students in turn, each the teacher of the next."""
  return generations.Spec(**vars(PLAIN) | dict(
      experiment='generations', terms=dict(task=TASK, kd=PREVIOUS),
      teachers={}, pool={}, generations=generations.Generations(**kw)))


def test_generations(tmp_path):
  spec = turns(count=3)
  metrics = generations.run(spec, tmp_path / 'run')
  assert metrics['accuracy'] == metrics['accuracy_2']
  assert 0 <= metrics['accuracy_ensemble'] <= 1
  of = lambda i: tmp_path / f'run/generation_{i}'
  assert not card(of(0))['parents']
  for i in (1, 2):
    parent, = card(of(i))['parents']
    assert parent['source'].endswith(f'generation_{i - 1}')
    assert parent['digest'] == card(of(i - 1))['digest']
  seeds = {json.loads((of(i) / 'config.json').read_text())['seed']
           for i in range(3)}
  assert len(seeds) == 3
  assert [r.name for r in generations.check(spec)] == ['mlp', 'mlp']


def test_label_weight_is_the_best_of_a_grid(tmp_path):
  """Of kernel regressions on the features of the last generation."""
  spec = turns(count=2, label='task', teacher='kd', ridge=0.1)
  metrics = generations.run(spec, tmp_path / 'run')
  share = metrics['label_weight_1']
  t = train.load_trained(tmp_path / 'run/generation_0')
  splits = data.load(spec.data)
  def outputs(arrays):
    out = models.apply(t.net, t.params, t.stats, data.normalize(
        arrays.images, t.info.mean, t.info.std), taps=('pool',))
    return (np.asarray(out.features['pool'], np.float64),
            np.asarray(jax.nn.softmax(out.logits), np.float64))
  (f, fitted), (g, _) = outputs(splits.train), outputs(splits.validation)
  scale, hot = np.mean(np.sum(f * f, -1)), np.eye(10)
  solve = g @ f.T @ np.linalg.inv(f @ f.T + 0.1 * scale * np.eye(len(f)))
  def error(a):
    target = a * hot[splits.train.labels] + (1 - a) * fitted
    return np.sum((solve @ target - hot[splits.validation.labels])**2)
  grid = np.linspace(0, 1, 1001)
  best = grid[np.argmin([error(a) for a in grid])]
  assert share == pytest.approx(best, abs=1e-3)
  terms = json.loads((tmp_path / 'run/generation_1/config.json').read_text()
                     )['terms']
  assert terms['task']['weight'] == share
  assert terms['kd']['weight'] == 1 - share


def test_teacher_with_nan_is_named(plain, tmp_path):
  workdir, _ = plain
  t = train.load_trained(card(workdir)['parents'][0]['source'])
  poisoned = t.params | {'head/bias': t.params['head/bias'] * np.nan}
  with checkpoint.Run(tmp_path / 'bad', keep=1) as saver:
    saver.save(4, dict(params=poisoned, stats=t.stats), dict(step=4))
  checkpoint.write_json(tmp_path / 'bad/card.json', t.card() | dict(step=4))
  spec = change(teachers=dict(teacher=dict(init_from=str(tmp_path / 'bad'))))
  with pytest.raises(core.UserError, match='logits of teacher teacher .*bad'):
    train.run(spec, tmp_path / 'run')


def test_cache_of_another_is_refused(tmp_path):
  splits = data.load(PLAIN.data)
  outputs = lambda batch: dict(logits=np.ones((len(batch['images']), 10),
                                              np.float32))
  write = lambda digest: data.write_cache(
      tmp_path / 'cache', outputs, splits.train, batch_size=16,
      key=dict(teacher=digest, data=splits.info.fingerprint))
  write('a')
  write('a')
  with pytest.raises(core.UserError, match='teacher'):
    write('b')


@pytest.mark.parametrize('changes,message', [
    (dict(cache=dict(views=1), batch=dict(mixup=0.5)), 'mixup'),
    (dict(cache=dict(views=-1)), 'views'),
    (dict(cache=dict(views=1), teachers=dict(
        teacher=dict(permute_logits=0.1))), 'permute_logits needs'),
    (dict(evaluate=dict(cka=(('pool', 'poll'),))), "'pool'"),
    (dict(targets=dict(teacher_aspects='image_aspect')), 'image_aspects'),
    (dict(bilevel=dict(module='m')), 'module'),
], ids=lambda x: x if isinstance(x, str) else '')
def test_refuses(changes, message):
  with pytest.raises(core.UserError, match=message):
    train.check(change(**changes))


@pytest.mark.parametrize('settings,message', [
    (dict(count=2, label='tsak', teacher='kd'), "'task'"),
    (dict(count=2, label='task'), 'set both or neither'),
    (dict(count=0), 'from 1 on, got 0'),
    (dict(first=('tsak',)), "'task'"),
], ids=lambda x: x if isinstance(x, str) else '')
def test_refuses_generations(settings, message):
  with pytest.raises(core.UserError, match=message):
    generations.check(turns(**settings))


def test_compare(tmp_path):
  spec = compare.Spec(
      run=PLAIN, seeds=(0, 1, 2), baseline='label',
      arms=dict(label=compare.Arm(('task',)), kd=compare.Arm(('task', 'kd')),
                wide=compare.Arm(changes=dict(model=mlp(9)))),
      claims=dict(kd=compare.Claim('kd', 'label'),
                  same=compare.Claim('kd', 'kd', margin=-0.01),
                  more=compare.Claim('wide', 'label', 'parameters'),
                  differ=compare.Claim('kd', 'label', above=('kd', 'label'))))
  assert compare.check(spec)
  table = compare.run(spec, tmp_path / 'w')['table']
  verdict = {line.split('|')[1].strip(): line.split('|')[-2].strip()
             for line in table.splitlines() if line.startswith('|')}
  assert verdict['same'] == verdict['more'] == 'holds'
  assert verdict['differ'] == 'undecided'
  accuracy = {(a, s): card(tmp_path / f'w/runs/{a}-{s}')['metrics']['accuracy']
              for a in spec.arms for s in spec.seeds}
  gap = np.array([accuracy['kd', s] - accuracy['label', s]
                  for s in spec.seeds])
  line = next(x for x in table.splitlines() if x.startswith('| kd '))
  assert f'{gap.mean():+.4f} +- {gap.std(ddof=1) / 3**0.5:.4f}' in line
  assert table in (tmp_path / 'w/report.md').read_text()
  wrong = core.spec.change(spec, dict(claims=dict(kd=dict(better='kdd'))))
  with pytest.raises(core.UserError, match="'kd'"):
    compare.check(wrong)


def test_arm_keeps_what_its_terms_need():
  spec = compare.Spec(run=ALL, arms=dict(
      crd=compare.Arm(('task', 'crd')),
      peer=compare.Arm(('task', 'kd', 'peer'))))
  crd, peer = (compare.arm_spec(spec, name, 5) for name in ('crd', 'peer'))
  assert set(crd.modules) == {'memory'} and not peer.modules
  assert 'peer' not in crd.teachers and 'peer' in peer.teachers
  assert not crd.optimizers and set(peer.optimizers) == {'peer'}
  assert crd.seed == peer.seed == 5
  assert dataclasses.replace(spec.run, seed=5, terms=crd.terms,
                             teachers=crd.teachers, optimizers={}) == crd
