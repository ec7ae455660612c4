"""The transfer protocol: one program, a cached pool, exact resume."""
import csv
import dataclasses
import shutil

import jax
import numpy as np
import pytest

from experiments import transfer
from experiments.transfer.student import load_pool
from experiments.transfer.student import Run
from experiments.transfer.student import Student
from kt_jax import core
from kt_jax import data
from kt_jax import train
from kt_jax.train import LossTerm


def tiny(pool_dir):
  one = train.Mesh(data=1)
  several = dict(teacher_logits='teachers_logits')
  def method(lr_scale=1.0, ema_share=0.0, ema_every=1, teachers=True,
             **weights):
    return transfer.Method(lr_scale, ema_share, ema_every, teachers, weights)
  return transfer.Spec(
      paper='roth2024fantastic',
      data=data.Images('digits', train='train[50%:]', validation=50,
                       test_limit=100),
      batch=transfer.Batch(32), evaluate=transfer.Evaluation(32), mesh=one,
      pretrain=train.Training(
          data=data.Images('digits', train='train[:50%]', validation=0,
                           test_limit=100),
          terms=dict(task=LossTerm('cross_entropy')),
          optimizer=train.Optimizer('adam', 1e-2),
          loop=train.Loop(10, log_every=0), mesh=one),
      pool={f'mlp{w}': train.Pretrained(dict(
          model=dict(name='mlp', kw=dict(width=w, depth=1))))
            for w in (8, 16, 32)}, pool_dir=str(pool_dir),
      terms=dict(
          xe=LossTerm('cross_entropy'),
          kl=LossTerm('kd', kw=dict(temperature=1.0)),
          dp=LossTerm('partitioned_kd', rename=several)),
      methods=dict(
          kl=method(kl=1.0), xe_kl_mcl=method(1.0, 0.6, 2, kl=0.3, xe=0.7),
          dp=method(dp=1.0), slow=method(0.25, xe=1.0, teachers=False),
          self=method(kl=1.0, teachers=False),
          xe=method(xe=1.0, teachers=False)),
      optimizer=train.Optimizer('sgd', 0.05), loop=transfer.Loop(6),
      multi=transfer.Multi('dp', 2), seeds=(0, 1), save=('dp',),
      report=transfer.Roles('dp', 'dp_unsupervised', 'kl', 'xe_kl_mcl', 'self'))


@pytest.fixture(scope='module')
def ran(tmp_path_factory):
  """`(config, workdir)` of a finished run."""
  home = tmp_path_factory.mktemp('transfer')
  config = tiny(home / 'pool')
  metrics = transfer.run(config, home / 'run')
  assert 'dp above kl' in metrics['table']
  return config, home / 'run'


def test_rows(ran):
  config, workdir = ran
  rows = (workdir / 'pairs.csv').read_text().splitlines()
  each_teacher = sum(m.teachers for m in config.methods.values())
  alone = len(config.methods) - each_teacher
  assert len(rows) == 1 + 2 * 3 * (2 * each_teacher + alone)
  multi = (workdir / 'multi.csv').read_text().splitlines()
  assert len(multi) == 1 + 2 * 3 * 5
  for name in ('report.md', 'complementary.png', 'delta.png', 'success.png'):
    assert (workdir / name).stat().st_size > 0


def test_resumes_exactly_and_reuses_the_pool(ran, tmp_path, monkeypatch):
  """A run that lost some of its parts comes to the same files."""
  config, workdir = ran
  again = shutil.copytree(workdir, tmp_path / 'again')
  for name in ('parts/mlp16-1.json', 'parts/mlp32-0.json', 'pairs.csv',
               'card.json'):
    (again / name).unlink()
  def never(*_, **__):
    raise AssertionError('the pool is there already')
  monkeypatch.setattr(train, 'fit', _only_transfer(train.fit, never))
  transfer.run(config, again)
  for name in ('pairs.csv', 'multi.csv', 'report.md'):
    assert (again / name).read_bytes() == (workdir / name).read_bytes(), name


def _only_transfer(fit, never):
  return lambda step, *args, **kw: (
      never() if kw.get('writer') else fit(step, *args, **kw))


@pytest.fixture(scope='module')
def student(ran, tmp_path_factory):
  config, _ = ran
  splits, folder = data.load(config.data), tmp_path_factory.mktemp('student')
  return Student(config, load_pool(config, splits, folder), 'mlp16', splits,
                 folder)


def test_one_program_for_all_runs_of_a_student(student):
  student.run(0)
  assert student.step._cache_size() == 1
  student.run(1)
  assert student.step._cache_size() == 1


def test_side_by_side_is_one_by_one(student):
  runs = [Run('dp', ('mlp8',)), Run('xe_kl_mcl', ('mlp32',)),
          Run('self', ()), Run('dp', ('mlp8', 'mlp32'))]
  fit = lambda runs: student.fit(student.start, runs, 0, '')
  together = fit(runs)
  for run in runs:
    jax.tree.map(np.testing.assert_array_equal, together[run],
                 fit([run])[run])


def test_vmapped_is_the_loop(student):
  vmapped = Student(
      dataclasses.replace(student.spec, vmap=True), student.pool, student.name,
      student.splits, student.workdir)
  runs = [Run('dp', ('mlp8',)), Run('kl', ('mlp32',)),
          Run('xe', ()), Run('dp', ('mlp8', 'mlp32'))]
  one, other = (s.fit(s.start, runs, 0, '')
                for s in (student, vmapped))
  for run in runs:
    jax.tree.map(lambda a, b: np.testing.assert_allclose(
        a, b, rtol=1e-4, atol=1e-6), one[run], other[run])


def test_methods_are_what_they_are_called(student):
  """A teacher that is the student: nothing to learn from it but itself."""
  fit = lambda runs: student.fit(student.start, runs, 0, '')
  found = fit([Run('self', ()), Run('dp', ('mlp8',)),
               Run('xe', ())])
  before = student.start[0]
  moved = {run.method: max(np.abs(after[0][n] - before[n]).max()
                           for n in before) for run, after in found.items()}
  # The gradient of KL(p || p) is 0; what moves the weights is their decay, 0.
  assert moved['self'] < 1e-6 < moved['dp']
  assert moved['xe'] > 1e-4


def test_checkpoints_within_a_run(ran, tmp_path):
  """With loop.save_every a stopped run goes on in the middle of it."""
  config, _ = ran
  config = core.spec.change(config, dict(loop=dict(save_every=2)))
  splits = data.load(config.data)
  pool = load_pool(config, splits, tmp_path)
  student = Student(config, pool, 'mlp8', splits, tmp_path)
  runs = [Run('dp', ('mlp16',)), Run('xe_kl_mcl', ('mlp32',))]
  fit = lambda label: student.fit(student.start, runs, 0, label)
  whole = fit('whole')
  real, calls = student.step, []
  def stops(*args):
    calls.append(1)
    if len(calls) == 2 * 5:
      raise KeyboardInterrupt
    return real(*args)
  student.step = stops
  with pytest.raises(KeyboardInterrupt):
    fit('cut')
  student.step = real
  again = fit('cut')
  for run in runs:
    jax.tree.map(np.testing.assert_array_equal, whole[run], again[run])


def test_refuses_models_that_do_not_fit(ran, tmp_path):
  config = core.spec.change(ran[0], dict(data=dict(size=16)))
  splits = data.load(config.data)
  with pytest.raises(core.UserError, match='input_shape'):
    load_pool(config, splits, tmp_path)


def test_saved_students_are_runs(ran):
  """They load, know their parents, and score as pairs.csv says."""
  config, workdir = ran
  rows = list(csv.DictReader(open(workdir / 'pairs.csv')))
  splits = data.load(config.data)
  row = next(r for r in rows if r['method'] == 'dp' and r['seed'] == '1')
  name = f'{row["student"]}-dp-{row["teacher"]}-1'
  found = train.load_trained(workdir / 'students' / name)
  predict = train.make_predict(found.net, found.info)
  logits = train.predict_all(predict, found.params, found.stats, splits.test,
                             batch_size=50)
  assert float(row['accuracy']) == (
      logits.argmax(-1) == splits.test.labels).mean()
  assert not list((workdir / 'runs').glob('*')) if (
      workdir / 'runs').exists() else True


@pytest.mark.parametrize('change, message', [
    (dict(multi=dict(method='self')), 'several teachers'),
    (dict(multi=dict(method='kl')), 'several teachers'),
    (dict(multi=dict(method='dpp')), "'dp'"),
    (dict(multi=dict(teachers=3)), 'from 1 to 2'),
    (dict(data=dict(validation=0.0)), 'validation'),
    (dict(optimizer=dict(schedule=dict(name='cosine_decay_schedule'))),
     'schedule'),
    (dict(save=('dpp',)), "'dp'"),
    (dict(methods=dict(kl=dict(weights=dict(dpp=1.0)))), "'dp'"),
    (dict(pool=dict(mlp8=dict(by_seed=True))), 'by_seed'),
    (dict(pool=dict(mlp8=dict(changes=dict(lop=3)))), "'loop'"),
    (dict(terms=dict(kl=dict(weight=2.0))), 'terms.kl: .* only loss'),
    (dict(terms=dict(dp=dict(rename=dict(teacher_logits='teachers')))),
     'teachers_logits'),
    (dict(terms=dict(kl=dict(loss='kdd'))), "'kd'")])
def test_check_refuses(change, message, tmp_path):
  with pytest.raises(core.UserError, match=message):
    transfer.check(core.spec.change(tiny(tmp_path), change))


def test_check_traces_imported_models(ran):
  """A pool of checkpoints alone is checked as one that is trained."""
  config, workdir = ran
  students = sorted((workdir / 'students').iterdir())[:3]
  config = dataclasses.replace(config, save=(), pool={
      f'm{i}': train.Pretrained(checkpoint=str(p))
      for i, p in enumerate(students)})
  reports = transfer.check(config)
  assert [r.name for r in reports] == [f'transfer to m{i}' for i in range(3)]
  assert all(r.step_flops > 0 for r in reports)
