"""Specs from nested mappings: every wrong key is refused, at every depth."""
import dataclasses
import json
from typing import Any, Literal

import pytest

from configs import common
from experiments import compare
from experiments import generations
from experiments import merge
from kt_jax import core
from kt_jax import data
from kt_jax import train
from kt_jax.launch import config as configs

spec = core.spec


@dataclasses.dataclass(frozen=True)
class Inner:
  name: str
  kw: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Outer:
  count: int = 3
  rate: float = 0.5
  on: bool = False
  mode: Literal['fast', 'exact'] = 'fast'
  pair: tuple[int, float] = (1, 2.0)
  names: tuple[str, ...] = ()
  inner: Inner = Inner('a', {'x': 1})
  entries: dict[str, Inner] = dataclasses.field(default_factory=dict)
  maybe: Inner | None = None


@pytest.mark.parametrize('value, field, want', [
    (dict(rate=2), 'rate', 2.0), (dict(names=['a', 'b']), 'names', ('a', 'b')),
    (dict(pair=[3, 4]), 'pair', (3, 4.0)),
    (dict(mode='exact'), 'mode', 'exact'),
    (dict(inner=dict(name='b')), 'inner', Inner('b')),
    (dict(entries=dict(k=dict(name='c', kw=dict(y=[1, 2])))), 'entries',
     dict(k=Inner('c', dict(y=(1, 2))))),
    (dict(maybe=dict(name='d')), 'maybe', Inner('d')),
    (dict(maybe=None), 'maybe', None),
])
def test_build(value, field, want):
  assert getattr(spec.build(Outer, value), field) == want


@pytest.mark.parametrize('value, message', [
    (dict(coutn=1), "No key of config 'coutn'. Did you mean 'count'"),
    (dict(count=1.5), 'config.count must be an integer, got 1.5'),
    (dict(count=True), 'config.count must be an integer'),
    (dict(on=1), 'config.on must be True or False'),
    (dict(rate='x'), 'config.rate must be a number'),
    (dict(mode='fats'), "Did you mean 'fast'"),
    (dict(pair=(1,)), 'config.pair must have 2 entries'),
    (dict(names='ab'), 'config.names must be a tuple'),
    (dict(inner={}), 'config.inner needs name'),
    (dict(inner=3), 'config.inner must be'),
    (dict(entries=dict(k=dict(nam='c'))),
     "No key of config.entries.k 'nam'. Did you mean 'name'"),
    (3, 'config must be'),
])
def test_build_refuses(value, message):
  with pytest.raises(core.UserError) as e:
    spec.build(Outer, value)
  assert message in str(e.value) and '\n' not in str(e.value)


def test_change():
  before = spec.build(Outer, dict(entries=dict(k=dict(name='c', kw=dict(y=1)))))
  after = spec.change(before, dict(
      rate=0.25, inner=dict(kw=dict(z=2)), entries=dict(
          k=dict(kw=dict(y=3)), new=dict(name='n'))))
  assert after.rate == 0.25 and after.count == before.count
  assert after.inner == Inner('a', {'x': 1, 'z': 2})
  assert after.entries == dict(k=Inner('c', dict(y=3)), new=Inner('n'))
  assert before.inner == Inner('a', {'x': 1}), 'the original is as it was'
  # Another function has other settings.
  assert spec.change(before, dict(inner=dict(name='b'))).inner == Inner('b')
  assert spec.change(before, dict(inner=dict(name='b', kw=dict(z=2)))
                    ).inner == Inner('b', dict(z=2))


def everything():
  """A spec with an entry wherever there may be one."""
  term = train.LossTerm('kd', teacher='teacher', kw=dict(temperature=3.0))
  small = train.Training(terms=dict(task=train.LossTerm('cross_entropy')))
  return train.Training(
      terms=dict(kd=term), teachers=dict(teacher=train.Teacher('big')),
      modules=dict(map=train.Module('Projector')),
      optimizers=dict(map=train.Optimizer('adam')), pretrain=small,
      pool=dict(big=train.Pretrained(dict(loop=dict(steps=3)))))


def text():
  return train.Training(data=data.Text(domains=dict(
      add=data.Domain('task:add', 8))), terms=dict(
          task=train.LossTerm('cross_entropy')))


def test_json_gives_the_same_spec():
  for one in (everything(), text(), compare.Spec(run=everything()),
              generations.Spec()):
    assert spec.build(type(one), json.loads(json.dumps(spec.to_dict(one)))
                     ) == one


def paths(tree, path=()):
  """Every path to a mapping with the keys of a spec."""
  if isinstance(tree, dict):
    yield path
    for key, value in tree.items():
      if key not in FREE:
        yield from paths(value, (*path, key))


# Mappings with names and settings of the user's.
FREE = ('kw', 'rename', 'augment', 'corruptions', 'targets', 'changes',
        'settings', 'tune')
NAMES = ('terms', 'teachers', 'modules', 'optimizers', 'pool', 'domains',
         'arms', 'claims', 'tasks')


def wrong_keys():
  """(class, mapping with one wrong key, the key, its path), at every level."""
  arms = dict(kd=compare.Arm(('kd',)), plain=compare.Arm())
  for one in (everything(), text(), generations.Spec(), compare.Spec(
      run=everything(), arms=arms, claims=dict(kd=compare.Claim('kd', 'plain'))
      ), merge.Spec(tasks=dict(one=merge.Task()),
                    arms=dict(mean=merge.Arm(op='linear')))):
    tree = spec.to_dict(one)
    for path in paths(tree):
      if path and path[-1] in NAMES:
        continue
      mutated = json.loads(json.dumps(tree))
      node = mutated
      for key in path:
        node = node[key]
      if not node:
        continue
      known = sorted(node)[0]
      node[known + 'x'] = 1
      yield type(one), mutated, known + 'x', known, '.'.join(('config', *path))


WRONG = list(wrong_keys())


def test_there_are_wrong_keys_at_every_level():
  assert len(WRONG) > 100
  assert {path.count('.') for *_, path in WRONG} >= {0, 1, 2, 3}


@pytest.mark.parametrize('cls, tree, key, known, path', WRONG,
                         ids=[f'{c.__module__}-{p}' for c, *_, p in WRONG])
def test_a_wrong_key_is_refused(cls, tree, key, known, path):
  with pytest.raises(core.UserError) as e:
    spec.build(cls, tree)
  message = str(e.value)
  assert f"No key of {path} '{key}'" in message and '\n' not in message
  assert 'Did you mean' in message and f'{known}' in message


# Config files: a line that sets a wrong key, and the nearest right one.
LINES = {
    'c.optimizer.lr = .5': 'learning_rate', 'c.loop.stepz = 7': 'steps',
    'c.trian = {}': 'train', 'c.loop.epochs = 3': 'steps',
    'c.batch.bs = 8': 'size', "c.data.nmae = 'mnist'": 'name',
    'c.model.nam = 1': 'name', "c.optimizer.schedule.nme = 'x'": 'name',
    'c.evaluate.batchsize = 1': 'batch_size', 'c.train.emma = .9': 'ema',
    'c.mesh.dta = 1': 'data', 'c.cache.view = 2': 'views',
    'c.bilevel.moduel = 1': 'module', 'c.sampling.sorce = 1': 'source',
    'c.mixture.evry = 1': 'every', 'c.init.lod = 1': 'load',
    'c.terms.task.wieght = 2.': 'weight', 'c.loop.update(stps=3)': 'steps',
    "c.terms.kd = dict(loss='kd', wieght=2.)": 'weight',
    'c.batch = dict(sze=3)': 'size',
    "c.modules.m = dict(nam='TaidSchedule')": 'name',
    "c.teachers.t = common.teacher('x', knd='frozen')": 'kind',
    "c.pool.a = dict(by_sed=True)": 'by_seed',
    'c.pretrain = common.train(); c.pretrain.loop.stepz = 3': 'steps',
    "c.optimizers.student = dict(nme='adam')": 'name',
    'c.data = common.text(lenght=3)': 'length',
    "c.data = common.text(); c.data.domains.a = dict(sorce='task:add')":
        'source',
    "c = common.compare(c); c.arms.a = dict(term=('task',))": 'terms',
    "c = common.compare(c); c.claims.a = dict(beter='a', than='b')": 'better',
    "c = common.compare(c); c.run.optimizer.lr = 1": 'learning_rate',
    "c = common.compare(c); c.seedz = (0,)": 'seeds',
    'c = common.generations(); c.generations.cuont = 3': 'count',
}


@pytest.mark.parametrize('line', LINES)
def test_a_wrong_key_in_a_config_file_is_refused(tmp_path, line):
  file = tmp_path / 'mine.py'
  file.write_text('from configs import common\n\n\ndef get_config():\n'
                  "  c = common.train()\n"
                  "  c.terms.task = common.term('cross_entropy')\n"
                  f'  {line}\n  return c\n')
  with pytest.raises(core.UserError) as e:
    configs.load(str(file))
  message = str(e.value)
  assert f'{LINES[line]!r}' in message or LINES[line] in message
  assert 'mine.py' in message and '\n' not in message


def test_config_files_describe_the_spec_they_set():
  c = common.train()
  c.optimizer.learning_rate, c.loop.steps = 0.3, 7
  c.terms.task = common.term('cross_entropy', 2.0, label_smoothing=0.1)
  built = spec.build(train.Training, c)
  assert built.optimizer.learning_rate == 0.3 and built.loop.steps == 7
  assert built.terms['task'] == train.LossTerm(
      'cross_entropy', 2.0, kw=dict(label_smoothing=0.1))
