r"""Twin-Merging of experts on rotated digits, told apart by a router.

  python -m experiments.run --config configs/lu2024twin/mnist.py:small \
      --workdir runs/twin

All tasks share the head, so that no test input says which task it is of.

Here, `small`:

  twin over arithmetic: +0.3752 +- 0.0112, holds
  own over arithmetic: +0.4733 +- 0.0179, holds
  own over twin: +0.0981 +- 0.0068, holds
  twin over random: +0.5151 +- 0.0057, holds
  twin over ties: +0.4574 +- 0.0112, holds
  twin over uniform: +0.3771 +- 0.0069, holds

Twin-Merging recovers 0.79 of what task arithmetic lacks of the experts, short
of 0.8; with the router's first choice alone (`argmax`) 0.81, with the task told
(`oracle`) 0.94. The router finds the task of 0.87 of the test inputs. Uniform
routing gains nothing, random routing loses. A first run, with the last hidden
layer, 500 steps and dropout of a half, recovered 0.37; features, steps,
learning rate and dropout were then chosen on held-out examples of one seed.
"""
from configs import common
from configs.common import mnist

VARIANTS = {'small': '8 min, 2 busy cores', 'tiny': 'seconds'}


def get_config(variant: str = 'small'):
  c = mnist.merge_rotated('lu2024twin', (0, 60, 120, 180, 240, 300))
  c.arms.ties = common.merging('ties', tune=dict(
      weight=(0.1, 0.2, 0.3, 0.5, 0.7, 1.0), density=(0.1, 0.2, 0.4)))
  route = lambda router, **kw: common.merging(
      kind='route', tuned_as='arithmetic', settings=dict(
          router=router, tap='blocks/0', steps=2000, learning_rate=2e-3,
          dropout=0.2) | kw)
  c.arms.twin = route('mlp')
  c.arms.oracle = route('oracle')
  c.arms.argmax = route('argmax')
  c.arms.uniform = route('uniform')
  c.arms.random = route('random')
  c.claims.ties = common.claim('twin', 'ties')
  c.claims.arithmetic = common.claim('twin', 'arithmetic')
  c.claims.uniform = common.claim('twin', 'uniform')
  c.claims.random = common.claim('twin', 'random')
  c.claims.gap = common.claim('own', 'arithmetic')
  c.claims.missing = common.claim('own', 'twin')
  return mnist.merge_variant(c, variant, VARIANTS)
