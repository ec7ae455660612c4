"""The bench protocol: its tiny runs, and how it counts time."""
import json
import math

import jax
import pytest

from experiments import bench
from experiments.bench import distill
from experiments.bench import lm_loss
from experiments.bench import loop
from experiments.bench import losses
from experiments.bench import population
from experiments.bench import startup
from kt_jax import core
from kt_jax import data
from kt_jax.launch import config as configs


def tiny(name):
  return configs.load(f'configs/bench/{name}.py:tiny')


def numbers(tree):
  """Every number of nested dicts and lists."""
  if isinstance(tree, (int, float)):
    yield tree
  elif isinstance(tree, (dict, list)):
    for value in tree.values() if isinstance(tree, dict) else tree:
      yield from numbers(value)


def test_startup_says_where_the_time_went(tmp_path):
  found = bench.run(tiny('startup'), tmp_path)
  for stage in (*startup.STAGES, 'total', 'load average'):
    assert stage in found['table']
  raw = json.loads((tmp_path / 'bench.json').read_text())['raw']['digits']
  for kind in ('cold', 'warm'):
    for launch in raw[kind]:
      assert set(launch) == {*startup.STAGES, 'total'}
      assert all(map(math.isfinite, launch.values()))
      assert all(launch[s] > 0 for s in ('imports', 'check', 'trace', 'compile',
                                         'first step', 'total'))
      assert min(launch.values()) > -0.05  # clocks of two sources
      parts = sum(v for s, v in launch.items() if s != 'total')
      assert parts == pytest.approx(launch['total'], abs=1e-3)
    assert found[f'digits_{kind}_s'] > 0
  assert (tmp_path / 'report.md').read_text().endswith(found['table'])


def test_loop_measures_every_line(tmp_path):
  config = tiny('loop')
  found = bench.run(config, tmp_path)
  for line in (*loop.CASES.values(), 'stream alone, 1 threads', 'checkpoint'):
    assert line in found['table']
  raw = json.loads((tmp_path / 'bench.json').read_text())['raw']['digits']
  assert set(raw['ms_per_step']) == set(loop.CASES)
  for values in [*raw['ms_per_step'].values(),
                 *raw['images_per_second'].values()]:
    assert len(values) == config.settings['repeats']
  assert all(math.isfinite(x) and x > 0 for x in numbers(raw))
  assert all(map(math.isfinite, numbers(found)))
  assert bench.run(config, tmp_path) == found  # not measured again


def test_distill_measures_every_line(tmp_path):
  config = tiny('distill')
  found = bench.run(config, tmp_path)
  for line in (what for what, _, _ in distill.CASES.values()):
    assert line in found['table']
  raw = json.loads((tmp_path / 'bench.json').read_text())['raw']
  assert set(raw['pair']) == set(distill.CASES)
  assert set(raw['losses']) == {'step', 'step again',
                                *config.settings['losses']}
  assert all(math.isfinite(x) and x > 0 for x in numbers(raw))
  assert all(map(math.isfinite, numbers(found)))
  assert {'pair_kd_ratio', 'pair_cached_ratio'} <= set(found)
  assert found['losses_losses'] == len(config.settings['losses'])


def test_the_teacher_is_where_it_is_said_to_be(tmp_path):
  """In the step, or in the stream: by the arithmetic of compiled steps."""
  work = bench.read(tiny('distill'))[2]['pair']
  flops = {}
  for name, (run, stream) in distill.prepared(work, str(tmp_path)).items():
    batch = next(stream)
    stream.close()
    assert ('cached/teacher/logits' in batch) == (name == 'cached')
    for parent in run.parents:
      assert parent.model == dict(name='convnet', kw=dict(widths=[4, 4]))
    session = run.session
    flops[name] = session.step.lower(
        session.abstract, batch, session.inputs).cost_analysis()['flops']
  assert flops['labels'] < flops['cached'] < 1.1 * flops['labels']
  assert flops['kd'] > 1.2 * flops['cached']


def test_every_loss_is_measured():
  """In the shapes of a ResNet-20 step each has its arrays and a gradient."""
  _, settings, workloads = bench.read(
      configs.load('configs/bench/distill.py:small'))
  assert not settings.losses, 'all of them'
  work = workloads['losses']
  shapes = losses.outputs(work, data.abstract(work.data), settings.maps)
  assert [x.shape for x in (*shapes['all'], shapes['pool'], shapes['logits'])
         ] == [(128, 32, 32, 16), (128, 16, 16, 32), (128, 8, 8, 64),
               (128, 64), (128, 100)]
  assert losses.public()
  for loss in losses.public():
    value, grads = jax.eval_shape(
        losses.gradient(loss), losses.arrays(loss, shapes))
    assert value.shape == () and grads, loss
  for table in (losses.REASONS, losses.FEATURES,
                losses.SETTINGS):
    assert set(table) <= set(losses.public())


def test_population_compiles_once_and_scores_as_the_loop(tmp_path):
  config = tiny('population')
  found = bench.run(config, tmp_path)
  raw = json.loads((tmp_path / 'bench.json').read_text())['raw']
  arms = {population.LOOP, 'batch 1', 'batch 4'}
  assert set(raw) == set(config.workloads)
  for name, one in raw.items():
    assert set(one['ms']) == set(one['cpu_ms']) == set(one['megabytes']) == arms
    assert one['compilations'] == dict.fromkeys(arms, 1), name
    assert f'{name}_batch_1_ratio' in found
  assert all(math.isfinite(x) and x >= 0 for x in numbers(raw))
  # All arms measure one thing.
  _, settings, workloads = bench.read(config)
  score, genomes, args = population.problem(workloads['dare'], settings)
  scores = [run(genomes) for run in population._cases(
      score, args, settings.batch_sizes).values()]
  for other in scores[1:]:
    assert scores[0] == pytest.approx(other, abs=1e-6)


def test_lm_loss_measures_memory_and_time(tmp_path):
  config = tiny('lm_loss')
  assert not bench.check(config)
  found = bench.run(config, tmp_path)
  raw = json.loads((tmp_path / 'bench.json').read_text())['raw']['heads']
  work = bench.read(config)[2]['heads']
  assert set(raw['gigabytes']) == set(work.losses)
  assert set(raw['ms']) == {lm_loss.PRODUCTS, *work.timed}
  assert all(math.isfinite(x) and x > 0 for x in numbers(raw))
  assert found['heads_kd_memory_ratio'] > 1 and 'heads_kd_time_ratio' in found
  wrong = core.spec.change(config, dict(workloads=dict(heads=dict(
      losses=('kdd',)))))
  with pytest.raises(core.UserError, match="Did you mean 'kd'"):
    bench.check(wrong)


def test_check_names_the_workloads_and_refuses_other_measures():
  config = configs.load('configs/bench/startup.py:small')
  assert [r.name for r in bench.check(config)] == ['digits', 'resnet20']
  for changes, hint in (
      (dict(measure='lop'), "Did you mean 'loop'"),
      (dict(settings=dict(repeat=2)), "Did you mean 'repeats'"),
      (dict(workloads=dict(digits=dict(loop=dict(stepz=2)))),
       "Did you mean 'steps'")):
    with pytest.raises(core.UserError, match=hint):
      bench.check(core.spec.change(config, changes))


def test_a_moment_counts_once():
  line = startup.Timeline()
  for name, begin, end in [('trace', 2, 3), ('trace', 1, 4), ('compile', 4, 6),
                           ('first step', 1, 7), ('trace', 8, 9),
                           ('later imports', 9, 10), ('check', 8, 11)]:
    line.add(name, begin, end)
  assert dict(line.exclusive()) == {
      'trace': 3, 'compile': 2, 'first step': 1, 'check': 2,
      'later imports': 1}
