r"""Git Re-Basin: MLPs of different seeds, permuted into one basin.

  python -m experiments.run --workdir runs/rebasin \
      --config configs/ainsworth2022rebasin/mnist.py:small

Two MLPs of different seeds; permutations move the second to the first, found in
the weights or in activations on 200 images. `barrier` is that of the loss on
the line between the two. The paper's MLPs have 512 units a layer, these 128.
At half the rate and half the updates the mean keeps 73 percent, and the gain of
20 +- 2 points is undecided against a margin of 20.

Here, `small`:

  weight_matching over mean (pooled), by 20 points: +0.6861 +- 0.0349, holds
  activation_matching over mean (pooled), by 20 points: +0.6846 +- 0.0345, holds
  weight_matching below mean (barrier): -1.5315 +- 0.0553 nats, to 0, holds
  activation_matching below mean (barrier): -1.5315 +- 0.0553 nats, to 0, holds
"""
from configs import common
from configs.common import mnist

VARIANTS = {'small': '3 min, 2 busy cores', 'tiny': 'seconds'}


def get_config(variant: str = 'small'):
  c = mnist.merge_two('ainsworth2022rebasin')
  for arm in ('weight_matching', 'activation_matching'):
    c.arms[arm] = common.merging('linear', path=11, align=arm)
    c.claims[arm] = common.claim(arm, 'mean', 'pooled', margin=0.2)
    c.claims[f'{arm}_barrier'] = common.claim(arm, 'mean', 'barrier',
                                              lower=True)
  return mnist.merge_variant(c, variant, VARIANTS)
