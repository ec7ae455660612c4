"""The Python API as a user of an installed kt_jax meets it."""
import ast
import dataclasses
import functools
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import textwrap

from flax import nnx
import jax
from jax import numpy as jnp
import numpy as np
import optax
import pytest

from kt_jax import checkpoint
from kt_jax import core
from kt_jax import data
from kt_jax import losses
from kt_jax import models
from kt_jax import train
from kt_jax.train import session as sessions

ROOT = pathlib.Path(__file__).resolve().parents[1]

TEN_LINES = """\
from kt_jax import train

task = train.LossTerm('cross_entropy')
teacher = train.Training(model=train.Model('mlp'), terms=dict(task=task))
train.run(teacher, 'runs/teacher')

kd = train.LossTerm('kd', weight=0.9, teacher='teacher')
student = train.Training(
    model=train.Model('mlp', dict(width=16)), terms=dict(task=task, kd=kd),
    teachers=dict(teacher=train.Teacher('runs/teacher')))
print(train.run(student, 'runs/student'))  # the same call again resumes
"""

# In a folder from which nothing of the repository but kt_jax can be imported.
SITE = """\
import os, signal, sys
sys.modules['configs'] = sys.modules['experiments'] = None
def kill(event, args):
  if event == 'os.rename' and 'checkpoints' in str(args[1]) and (
      os.path.basename(str(args[1])) == os.environ['KILL_AT']):
    os.kill(os.getpid(), signal.SIGKILL)
if 'KILL_AT' in os.environ:
  sys.addaudithook(kill)
"""

# All that may be one's own, as functions and by name.
MINE = """\
from flax import nnx
import jax
from jax import numpy as jnp
import numpy as np
import optax

from kt_jax import data
from kt_jax import train


def images(config, *, count):
  rng = np.random.default_rng(config['split_seed'])
  labels = np.arange(count) % 3
  images = rng.integers(0, 100, (count, 4, 4, 1))
  images = (images + 50 * labels.reshape(-1, 1, 1, 1)).astype(np.uint8)
  return data.from_arrays('mine', dict(
      train=(images, labels), test=(images, labels)))


class Net(nnx.Module):

  def __init__(self, classes, input_shape, *, width, rngs):
    size = int(np.prod(input_shape))
    self.hidden = nnx.Linear(size, width, rngs=rngs)
    self.norm = nnx.BatchNorm(width, rngs=rngs)
    self.dropout = nnx.Dropout(0.2, rngs=rngs)
    self.head = nnx.Linear(width, classes, rngs=rngs)

  def __call__(self, x):
    x = self.norm(self.hidden(x.reshape(len(x), -1)))
    return self.head(self.dropout(nnx.relu(x)))


class Scale(nnx.Module):

  def __init__(self, student_features, *, start, rngs):
    self.scale = nnx.Param(jnp.full(student_features.shape[-1], start))

  def __call__(self, student_features):
    return dict(student_features=student_features * self.scale)


def margin(student_logits, labels, *, size):
  right = jnp.take_along_axis(student_logits, labels[:, None], 1)
  return jax.nn.relu(size + student_logits - right).sum(-1)


def energy(student_features):
  return (student_features**2).mean(-1)


def ink(images):
  return images.mean((1, 2, 3)) / 100


def spec(images=images, net=Net, margin=margin, energy=energy, scale=Scale,
         ink=ink):
  return train.Training(
      data=data.Images(images, kw=dict(count=90), validation=0),
      model=train.Model(net, dict(width=8)), batch=train.Batch(16),
      terms=dict(
          margin=train.LossTerm(margin, kw=dict(size=0.5),
                                example_weight='ink'),
          energy=train.LossTerm(energy, 0.1, taps='hidden', module='scale')),
      modules=dict(scale=train.Module(scale, dict(start=0.7))),
      targets=dict(ink=ink),
      optimizer=optax.adamw(optax.linear_schedule(1e-2, 1e-3, 60)),
      optimizers=dict(scale=optax.sgd(0.1)),
      loop=train.Loop(steps=60, log_every=7, save_every=20))


BY_NAME = spec('mine:images', 'mine:Net', 'mine:margin', 'mine:energy',
               'mine:Scale', 'mine:ink')
"""


def start(home, code, **env):
  """Runs a script there, as a user does."""
  (home / 'script.py').write_text(code)
  one_device = re.sub(r'\S*device_count=8', '', os.environ['XLA_FLAGS'])
  return subprocess.run(
      [sys.executable, 'script.py'], cwd=home, capture_output=True, text=True,
      env=dict(os.environ, PYTHONPATH=str(home), XLA_FLAGS=one_device,
               KT_JAX_CACHE=str(home / 'cache'), PYTHONDONTWRITEBYTECODE='1',
               **env))


@pytest.fixture(scope='module')
def home(tmp_path_factory):
  folder = tmp_path_factory.mktemp('home')
  (folder / 'kt_jax').symlink_to(ROOT / 'kt_jax')
  (folder / 'sitecustomize.py').write_text(SITE)
  (folder / 'mine.py').write_text(MINE)
  sys.path.insert(0, str(folder))
  yield folder
  sys.path.remove(str(folder))
  sys.modules.pop('mine', None)


@pytest.fixture(scope='module')
def mine(home):
  """The module of the user, in this process."""
  del home
  import mine as module  # pyrefly: ignore
  return module


def card(workdir):
  return json.loads((workdir / 'card.json').read_text())


def test_ten_lines(home):
  """They train: a narrow student learns from labels and a teacher."""
  assert len([line for line in TEN_LINES.splitlines() if line]) <= 11
  done = start(home, TEN_LINES + textwrap.dedent('''\
      import kt_jax
      print(kt_jax.__file__)
      try:
        import configs
      except ImportError:
        print('alone')
      '''))
  assert not done.returncode, done.stderr
  metrics, where, alone = done.stdout.splitlines()[-3:]
  assert where == str(home / 'kt_jax/__init__.py') and alone == 'alone'
  student = card(home / 'runs/student')
  assert ast.literal_eval(metrics) == student['metrics']
  assert student['metrics']['accuracy'] > 0.9
  assert student['metrics']['teacher_agreement'] > 0.9
  parent, = student['parents']
  assert parent == dict(source='runs/teacher',
                        digest=card(home / 'runs/teacher')['digest'])


def test_readme_has_the_ten_lines():
  blocks = re.findall(r'^```python\n(.*?)^```',
                      (ROOT / 'README.md').read_text(), re.M | re.S)
  assert [b for b in blocks if 'train.run(' in b] == [TEN_LINES]


def test_killed_and_resumed_is_uninterrupted(home):
  """With a loss, model, module, data and optimizer of one's own, by name too.
  """
  run = 'import mine; from kt_jax import train; train.run(mine.spec(), "cut")\n'
  killed = start(home, run, KILL_AT='40')
  assert killed.returncode == -signal.SIGKILL, killed.stderr
  assert card(home / 'cut')['status'] == 'running'
  assert '20' in {f.name for f in (home / 'cut/checkpoints').iterdir()}
  done = start(home, run + textwrap.dedent('''\
      train.run(mine.spec(), 'whole')
      train.run(mine.BY_NAME, 'named')
      '''))
  assert not done.returncode, done.stderr
  cut, whole, named = (card(home / name) for name in ('cut', 'whole', 'named'))
  assert cut['status'] == whole['status'] == 'finished'
  assert cut['digest'] == whole['digest'] == named['digest']
  assert cut['metrics'] == whole['metrics'] == named['metrics']
  read = lambda name: (home / name / 'metrics.jsonl').read_text()
  assert read('cut') == read('whole')
  loss = [r['loss'] for r in train.read_metrics(home / 'whole/metrics.jsonl')
          if r['split'] == 'train']
  assert loss[-1] < 0.5 * loss[0]


def test_names_of_functions_of_ones_own(mine, home):
  """A model that was given as a function can be read by its name."""
  plain = core.spec.to_dict(mine.spec())
  optimizer = plain['optimizer']
  assert plain == core.spec.to_dict(mine.BY_NAME)
  assert plain['model']['name'] == 'mine:Net'
  assert optimizer.startswith('optax') and '#' in optimizer
  trained = train.load_trained(home / 'whole')
  x = np.linspace(-1, 1, 16, dtype=np.float32).reshape(1, 4, 4, 1)
  want = models.join(trained.net, trained.params, trained.stats)
  assert isinstance(want, mine.Net)
  np.testing.assert_allclose(
      models.apply(trained.net, trained.params, trained.stats, x).logits,
      want(x), rtol=1e-6)


def scaled(factor):
  return lambda student_logits, labels: factor * losses.cross_entropy(
      student_logits, labels)


@pytest.mark.parametrize('a,b', [
    (scaled(0.5), scaled(0.7)),
    (functools.partial(losses.kd, temperature=2.0),
     functools.partial(losses.kd, temperature=3.0)),
    (lambda student_logits: student_logits.mean(-1),
     lambda student_logits: student_logits.sum(-1)),
    (optax.sgd(0.1, momentum=0.9), optax.sgd(0.1, momentum=0.8)),
    (optax.adam(optax.cosine_decay_schedule(0.1, 10)),
     optax.adam(optax.cosine_decay_schedule(0.1, 11))),
    (optax.chain(optax.clip(1.0), optax.sgd(0.1)),
     optax.chain(optax.clip(2.0), optax.sgd(0.1)))],
                         ids=['closure', 'partial', 'lambda', 'optimizer',
                              'schedule', 'chain'])
def test_functions_are_told_apart(a, b):
  """Else a run would resume as another, and the pool mix them up."""
  assert core.spec.to_dict(a) == core.spec.to_dict(a)
  assert core.spec.to_dict(a) != core.spec.to_dict(b)


def test_jitted_function_has_its_name():
  assert core.spec.to_dict(jax.jit(scaled)) == f'{__name__}:scaled'


# Data.


def test_data_in_four_ways(mine):
  config = data.Images(mine.images, kw=dict(count=30), split_seed=7)
  source = mine.images(dict(split_seed=7), count=30)
  ways = [config, dataclasses.replace(config, name='mine:images'),
          dataclasses.replace(config, name=source, kw={}),
          dataclasses.replace(config, kw={}, name=functools.partial(
              mine.images, count=30))]
  whole = [data.load(way).info for way in ways]
  assert whole[0].classes == 3 and whole[0].input_shape == (4, 4, 1)
  assert whole[0] == whole[1] == whole[2] == whole[3]
  assert [data.abstract(way) for way in ways] == [
      dataclasses.replace(whole[0], fingerprint='')] * 4


def pairs(*, count):
  return [(f'{i}+{i}=', str(2 * i)) for i in range(count)]


def test_text_in_three_ways():
  of = lambda source, **kw: data.load_text(dict(
      length=12, prompt=6, domains=dict(
          sums=dict(source=source, kw=kw)))).info
  want = of(pairs, count=30)
  assert want.sizes == dict(train=28, validation=1, test=1)
  assert of(f'{__name__}:pairs', count=30) == want
  assert of(functools.partial(pairs, count=30)) == want


# Models.

KD = dict(kd=train.LossTerm('kd', teacher='teacher'))


def tiny(**kw):
  return train.Training(**dict(
      data=data.Images(subset=60, validation=0, test_limit=50),
      model=train.Model('mlp', dict(width=8, depth=1)), batch=train.Batch(16),
      terms=dict(task=train.LossTerm('cross_entropy')),
      loop=train.Loop(steps=2), evaluate=train.Evaluation(16)) | kw)


class Norm(nnx.Module):
  """A model of the user's own, with statistics and a random stream."""

  def __init__(self, size, classes, rngs):
    self.norm = nnx.BatchNorm(size, rngs=rngs)
    self.dropout = nnx.Dropout(0.5, rngs=rngs)
    self.head = nnx.Linear(size, classes, rngs=rngs)

  def __call__(self, x):
    return self.head(self.dropout(self.norm(x.reshape(len(x), -1))))


def test_models_as_objects(tmp_path):
  """A teacher and a start are the same by workdir, loaded, and as a module."""
  train.run(tiny(seed=3), tmp_path / 'before')
  path = str(tmp_path / 'before')
  loaded = train.load_trained(path)
  model = models.join(loaded.net, loaded.params, loaded.stats)
  wrapped = train.trained_from(model, loaded.info)
  assert wrapped.digest == loaded.digest and wrapped.source == 'Mlp'
  runs = {}
  for name, given in dict(path=path, loaded=loaded, wrapped=wrapped).items():
    spec = tiny(init_from=given, teachers=dict(
        teacher=train.Teacher(given), peer=train.Teacher(given, 'online')),
                terms=dict(
                    kd=train.LossTerm('kd', teacher='teacher', updates=(
                        'student',), student='student', kw=dict(
                            temperature=2.0)),
                    peer=train.LossTerm('cross_entropy', student='peer')))
    runs[name] = train.run(spec, tmp_path / name), card(tmp_path / name)
  assert train.check(spec)
  for metrics, written in runs.values():
    assert metrics == runs['path'][0]
    assert written['digest'] == runs['path'][1]['digest'] != loaded.digest
    assert [p['digest'] for p in written['parents']] == 3 * [loaded.digest]
  assert runs['wrapped'][1]['parents'][0]['source'] == 'Mlp'
  stored = json.loads((tmp_path / 'wrapped/config.json').read_text())
  assert stored['init_from'] == dict(source='Mlp', digest=loaded.digest)
  # The model still is what it was.
  assert checkpoint.digest(dict(zip(
      ('params', 'stats'), models.split(model)[1:]))) == loaded.digest
  other = train.trained_from(
      models.join(loaded.net, loaded.params | {
          'head/bias': loaded.params['head/bias'] + 1}, {}), loaded.info)
  with pytest.raises(core.UserError, match='init_from.digest was'):
    train.run(core.spec.change(spec, dict(init_from=other)),
              tmp_path / 'wrapped')


def test_resumes_with_the_same_teachers_only(tmp_path):
  """A path is a name: what is there may have been trained again since."""
  train.run(tiny(seed=3), tmp_path / 'teacher')
  spec = tiny(terms=KD, teachers=dict(
      teacher=train.Teacher(str(tmp_path / 'teacher'))))
  train.run(spec, tmp_path / 'run')
  checkpoint.write_json(tmp_path / 'run/card.json', card(
      tmp_path / 'run') | dict(status='running'))
  assert train.run(spec, tmp_path / 'run')
  checkpoint.write_json(tmp_path / 'run/card.json', card(
      tmp_path / 'run') | dict(status='running'))
  shutil.rmtree(tmp_path / 'teacher')
  train.run(tiny(seed=4), tmp_path / 'teacher')
  with pytest.raises(core.UserError, match='begun on other pretrained mod'):
    train.run(spec, tmp_path / 'run')


def test_model_of_ones_own_teaches(tmp_path):
  """In evaluation mode, and what it says of the test set is measured."""
  info = data.abstract(tiny().data)
  model = Norm(64, 10, nnx.Rngs(0))
  x = jax.random.normal(jax.random.key(1), (50, *info.input_shape)) + 3
  model(x)  # statistics are not those of a fresh model any more
  spec = tiny(terms=dict(kd=train.LossTerm('kd', teacher='mine')),
              teachers=dict(mine=train.Teacher(train.trained_from(
                  model, info, 'my norm'))))
  metrics = train.run(spec, tmp_path / 'run')
  splits = data.load(spec.data)
  model.eval()
  logits = model(data.normalize(jnp.asarray(splits.test.images), info.mean,
                                info.std))
  assert metrics['mine_accuracy'] == pytest.approx(
      np.mean(logits.argmax(-1) == splits.test.labels))
  with np.load(tmp_path / 'run/predictions.npz') as f:
    assert metrics['mine_agreement'] == pytest.approx(
        np.mean(f['logits'].argmax(-1) == logits.argmax(-1)))


def test_model_without_a_name(tmp_path):
  """A constructor that cannot be imported is given again to read its run."""
  def net(classes, input_shape, *, rngs):
    return Norm(int(np.prod(input_shape)), classes, rngs)
  train.run(tiny(model=train.Model(net)), tmp_path / 'run')
  with pytest.raises(core.UserError, match='load_trained its constructor') as e:
    train.load_trained(tmp_path / 'run')
  assert '\n' not in str(e.value)
  trained = train.load_trained(tmp_path / 'run', model=net)
  assert trained.digest == card(tmp_path / 'run')['digest']
  assert train.check(tiny(init_from=trained, model=train.Model(net)))


# What is refused.


def no_config(count):
  return count


def no_source(config):
  return config['name']


def needs(student_logits, teacher_lgits):
  return student_logits.sum(-1) + teacher_lgits


class NoRngs(nnx.Module):

  def __init__(self, student_logits):
    del student_logits


def no_shape(classes, *, rngs):
  return nnx.Linear(classes, classes, rngs=rngs)


def sized(classes, input_shape, *, rngs, width):
  return Norm(width, classes, rngs)


T = train.LossTerm


@pytest.mark.parametrize('message,spec', [
    ('config.model must be a Model', dict(model='mlp')),
    ("No key of config 'optimiser'. Did you mean 'optimizer'", dict(
        spec=dict(optimiser={}))),
    ("'lr'. Did you mean 'learning_rate'", dict(optimizer=dict(lr=0.1))),
    ("No model 'mlpp'. Did you mean 'mlp'", dict(model=dict(name='mlpp'))),
    ("No size of mlp .model.kw. 'widht'. Did you mean 'width'", dict(
        model=dict(name='mlp', kw=dict(widht=3)))),
    (":sized .model.kw. 'widht'. Did you mean 'width'", dict(
        model=train.Model(sized, dict(widht=3)))),
    ("missing a required argument: 'width'", dict(model=train.Model(sized))),
    ("missing a required .*argument: 'depth'", dict(
        model=train.Model('decoder'))),
    ('is called with .classes, input_shape', dict(
        model=train.Model(no_shape))),
    ('config.terms is empty', dict(terms={})),
    ('config.terms.task must be a LossTerm', dict(terms=dict(task='kd'))),
    ("No loss .config.terms.a. 'kdd'. Did you mean 'kd'", dict(
        terms=dict(a=T('kdd')))),
    ("'temprature'. Did you mean 'temperature'", dict(
        terms=dict(a=T('kd', kw=dict(temprature=2.0))))),
    ('config.terms.a.weight must be a number', dict(
        terms=dict(a=T('kd', weight='1')))),
    (r"needs \['teacher_lgits'\]", dict(terms=dict(a=T(needs)))),
    (r"needs \['teacher_logits'\]", dict(terms=dict(a=T('kd')))),
    ("No tap 'poll'. Did you mean 'pool'", dict(terms=dict(
        a=T('hint', taps='poll', rename=dict(
            teacher_features='student_features'))))),
    ("No network .config.terms.kd.teacher. 'teacher'", dict(terms=KD)),
    ('No checkpoint directory nowhere', dict(
        terms=KD, teachers=dict(teacher=train.Teacher('nowhere')))),
    ('init_from is empty', dict(
        terms=KD, teachers=dict(teacher=train.Teacher()))),
    ('init_from must be a string or a Trained', dict(
        terms=KD, teachers=dict(teacher=dict(init_from=3)))),
    ("'frosen'. Did you mean 'frozen'", dict(
        terms=KD, teachers=dict(teacher=dict(kind='frosen')))),
    ("No module .* 'Projecter'. Did you mean 'Projector'", dict(
        terms=dict(a=T('cross_entropy', module='m')),
        modules=dict(m=train.Module('Projecter')))),
    ('config.modules.m.name must be a class', dict(
        terms=dict(a=T('cross_entropy', module='m')),
        modules=dict(m=train.Module(needs)))),
    ("No setting of NoRngs 'rngs'", dict(
        terms=dict(a=T('cross_entropy', module='m')),
        modules=dict(m=train.Module(NoRngs)))),
    ('config.modules.m: no term names it', dict(
        modules=dict(m=train.Module('Projector')))),
    ("No optax optimizer 'adamm'. Did you mean 'adam'", dict(
        optimizer=dict(name='adamm'))),
    ('config.optimizer must be an Optimizer or a GradientTransformation', dict(
        optimizer='adam')),
    ('config.loop.steps must be an integer', dict(loop=dict(steps=1.5))),
    ("no_config'.*argument 'config'|'cuont'.* is called with .config", dict(
        data=dict(name=no_config, kw=dict(cuont=3)))),
    ('must return a data.Source.*got function', dict(
        data=dict(name=no_source))),
    ('module must be importable', dict(data=dict(name='nowhere:images'))),
    ('config.data.name must be', dict(data=dict(name=3))),
    ('batch_size 15 is not divisible', dict(batch=dict(size=15))),
], ids=lambda x: x if isinstance(x, str) else '')
def test_refusals(message, spec):
  whole = spec.pop('spec', None)
  with pytest.raises(core.UserError, match=message) as e:
    train.check(whole if whole is not None else tiny(**spec))
  assert '\n' not in str(e.value)


@pytest.mark.parametrize('message,model,info', [
    ('must be an nnx.Module', 3, None),
    (r'Norm must return logits \[B, 9\]', Norm(64, 10, nnx.Rngs(0)), data.Info(
        'x', 9, (8, 8, 1), (0.5,), (0.5,), (), {})),
    ('Norm has no hidden', Norm(64, 10, nnx.Rngs(0)), data.Info(
        'x', 10, (8,), (), (), (), {})),
], ids=lambda x: x if isinstance(x, str) else '')
def test_refuses_models(message, model, info):
  with pytest.raises(core.UserError, match=message) as e:
    train.trained_from(model, info)
  assert '\n' not in str(e.value)


def test_values_are_converted():
  """Of NumPy, nested mappings, lists."""
  spec = train.specs.as_training(tiny(
      loop=dict(steps=np.int64(3)), optimizer=dict(learning_rate=1),
      terms=dict(a=dict(loss='kd', updates=['student'], weight=np.float32(2)))))
  assert spec.loop == train.Loop(steps=3)
  assert spec.optimizer == train.Optimizer(learning_rate=1.0)
  assert spec.terms['a'] == train.LossTerm('kd', 2.0, updates=('student',))
  assert train.specs.as_training(spec) == spec


# What is traced.


def counted(student_logits, labels):
  counted.calls.append(1)
  return losses.cross_entropy(student_logits, labels)


def test_check_traces_once(tmp_path, monkeypatch):
  lowered, describe = [], sessions.describe
  calls = counted.calls = []
  def spy(name, *args):
    lowered.append(name)
    return describe(name, *args)
  monkeypatch.setattr(sessions, 'describe', spy)
  terms = dict(task=train.LossTerm(counted))
  spec = tiny(terms=terms | KD, teachers=dict(teacher=train.Teacher('big')),
              pool=dict(big=train.Pretrained(dict(model=dict(kw=dict(
                  width=9))))), pretrain=tiny(terms=terms),
              pool_dir=str(tmp_path / 'pool'))
  reports = train.check(spec)
  assert [r.name for r in reports] == ['pretrain big', 'mlp']
  assert len(lowered) == len(calls) == 2  # the student, and its teacher
  other_seed = dataclasses.replace(spec, seed=5)
  assert train.check(spec) == reports == train.check(other_seed)
  train.run(spec, tmp_path / 'a')
  assert len(lowered) == 2 and len(calls) == 4  # both jits
  train.run(other_seed, tmp_path / 'b')
  assert len(lowered) == 2 and len(calls) == 5  # the teacher is there
  train.check(core.spec.change(spec, dict(model=dict(kw=dict(width=7)))))
  assert len(lowered) == 3 and len(calls) == 6
