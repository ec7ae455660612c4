r"""`kt-merge` beside mergekit, and beside reading and writing alone.

  python -m experiments.run --config configs/bench/merge.py:small \
      --workdir runs/bench_merge --config.mergekit=mergekit-yaml

Makes a base and three experts of a gigabyte in the cache folder, once. mergekit
runs in turn with ours where `mergekit` names its command, which may be in an
environment of its own.

Here, `small`, beside mergekit 0.1.5, medians of 3 turns, and of 2 turns in an
hour in which the whole machine was half as fast:

  recipe           kt-merge, s  over disk (limit)  mergekit over kt-merge  GB
  linear           3.1, 5.9     3.2, 3.6 (2.5)     4.4, 3.8                0.08
  task_arithmetic  2.2, 5.1     3.5, 1.1 (2.5)     5.4, 3.9                0.08
  ties             7.6, 10.9    11.0, 3.1 (5)      14.0, 13.6              0.16

Memory is within its limits, time is not: a second of the process is imports and
compiling, 0.3 s the disk's confirmation. The targets (10, 10, 17 times) come from
measurements in which mergekit took 18, 15 and 181 s; here 11 to 22, 11 to 20
and 103 to 149.
"""
from configs import common

VARIANTS = {'small': '2 min, 2 cores; 8 min with mergekit', 'tiny': '10 s'}


def get_config(variant: str = 'small'):
  c = common.supervised('bench')
  c.measure = 'merge'
  c.mergekit = ''  # path of mergekit-yaml
  c.repeats = 3  # turns
  c.width, c.inner, c.layers, c.vocabulary = 2048, 5632, 8, 32000
  c.experts = 3
  experts = lambda weight, **more: [
      dict(model=f'expert{t}', parameters=dict(weight=weight, **more))
      for t in range(c.experts)]
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
    c.repeats = 1
    c.width, c.inner, c.layers, c.vocabulary = 64, 128, 2, 128
    del c.workloads['task_arithmetic']
  elif variant != 'small':
    raise common.unknown_variant(variant, *VARIANTS)
  return c
