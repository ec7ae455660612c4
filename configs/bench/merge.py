r"""`kt-merge` beside mergekit, and beside reading and writing alone.

  python -m experiments.run --config configs/bench/merge.py:small \
      --workdir runs/bench_merge --config.settings.mergekit=mergekit-yaml

Makes a base and three experts of a gigabyte in the cache folder, once. mergekit
runs in turn with ours where `mergekit` names its command, which may be in an
environment of its own.

Here, `small` with --config.settings.repeats=2, beside mergekit 0.1.5, medians
(quartiles), in an hour in which machine and disk were half as fast as before:

  recipe           kt-merge  over disk (limit)  mergekit over kt-merge  GB
  linear           5.9 s     3.6 (2.5)          3.8 (3.8 to 3.8)        0.08
  task_arithmetic  5.1 s     1.1 (2.5)          3.9 (3.8 to 3.9)        0.08
  ties             10.9 s    3.1 (5)            13.6 (13.4 to 13.9)     0.16

Memory is within its limits, time is not: a second of the process is imports and
compiling, 0.3 s the disk's confirmation. The targets are 10, 10 and 17 times;
over a fast disk all three recipes miss their limits.
"""
from configs import common

VARIANTS = {'small': '2 min, 2 cores; 8 min with mergekit', 'tiny': '10 s'}


def get_config(variant: str = 'small'):
  c = common.bench('merge')
  experts = lambda weight, **more: [
      dict(model=f'expert{t}', parameters=dict(weight=weight, **more))
      for t in range(3)]
  elementwise = dict(speedup=10, over_disk=2.5, memory_gb=0.3)
  c.workloads = dict(
      linear=dict(elementwise, recipe=dict(
          merge_method='linear', dtype='bfloat16', models=experts(1.0))),
      task_arithmetic=dict(elementwise, recipe=dict(
          merge_method='task_arithmetic', dtype='bfloat16', base_model='base',
          models=experts(0.3))),
      ties=dict(speedup=17, over_disk=5, memory_gb=1, recipe=dict(
          merge_method='ties', dtype='bfloat16', base_model='base',
          models=experts(1.0, density=0.2))))
  if variant == 'tiny':
    c.settings = dict(repeats=1, width=64, inner=128, layers=2, vocabulary=128)
    del c.workloads['task_arithmetic']
  elif variant != 'small':
    raise common.unknown_variant(variant, *VARIANTS)
  return c
