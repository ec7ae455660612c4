r"""Fusion by optimal transport of MLPs that have nothing in common but data.

  python -m experiments.run --workdir runs/otfusion \
      --config configs/singh2019otfusion/mnist.py:small

Two MLPs of different seeds, on the same images. `mean` averages them as they
are; the others move the second to the units of the first before: by the
weights that units have, by their activations on 200 images, or by weight
matching. `barrier` is that of the loss on the line between the two.
At half the rate and half the updates the mean keeps 73 percent, and the gain of
20 +- 2 points is undecided against a margin of 20; with two hidden layers it
keeps 82 percent.
The paper's VGG11 on CIFAR-10: vanilla 17.02, transport 85.98 of 90.5 percent.

Here, `small`:

  transport over mean (pooled), by 20 points: +0.6863 +- 0.0343, holds
  activations over mean (pooled), by 20 points: +0.6848 +- 0.0351, holds
  transport below mean (barrier): -1.5315 +- 0.0553 nats, to 0, holds
  activations below mean (barrier): -1.5315 +- 0.0553 nats, to 0, holds
  transport over ensemble (pooled): -0.0110 +- 0.0009, fails
"""
from configs import common
from configs.common import mnist

VARIANTS = {'small': '3 min, 2 busy cores', 'tiny': 'seconds'}


def get_config(variant: str = 'small'):
  c = mnist.merge_two('singh2019otfusion')
  c.arms.transport = common.merging('linear', path=11,
                                    align='optimal_transport')
  c.arms.activations = common.merging('linear', path=11,
                                      align='optimal_transport',
                                      align_settings=dict(features=True))
  c.arms.weight_matching = common.merging('linear', path=11,
                                          align='weight_matching')
  for arm in ('transport', 'activations'):
    c.claims[arm] = common.claim(arm, 'mean', 'pooled', margin=0.2)
    c.claims[f'{arm}_barrier'] = common.claim(arm, 'mean', 'barrier',
                                              lower=True)
  c.claims.ensemble = common.claim('transport', 'ensemble', 'pooled')
  return mnist.merge_variant(c, variant, VARIANTS)
