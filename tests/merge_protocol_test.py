"""The protocol `merge` on digits, end to end, tiny."""
import json

import numpy as np
import pytest

from configs import common
from experiments import merge
from experiments.merge import checks
from experiments.merge import context
from experiments.merge import operators
from experiments.merge import result
from kt_jax import core
from kt_jax import data
from kt_jax import merge as kt_merge
from kt_jax import train


def config(start='pretrain', **arms):
  c = common.merge()
  c.base = start
  for part in (c.pretrain, c.finetune):
    part.data = common.data('digits', subset=200, validation=40, test_limit=60)
    part.terms.task = common.term('cross_entropy')
    part.batch.size = 16
    part.loop.update(steps=4, log_every=2)
  c.pretrain.model = dict(name='mlp', kw=dict(width=12, depth=2))
  c.pretrain.loop.steps = 30
  c.tasks.plain = dict(data=dict(classes=tuple(range(5))))
  c.tasks.turned = dict(data=dict(rotation=90.0))
  c.samples = 30
  c.seeds = (0,)
  c.arms.update(arms)
  return c


def several():
  """Arms of every kind."""
  return dict(
      base=common.merging(kind='base'), own=common.merging(kind='own'),
      single=common.merging(kind='single'),
      ensemble=common.merging(kind='ensemble'),
      multitask=common.merging(kind='multitask',
                               settings=dict(updates='one')),
      soup=common.merging(kind='greedy_soup'),
      mean=common.merging('linear', path=3),
      first=common.merging('linear', weight=(1.0, 0.0)),
      ties=common.merging('ties', weight=(1.0,), whole_model=True,
                          tune=dict(scale=(0.5, 1.0), density=(0.2, 1.0))),
      same=common.merging('ties', weight=(1.0,), whole_model=True,
                          tuned_as='ties', tasks=('turned',)),
      fisher=common.merging('fisher'), regmean=common.merging('regmean'),
      dare=common.merging('dare', rules=(('head', dict(weight=(1.0, 0.0))),
                                         ('bias', None))),
      forget=common.merging('task_arithmetic', experts=('turned',),
                            tasks=('plain', 'turned'), forget='turned',
                            control=0.0, tune=dict(weight=(-0.5, -1.0))))


@pytest.fixture(scope='module')
def ran(tmp_path_factory):
  workdir = tmp_path_factory.mktemp('merge') / 'run'
  c = config(**several())
  c.baseline = 'mean'
  c.claims.ties = common.claim('ties', 'mean', 'pooled')
  return c, workdir, merge.run(c, workdir)


def read(workdir, name):
  return json.loads((workdir / 'runs' / f'{name}.json').read_text())


@pytest.fixture(scope='module')
def scene(ran):
  c, workdir, _ = ran
  return context.make(c, 0, workdir)


def test_leaves_a_report(ran, monkeypatch):
  c, workdir, found = ran
  assert found['table'] in (workdir / 'report.md').read_text()
  lines = (workdir / 'results.csv').read_text().splitlines()
  assert any(line.startswith('ties,pooled,') for line in lines)
  assert (workdir / 'accuracy.png').exists() and (workdir / 'path.png').exists()
  monkeypatch.setattr(context, 'make', None)
  assert merge.run(c, workdir) == found  # finished: nothing runs
  (workdir / 'card.json').unlink()
  assert merge.run(c, workdir) == found  # every arm is kept


def test_experts_are_kept_for_others(ran, scene, tmp_path, monkeypatch):
  del ran
  monkeypatch.setattr(train, 'fit', None)
  again = context.make(config(**several()), 0, tmp_path)
  for task, expert in scene.experts.items():
    assert expert.digest == again.experts[task].digest


def test_metrics(ran, scene):
  """By hand, from the experts and the data."""
  _, workdir, _ = ran
  found = read(workdir, 'mean-0')['metrics']
  params = {path: np.mean([e.params[path] for e in scene.experts.values()], 0)
            for path in scene.base.params}
  right, size, ratios = [], [], []
  for task, splits in scene.splits.items():
    x = splits.test
    hits = lambda params: np.mean(np.asarray(train.make_predict(
        scene.base.net, scene.base.info)(params, {}, np.asarray(x.images))
                                             ).argmax(-1) == x.labels)
    right.append(hits(params))
    size.append(len(x))
    ratios.append(right[-1] / hits(scene.experts[task].params))
    assert found[f'accuracy_{task}'] == pytest.approx(right[-1])
  assert found['accuracy'] == pytest.approx(np.mean(right))
  assert found['pooled'] == pytest.approx(np.average(right, weights=size))
  assert found['normalized'] == pytest.approx(np.mean(ratios))
  path = np.array(read(workdir, 'mean-0')['path'])
  assert found['barrier'] == pytest.approx(max(
      path[1, 1] - (path[0, 1] + path[2, 1]) / 2, 0), abs=1e-6)
  assert found['nll'] == pytest.approx(path[1, 1], rel=1e-5)
  own = read(workdir, 'own-0')['metrics']
  assert own['normalized'] == 1.0


def test_weight_one_is_the_expert(ran, scene):
  c, _, _ = ran
  arm = checks.arm_of(c, 'first')
  found = operators.experts(c, arm, scene)
  params, _ = operators.run(c, arm, scene, found, {}, {})
  for path, leaf in scene.experts['plain'].params.items():
    np.testing.assert_array_equal(params[path], leaf)


def test_rules(ran, scene):
  c, _, _ = ran
  arm = checks.arm_of(c, 'dare')
  found = operators.experts(c, arm, scene)
  params, _ = operators.run(c, arm, scene, found, {}, {})
  np.testing.assert_array_equal(params['blocks/0/linear/bias'],
                                scene.base.params['blocks/0/linear/bias'])


def test_whole_model_threshold(ran, scene):
  c, _, _ = ran
  arm = checks.arm_of(c, 'ties')
  found = operators.experts(c, arm, scene)
  params, _ = operators.run(c, arm, scene, found, {}, dict(density=0.05))
  base = scene.base.params
  kept = sum(np.sum(params[p] != base[p]) for p in base)
  total = sum(base[p].size for p in base)
  assert 0 < kept <= 0.1 * total + 2
  bounds = kt_merge.whole_model_bounds(
      [(base[p], [m[0][p] for m in found]) for p in base], 0.05)
  for path in base:
    big = any(np.abs(m[0][path] - base[path]).max() >= bounds[t, 0]
              for t, m in enumerate(found))
    assert big == bool(np.any(params[path] != base[path])), path


def test_tuning(ran):
  """The grid's best on validation; another arm takes it over."""
  _, workdir, _ = ran
  ties, same = read(workdir, 'ties-0'), read(workdir, 'same-0')
  assert set(ties['chosen']) == {'scale', 'density'}
  assert same['chosen'] == ties['chosen']
  assert same['metrics']['pooled'] == same['metrics']['accuracy_turned']
  assert ties['metrics']['accuracy_turned'] == same['metrics']['pooled']
  assert ties['metrics']['chosen_scale'] == ties['chosen']['scale']
  assert read(workdir, 'forget-0')['chosen']['weight'] in (-0.5, -1.0)
  soup, single = (read(workdir, f'{a}-0')['metrics']
                  for a in ('soup', 'single'))
  assert soup['validation'] >= single['validation']


def test_statistics_by_name(ran, scene):
  """What an operator asks for; its entries shuffled, the same numbers."""
  c, _, _ = ran
  arm = checks.arm_of(c, 'fisher')
  found = operators.experts(c, arm, scene)
  leaves = operators.measured(c, arm, scene, found)
  assert set(leaves) == set(scene.base.params)
  arm.shuffle = ('fisher',)
  shuffled = operators.measured(c, arm, scene, found)
  for path in leaves:
    a, b = leaves[path]['fisher'], shuffled[path]['fisher']
    assert a.shape == (2, *scene.base.params[path].shape)
    np.testing.assert_array_equal(np.sort(a.reshape(2, -1)),
                                  np.sort(b.reshape(2, -1)))
    assert a.size < 20 or not np.array_equal(a, b)
  arm = checks.arm_of(c, 'regmean')
  grams = operators.measured(c, arm, scene, found)
  assert set(grams) == {p for p in scene.base.params if 'kernel' in p}


def test_seeds_differ():
  c = config()
  seeds = {run.seed for seed in (0, 1) for run in (
      context.base_config(c, seed),
      *(context.expert_config(c, task, seed, 'base', c.pretrain.model)
        for task in c.tasks))}
  assert len(seeds) == 6


def test_independent_experts_are_aligned(tmp_path):
  arms = {name: common.merging('linear', align=name, path=3) for name in (
      'weight_matching', 'activation_matching', 'optimal_transport')}
  arms['with_features'] = common.merging(
      'linear', align='optimal_transport', align_settings=dict(features=True))
  c = config('', **arms)
  merge.check(c)
  scene = context.make(c, 0, tmp_path)
  assert scene.base is scene.experts['plain']
  x = np.asarray(scene.splits['turned'].test.images)
  for name in arms:
    arm = checks.arm_of(c, name)
    _, moved = operators.experts(c, arm, scene)
    expert = scene.experts['turned']
    np.testing.assert_allclose(  # moved, it computes the same
        scene.fns.predict(*moved, x),
        scene.fns.predict(expert.params, expert.stats, x), atol=1e-4)
    assert any(not np.array_equal(moved[0][p], expert.params[p])
               for p in moved[0])


def test_given_checkpoints(scene, tmp_path):
  """A base and an expert that were trained elsewhere."""
  c = config(scene.base.source, mean=common.merging('linear'))
  c.tasks.plain = dict(data=dict(classes=tuple(range(5))),
                       checkpoint=scene.experts['plain'].source)
  merge.check(c)
  made = context.make(c, 0, tmp_path)
  assert made.base.digest == scene.base.digest
  assert made.experts['plain'].digest == scene.experts['plain'].digest


def test_multitask_sees_all(ran, scene):
  c, _, _ = ran
  run = lambda updates: context.multitask_config(
      c, tuple(c.tasks), updates, 0, scene.base.source, scene.base.model)
  assert run('all').loop.steps == 2 * run('one').loop.steps == 8
  splits = data.load(run('one').data)
  assert len(splits.train) == sum(
      len(s.train) for s in scene.splits.values())


def test_own_kind(ran, scene):
  arm = config(mine=common.merging(kind='merge_protocol_test:mine')).arms.mine
  made = checks.kind_of(arm)(ran[0], arm, scene)
  assert made.logits('plain', scene.splits['plain'].test).shape[1] == 10


def mine(config, arm, scene):
  """A kind of the user's."""
  del config, arm
  return result.of_model(scene, (scene.base.params, scene.base.stats))


@pytest.mark.parametrize('change, says', [
    (dict(arms=dict(m=dict(op='tise'))), "'ties'"),
    (dict(arms=dict(m=dict(kind='merged'))), "'merge'"),
    (dict(arms=dict(m=dict(experts=('plian',)))), "'plain'"),
    (dict(arms=dict(m=dict(settings=dict(desnity=0.1)))), "'density'"),
    (dict(arms=dict(m=dict(tune=dict(scael=(1,))))), "'scale'"),
    (dict(arms=dict(m=dict(settings=dict(density=2.0)))), r'arms.m: .*density'),
    (dict(arms=dict(m=dict(settings=dict(elect='summ')))), "'sum'"),
    (dict(arms=dict(m=dict(weight=(1.0, 2.0, 3.0)))), 'for each of 2 experts'),
    (dict(arms=dict(m=dict(rules=(('a', dict(densty=1)),)))), "'density'"),
    (dict(arms=dict(m=dict(tuned_as='mean'))), 'tuned'),
    (dict(arms=dict(m=dict(path=2))), 'three points'),
    (dict(arms=dict(m=dict(align='weight_macthing'))), "'weight_matching'"),
    (dict(arms=dict(m=dict(shuffle=('fishr',)))), 'fishr'),
    (dict(claims=dict(c=dict(common.claim('m', 'x')))), "arm 'x'"),
    (dict(tasks=dict(plain=dict(lop=dict(steps=2)))), "'loop'"),
    (dict(tasks=dict(plain=dict(model=dict(name='mlp')))), 'model'),
    (dict(tasks=dict(plain=dict(data=dict(size=12)))), 'input_shape'),
    (dict(tasks=dict(plain=dict(data=dict(classes=(77,))))), 'data.classes'),
    (dict(tasks=dict(plain=dict(checkpoint='/nowhere'))), '/nowhere'),
    (dict(base='/nowhere'), '/nowhere'),
    (dict(base='pretrian'), 'pretrian'),
    (dict(tasks=dict(other=dict(data=dict(mean=(0.1,))))), 'data.mean'),
    (dict(pretrain=dict(model=dict(name='mpl'))), "'mlp'"),
], ids=lambda x: x if isinstance(x, str) else '')
def test_bad_config(change, says):
  c = config(m=common.merging('ties'))
  with c.unlocked(), c.ignore_type():
    c.update(change)
  with pytest.raises(core.UserError, match=says) as e:
    merge.check(c)
  assert '\n' not in str(e.value)


def test_no_validation_is_told():
  c = config(m=common.merging('ties', tune=dict(scale=(0.5, 1.0))))
  c.finetune.data.validation = 0
  with pytest.raises(core.UserError, match='holds nothing out'):
    merge.check(c)
