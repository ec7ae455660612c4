r"""Model soups: one fine-tuning in eight ways, and which of them to average.

  python -m experiments.run --workdir runs/soups \
      --config configs/wortsman2022soups/mnist.py:small

A net that reads upright digits is fine-tuned on digits turned by 30 degrees, at
several rates, lengths and regularisations. `greedy` takes a model into the mean
if the held-out accuracy does not fall; `single` is the best one there.
The paper fine-tunes CLIP on ImageNet: no such variant.

Here, `small` (pooled accuracy; greedy soups have 1.8 members on average):

  greedy over single: -0.0003 +- 0.0008, undecided
  greedy over uniform: +0.0056 +- 0.0011, holds
  uniform over single: -0.0060 +- 0.0007, fails
  greedy over single (validation): +0.0020 +- 0.0014, undecided
"""
from configs import common
from configs.common import mnist

VARIANTS = {'small': '3 min, 2 busy cores', 'tiny': 'seconds'}


def get_config(variant: str = 'small'):
  c = mnist.merge_mnist('wortsman2022soups', steps=500)
  c.pretrain.data.update(train='train[20000:26000]')
  c.finetune.data.rotation = 30.0
  ways = dict(
      plain={}, low=dict(optimizer=dict(learning_rate=0.01)),
      middle=dict(optimizer=dict(learning_rate=0.02)),
      high=dict(optimizer=dict(learning_rate=0.1)),
      long=dict(loop=dict(steps=1000)), short=dict(loop=dict(steps=250)),
      decay=dict(optimizer=dict(l2=1e-3)),
      smooth=dict(terms=dict(task=dict(kw=dict(label_smoothing=0.1)))))
  for name, changes in ways.items():
    c.tasks[name] = common.task(**changes)
  c.arms.base = common.merging(kind='base')
  c.arms.single = common.merging(kind='best_single')
  c.arms.ensemble = common.merging(kind='ensemble')
  c.arms.uniform = common.merging('linear')
  c.arms.greedy = common.merging(kind='greedy_soup')
  c.baseline = 'single'
  c.seeds = tuple(range(5))
  c.claims.greedy = common.claim('greedy', 'single', 'pooled')
  c.claims.greedy_uniform = common.claim('greedy', 'uniform', 'pooled')
  c.claims.uniform = common.claim('uniform', 'single', 'pooled')
  c.claims.held_out = common.claim('greedy', 'single', 'validation')
  return mnist.merge_variant(c, variant, VARIANTS)
