"""The protocol `merge` on digits, end to end, tiny."""
import dataclasses
import json

import numpy as np
import pytest

from experiments import compare
from experiments import merge
from experiments.merge import Arm
from experiments.merge import checks
from experiments.merge import context as contexts
from experiments.merge import kinds
from experiments.merge import operators
from experiments.merge import Task
from experiments.merge.result import of_model
from kt_jax import core
from kt_jax import data
from kt_jax import merge as kt_merge
from kt_jax import train


def config(start='pretrain', **arms):
  training = train.Training(
      data=data.Images('digits', subset=200, validation=40, test_limit=60),
      model=train.Model('mlp', dict(width=12, depth=2)),
      terms=dict(task=train.LossTerm('cross_entropy')),
      batch=train.Batch(16), loop=train.Loop(4, log_every=2))
  return merge.Spec(
      base=start,
      pretrain=dataclasses.replace(training, loop=train.Loop(30, log_every=2)),
      finetune=dataclasses.replace(training, model=train.Model()),
      tasks=dict(plain=Task(dict(data=dict(classes=tuple(range(5))))),
                 turned=Task(dict(data=dict(rotation=90.0)))),
      samples=30, seeds=(0,), arms=arms)


def several():
  """Arms of every kind."""
  return dict(
      base=Arm('base'), own=Arm('individual'), single=Arm('best_single'),
      ensemble=Arm('ensemble'),
      multitask=Arm('multitask', settings=dict(updates='one')),
      soup=Arm('greedy_soup'),
      mean=Arm(op='linear', path=3),
      first=Arm(op='linear', weight=(1.0, 0.0)),
      ties=Arm(op='ties', weight=1.0, whole_model=True,
               tune=dict(scale=(0.5, 1.0), density=(0.2, 1.0))),
      same=Arm(op='ties', weight=(1.0,), whole_model=True, tuned_as='ties',
               tasks=('turned',)),
      fisher=Arm(op='fisher'), regmean=Arm(op='regmean'),
      dare=Arm(op='dare', rules=(('head', dict(weight=(1.0, 0.0))),
                                 ('bias', None))),
      forget=Arm(op='task_arithmetic', experts=('turned',),
                 tasks=('plain', 'turned'), forget='turned', control=0.0,
                 tune=dict(weight=(-0.5, -1.0))))


@pytest.fixture(scope='module')
def ran(tmp_path_factory):
  workdir = tmp_path_factory.mktemp('merge') / 'run'
  c = dataclasses.replace(
      config(**several()), baseline='mean',
      claims=dict(ties=compare.Claim('ties', 'mean', 'pooled')))
  return c, workdir, merge.run(c, workdir)


def read(workdir, name):
  return json.loads((workdir / 'runs' / f'{name}.json').read_text())


@pytest.fixture(scope='module')
def context(ran):
  c, workdir, _ = ran
  return contexts.make(c, 0, workdir)


def test_leaves_a_report(ran, monkeypatch):
  c, workdir, found = ran
  assert found['table'] in (workdir / 'report.md').read_text()
  lines = (workdir / 'results.csv').read_text().splitlines()
  assert any(line.startswith('ties,pooled,') for line in lines)
  assert (workdir / 'accuracy.png').exists() and (workdir / 'path.png').exists()
  monkeypatch.setattr(contexts, 'make', None)
  assert merge.run(c, workdir) == found  # finished: nothing runs
  (workdir / 'card.json').unlink()
  assert merge.run(c, workdir) == found  # every arm is kept


def test_experts_are_kept_for_others(ran, context, tmp_path, monkeypatch):
  del ran
  monkeypatch.setattr(train, 'fit', None)
  again = contexts.make(config(**several()), 0, tmp_path)
  for task, expert in context.experts.items():
    assert expert.digest == again.experts[task].digest


def test_metrics(ran, context):
  """By hand, from the experts and the data."""
  _, workdir, _ = ran
  found = read(workdir, 'mean-0')['metrics']
  params = {path: np.mean([e.params[path] for e in context.experts.values()], 0)
            for path in context.base.params}
  right, size, ratios = [], [], []
  for task, splits in context.splits.items():
    x = splits.test
    hits = lambda params: np.mean(np.asarray(train.make_predict(
        context.base.net, context.base.info)(params, {}, np.asarray(x.images))
                                             ).argmax(-1) == x.labels)
    right.append(hits(params))
    size.append(len(x))
    ratios.append(right[-1] / hits(context.experts[task].params))
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


def test_weight_one_is_the_expert(ran, context):
  c, _, _ = ran
  arm = checks.arm_of(c, 'first')
  found = operators.experts(arm, context)
  params, _ = operators.apply(arm, context, found, {}, {})
  for path, leaf in context.experts['plain'].params.items():
    np.testing.assert_array_equal(params[path], leaf)


def test_rules(ran, context):
  c, _, _ = ran
  arm = checks.arm_of(c, 'dare')
  found = operators.experts(arm, context)
  params, _ = operators.apply(arm, context, found, {}, {})
  np.testing.assert_array_equal(params['blocks/0/linear/bias'],
                                context.base.params['blocks/0/linear/bias'])


def test_whole_model_threshold(ran, context):
  c, _, _ = ran
  arm = checks.arm_of(c, 'ties')
  found = operators.experts(arm, context)
  params, _ = operators.apply(arm, context, found, {}, dict(density=0.05))
  base = context.base.params
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


def test_statistics_by_name(ran, context):
  """What an operator asks for; its entries shuffled, the same numbers."""
  c, _, _ = ran
  arm = checks.arm_of(c, 'fisher')
  found = operators.experts(arm, context)
  leaves = operators.measures(arm, context, found)
  assert set(leaves) == set(context.base.params)
  arm = dataclasses.replace(arm, shuffle=('fisher',))
  shuffled = operators.measures(arm, context, found)
  for path in leaves:
    a, b = leaves[path]['fisher'], shuffled[path]['fisher']
    assert a.shape == (2, *context.base.params[path].shape)
    np.testing.assert_array_equal(np.sort(a.reshape(2, -1)),
                                  np.sort(b.reshape(2, -1)))
    assert a.size < 20 or not np.array_equal(a, b)
  arm = checks.arm_of(c, 'regmean')
  grams = operators.measures(arm, context, found)
  assert set(grams) == {p for p in context.base.params if 'kernel' in p}


def test_seeds_differ():
  c = config()
  seeds = {training.seed for seed in (0, 1) for training in (
      contexts.base_training(c, seed),
      *(contexts.expert_training(c, task, seed, c.pretrain.model)
        for task in c.tasks))}
  assert len(seeds) == 6


def test_independent_experts_are_aligned(tmp_path):
  arms = {name: Arm(op='linear', align=name, path=3) for name in (
      'weight_matching', 'activation_matching', 'optimal_transport')}
  arms['with_features'] = Arm(op='linear', align='optimal_transport',
                              align_settings=dict(features=True))
  c = config('', **arms)
  merge.check(c)
  context = contexts.make(c, 0, tmp_path)
  assert context.base is context.experts['plain']
  x = np.asarray(context.splits['turned'].test.images)
  for name in arms:
    arm = checks.arm_of(c, name)
    _, moved = operators.experts(arm, context)
    expert = context.experts['turned']
    np.testing.assert_allclose(  # moved, it computes the same
        context.fns.predict(*moved, x),
        context.fns.predict(expert.params, expert.stats, x), atol=1e-4)
    assert any(not np.array_equal(moved[0][p], expert.params[p])
               for p in moved[0])


def test_given_checkpoints(context, tmp_path):
  """A base and an expert that were trained elsewhere."""
  c = config(context.base.source, mean=Arm(op='linear'))
  c = dataclasses.replace(c, tasks=c.tasks | dict(plain=dataclasses.replace(
      c.tasks['plain'], checkpoint=context.experts['plain'].source)))
  merge.check(c)
  again = contexts.make(c, 0, tmp_path)
  assert again.base.digest == context.base.digest
  assert again.experts['plain'].digest == context.experts['plain'].digest


def test_multitask_sees_all(ran, context):
  c, _, _ = ran
  training = lambda updates: contexts.multitask_training(
      c, tuple(c.tasks), updates, 0, contexts.model_of(context.base))
  assert training('all').loop.steps == 2 * training('one').loop.steps == 8
  splits = data.load(training('one').data)
  assert len(splits.train) == sum(
      len(s.train) for s in context.splits.values())


@pytest.mark.parametrize('kind', ['merge_protocol_test:mine',
                                  lambda *args: mine(*args)])
def test_own_kind(context, kind):
  arm = Arm(kind)
  logits = kinds.kind_of(arm).make(arm, context).logits
  assert logits('plain', context.splits['plain'].test).shape[1] == 10


def mine(arm, context):
  """A kind of the user's."""
  return of_model(context, context.base_model)


@pytest.mark.parametrize('change, message', [
    (dict(arms=dict(m=dict(op='tise'))), "'ties'"),
    (dict(arms=dict(m=dict(kind='merged'))), "'merge'"),
    (dict(arms=dict(m=dict(experts=('plian',)))), "'plain'"),
    (dict(arms=dict(m=dict(settings=dict(desnity=0.1)))), "'density'"),
    (dict(arms=dict(m=dict(tune=dict(scael=(1,))))), "'scale'"),
    (dict(arms=dict(m=dict(settings=dict(density=2.0)))), r'arms.m: .*density'),
    (dict(arms=dict(m=dict(settings=dict(elect='summ')))), "'sum'"),
    (dict(arms=dict(m=dict(weight=(1.0, 2.0, 3.0)))), 'for each of 2 experts'),
    (dict(arms=dict(m=dict(weight='a'))), "arms.m.weight must be .*'a'"),
    (dict(arms=dict(m=dict(rules=(('a', dict(densty=1)),)))), "'density'"),
    (dict(arms=dict(m=dict(tuned_as='mean'))), 'tuned_as'),
    (dict(arms=dict(m=dict(path=2))), 'three points'),
    (dict(arms=dict(m=dict(align='weight_macthing'))), "'weight_matching'"),
    (dict(arms=dict(m=dict(shuffle=('fishr',)))), 'fishr'),
    (dict(arms=dict(m=dict(tnue={}))), "'tune'"),
    (dict(claims=dict(c=compare.Claim('m', 'x'))), "arm 'x'"),
    (dict(tasks=dict(plain=dict(changes=dict(lop=dict(steps=2))))), "'loop'"),
    (dict(tasks=dict(plain=dict(changes=dict(model=dict(name='mlp'))))),
     'plain.changes.model'),
    (dict(tasks=dict(plain=dict(changes=dict(data=dict(size=12))))),
     'input_shape'),
    (dict(tasks=dict(plain=dict(changes=dict(data=dict(classes=(77,)))))),
     'data.classes'),
    (dict(tasks=dict(plain=dict(checkpoint='/nowhere'))), '/nowhere'),
    (dict(base='/nowhere'), '/nowhere'),
    (dict(base='pretrian'), 'pretrian'),
    (dict(tasks=dict(other=dict(changes=dict(data=dict(mean=(0.1,)))))),
     'data.mean'),
    (dict(pretrain=dict(model=dict(name='mpl'))), "'mlp'"),
], ids=lambda x: x if isinstance(x, str) else '')
def test_bad_config(change, message):
  with pytest.raises(core.UserError, match=message) as e:
    merge.check(core.spec.change(config(m=Arm(op='ties')), change))
  assert '\n' not in str(e.value)


def test_no_validation_is_told():
  c = config(m=Arm(op='ties', tune=dict(scale=(0.5, 1.0))))
  with pytest.raises(core.UserError, match='no validation examples'):
    merge.check(core.spec.change(c, dict(finetune=dict(
        data=dict(validation=0)))))
