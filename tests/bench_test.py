"""The bench protocol: its tiny runs, and how it counts time."""
import json
import math
import pathlib
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:
  sys.path.insert(0, str(ROOT))

from experiments import bench
from experiments import bench_loop
from experiments import bench_startup
from experiments import config as configs
from kt_jax import core


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
  for stage in (*bench_startup.STAGES, 'total', 'load average'):
    assert stage in found['table']
  raw = json.loads((tmp_path / 'bench.json').read_text())['raw']['digits']
  for kind in ('cold', 'warm'):
    for launch in raw[kind]:
      assert set(launch) == {*bench_startup.STAGES, 'total'}
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
  for line in (*bench_loop.ARMS.values(), 'stream alone, 1 threads', 'checkpoint'):
    assert line in found['table']
  raw = json.loads((tmp_path / 'bench.json').read_text())['raw']['digits']
  assert set(raw['ms_a_step']) == set(bench_loop.ARMS)
  for values in [*raw['ms_a_step'].values(), *raw['images_a_second'].values()]:
    assert len(values) == config.repeats
  assert all(math.isfinite(x) and x > 0 for x in numbers(raw))
  assert all(map(math.isfinite, numbers(found)))
  assert bench.run(config, tmp_path) == found  # not measured again


def test_check_names_the_workloads_and_refuses_other_measures():
  config = configs.load('configs/bench/startup.py:small')
  assert [r.name for r in bench.check(config)] == ['digits', 'resnet20']
  config.measure = 'lop'
  with pytest.raises(core.UserError, match="Did you mean 'loop'"):
    bench.check(config)


def test_a_moment_counts_once():
  line = bench_startup.Timeline()
  for name, begin, end in [('trace', 2, 3), ('trace', 1, 4), ('compile', 4, 6),
                           ('first step', 1, 7), ('trace', 8, 9),
                           ('later imports', 9, 10), ('check', 8, 11)]:
    line.add(name, begin, end)
  assert dict(line.exclusive()) == {
      'trace': 3, 'compile': 2, 'first step': 1, 'check': 2,
      'later imports': 1}
