"""The transfer protocol: one program, a cached pool, exact resume."""
import csv
import shutil

import jax
import numpy as np
import pytest

from configs import common
from experiments import pool as pools
from experiments import transfer
from experiments.transfer.student import Arm
from experiments.transfer.student import Student
from kt_jax import core
from kt_jax import data
from kt_jax import train


def tiny(pool_dir):
  c = common.transfer()
  c.paper = 'roth2024fantastic'
  c.pool_dir = str(pool_dir)
  c.data = common.data('digits', train='train[50%:]', validation=50,
                       test_limit=100)
  c.batch.size = c.eval_batch_size = 32
  c.mesh.data = 1
  p = c.pretrain
  p.data = common.data('digits', train='train[:50%]', validation=0,
                       test_limit=100)
  p.terms.task = common.term('cross_entropy')
  p.optimizer.update(name='adam', learning_rate=1e-2)
  p.loop.update(steps=10, log_every=0)
  p.mesh.data = 1
  c.pool = {f'mlp{w}': dict(model=dict(name='mlp', kw=dict(width=w, depth=1)))
            for w in (8, 16, 32)}
  common.fantastic(c, steps=6)
  c.multi.teachers = 2
  c.optimizer.learning_rate = 0.05
  c.seeds = (0, 1)
  c.save = ('dp',)
  return c


@pytest.fixture(scope='module')
def ran(tmp_path_factory):
  """`(config, workdir)` of a finished run."""
  home = tmp_path_factory.mktemp('transfer')
  config = tiny(home / 'pool')
  found = transfer.run(config, home / 'run')
  assert 'dp above kl' in found['table']
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
  splits = data.load(config.data)
  pool = pools.load(config, splits, None)
  return Student(
      config, pool, 'mlp16', splits, tmp_path_factory.mktemp('student'))


def test_one_program_for_all_runs_of_a_student(student):
  student.run(0)
  assert student.arm_step._cache_size() == 1
  student.run(1)
  assert student.arm_step._cache_size() == 1


def test_side_by_side_is_one_by_one(student):
  arms = [Arm('dp', ('mlp8',)), Arm('xe_kl_mcl', ('mlp32',)),
          Arm('self', ()), Arm('dp', ('mlp8', 'mlp32'))]
  fit = lambda arms: student.fit(student.start, arms, 0, '')
  together = fit(arms)
  for arm in arms:
    jax.tree.map(np.testing.assert_array_equal, together[arm],
                 fit([arm])[arm])


def test_vmapped_is_the_loop(student):
  config = student.config.copy_and_resolve_references()
  config.vmap = True
  vmapped = Student(
      config, student.pool, student.name, student.splits, student.workdir)
  arms = [Arm('dp', ('mlp8',)), Arm('kl', ('mlp32',)),
          Arm('xe', ()), Arm('dp', ('mlp8', 'mlp32'))]
  one, other = (s.fit(s.start, arms, 0, '')
                for s in (student, vmapped))
  for arm in arms:
    jax.tree.map(lambda a, b: np.testing.assert_allclose(
        a, b, rtol=1e-4, atol=1e-6), one[arm], other[arm])


def test_methods_are_what_they_are_called(student):
  """A teacher that is the student: nothing to learn from it but itself."""
  fit = lambda arms: student.fit(student.start, arms, 0, '')
  found = fit([Arm('self', ()), Arm('dp', ('mlp8',)),
               Arm('xe', ())])
  before = student.start[0]
  moved = {arm.method: max(np.abs(after[0][n] - before[n]).max()
                           for n in before) for arm, after in found.items()}
  # The gradient of KL(p || p) is 0; what moves the weights is their decay, 0.
  assert moved['self'] < 1e-6 < moved['dp']
  assert moved['xe'] > 1e-4


def test_checkpoints_within_a_run(ran, tmp_path):
  """With loop.save_every a stopped run goes on in the middle of it."""
  config, _ = ran
  config = config.copy_and_resolve_references()
  config.loop.save_every = 2
  splits = data.load(config.data)
  pool = pools.load(config, splits, None)
  student = Student(config, pool, 'mlp8', splits, tmp_path)
  arms = [Arm('dp', ('mlp16',)), Arm('xe_kl_mcl', ('mlp32',))]
  fit = lambda label: student.fit(student.start, arms, 0, label)
  whole = fit('whole')
  real, calls = student.arm_step, []
  def stops(*args):
    calls.append(1)
    if len(calls) == 2 * 5:
      raise KeyboardInterrupt
    return real(*args)
  student.arm_step = stops
  with pytest.raises(KeyboardInterrupt):
    fit('cut')
  student.arm_step = real
  again = fit('cut')
  for arm in arms:
    jax.tree.map(np.testing.assert_array_equal, whole[arm], again[arm])


def test_refuses_models_that_do_not_fit(ran):
  config, _ = ran
  config = config.copy_and_resolve_references()
  config.data.size = 16
  splits = data.load(config.data)
  with pytest.raises(core.UserError, match='input_shape'):
    pools.load(config, splits, None)


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


@pytest.mark.parametrize('change, says', [
    (lambda c: c.multi.update(method='self'), 'several teachers'),
    (lambda c: c.multi.update(method='kl'), 'several teachers'),
    (lambda c: c.data.update(validation=0.0), 'validation'),
    (lambda c: c.optimizer.schedule.update(name='cosine_decay_schedule'),
     'schedule'),
    (lambda c: c.update(save=('dpp',)), "'dp'"),
    (lambda c: c.terms.dp.update(rename=dict(teacher_logits='teachers')),
     'teachers_logits'),
    (lambda c: c.terms.kl.update(loss='kdd'), "'kd'")])
def test_check_refuses(change, says, tmp_path):
  config = tiny(tmp_path)
  with config.unlocked():
    change(config)
  with pytest.raises(core.UserError, match=says):
    transfer.check(config)


def test_check_traces_imported_members(ran, tmp_path):
  """A pool of checkpoints alone is checked as one that is trained."""
  config, workdir = ran
  config = config.copy_and_resolve_references()
  students = sorted((workdir / 'students').iterdir())[:3]
  with config.unlocked():
    config.save = ()
    config.pool = {f'm{i}': dict(checkpoint=str(p))
                   for i, p in enumerate(students)}
  found = transfer.check(config)
  assert [r.name for r in found] == [f'transfer to m{i}' for i in range(3)]
  assert all(r.step_flops > 0 for r in found)
