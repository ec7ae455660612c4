r"""Task negation: a net forgets turned digits and still reads upright ones.

  python -m experiments.run --workdir runs/negation \
      --config configs/ilharco2022task/negation.py:small

The base has seen both. The vector is that of fine-tuning on turned digits; its
weight is the one that forgets most of those that keep 95 percent of the base's
accuracy on upright ones, on held-out images. `random` has the same entries in
another order. One head for all.
The paper edits CLIP's ViTs: no such variant.

Here, `small`:

  negated below base (accuracy_turned): -0.1246 +- 0.0197, holds; by less than
    the 20 points that were hoped for
  negated below random (accuracy_turned): -0.0993 +- 0.0180, holds
  negated not 5 points below base (accuracy_upright): -0.0279 +- 0.0022, holds
"""
from configs import common
from configs.common import mnist

VARIANTS = {'small': '2 min, 2 busy cores', 'tiny': 'seconds'}


def get_config(variant: str = 'small'):
  c = mnist.merge_mnist('ilharco2022task')
  c.tasks.upright = common.task(data=dict(rotation=0.0))
  c.tasks.turned = common.task(data=dict(rotation=90.0))
  parts = [common.data('mnist', train='train[20000:26000]', validation=0,
                       rotation=angle).to_dict() for angle in (0.0, 90.0)]
  c.pretrain.data = common.data('kt_jax.data:union', validation=0,
                                kw=dict(parts=parts))
  c.pretrain.loop.steps = 1000
  negate = dict(experts=('turned',), tasks=('upright', 'turned'),
                forget='turned', tune=dict(weight=tuple(
                    -w / 10 for w in (1, 2, 3, 4, 6, 8, 10, 15, 20, 30))))
  c.arms.base = common.merging(kind='base')
  c.arms.negated = common.merging('task_arithmetic', **negate)
  c.arms.random = common.merging('task_arithmetic', shuffle=('models',),
                                 **negate)
  c.baseline = 'base'
  c.seeds = tuple(range(5))
  forgets = dict(metric='accuracy_turned', lower=True)
  c.claims.forgets = common.claim('negated', 'base', **forgets)
  c.claims.random = common.claim('negated', 'random', **forgets)
  c.claims.stays = common.claim('negated', 'base', 'accuracy_upright',
                                margin=-0.05)
  c = mnist.merge_variant(c, variant, VARIANTS)
  if variant == 'tiny':
    c.arms.negated.control = c.arms.random.control = 0.0
  return c
