r"""Task addition: one net of what four fine-tunings learnt.

  python -m experiments.run --workdir runs/addition \
      --config configs/ilharco2022task/addition.py:small

Experts of digits turned by 0, 30, 60 and -30 degrees; the sum of their task
vectors, at one scale that held-out images choose. One head for all.
The paper adds tasks to CLIP's ViTs: no such variant.

Here, `small` (pooled accuracy):

  added over base: +0.1731 +- 0.0072, holds
  added over single: +0.1196 +- 0.0048, holds
  added over mean: -0.0020 +- 0.0018, undecided
"""
from configs import common
from configs.common import mnist

VARIANTS = {'small': '2 min, 2 busy cores', 'tiny': 'seconds'}


def get_config(variant: str = 'small'):
  c = mnist.merge_mnist('ilharco2022task')
  c.pretrain.data.train = 'train[20000:26000]'
  for name, angle in dict(upright=0, left=30, far=60, right=-30).items():
    c.tasks[name] = common.task(data=dict(rotation=float(angle)))
  for name, kind in dict(own='individual', single='best_single').items():
    c.arms[name] = common.merging(kind=kind)
  for kind in ('base', 'ensemble', 'multitask'):
    c.arms[kind] = common.merging(kind=kind)
  c.arms.mean = common.merging('linear')
  c.arms.added = common.merging('task_arithmetic', weight=(1.0,), tune=dict(
      scale=(0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0)))
  c.baseline = 'base'
  c.seeds = tuple(range(5))
  for other in ('base', 'single', 'mean'):
    c.claims[other] = common.claim('added', other, 'pooled')
  return mnist.merge_variant(c, variant, VARIANTS)
