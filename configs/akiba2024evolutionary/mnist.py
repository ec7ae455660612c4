r"""Merge recipes found by CMA-ES: of parameters, and of paths through layers.

  python -m experiments.run --workdir runs/evolutionary \
      --config configs/akiba2024evolutionary/mnist.py:small

Experts on rotated digits that differ in their residual blocks; what is before
and behind these stays as the base has it. Fitness is accuracy on held-out
examples (`validation`), the claims are on the test sets.

Here, `small`:

  parameters over flow: +0.0471 +- 0.0079, holds
  parameters over arithmetic: +0.0328 +- 0.0002, holds
  parameters_ties over ties: +0.0891 +- 0.0076, holds
  parameters over random: +0.0087 +- 0.0032, holds
  parameters_ties over random_ties: +0.0363 +- 0.0053, holds
  flow over flow_unscaled: +0.0184 +- 0.0090, holds

Fitness of what was found is 0.01 to 0.02 above its accuracy on the test sets.
With W fixed to 1 the path loses 3% (the paper: more than 20%); no path is as
good as a merge of the parameters, nor as task arithmetic, though a path has
twice the evaluations. With 2000 of them, on one seed, 0.601 and 0.565 (W = 1);
600 is for time.
"""
from configs import common
from configs.common import mnist

VARIANTS = {'small': '4 min, 2 cores', 'tiny': 'seconds'}


def get_config(variant: str = 'small'):
  c = mnist.merge_rotated('akiba2024evolutionary', (0, 60, 120))
  c.pretrain.model = dict(name='residual_mlp',
                          kw=dict(width=64, depth=4))
  c.finetune.trainable = '^blocks/'
  grid = tuple(round(0.1 * n, 1) for n in range(1, 13))
  c.arms.ties = common.merging('ties', tune=dict(weight=grid,
                                                 density=(0.2, 0.4, 0.7)))
  search = lambda op, **kw: common.merging(op, 'evolve', settings=dict(
      groups='layer', evaluations=300) | kw)
  c.arms.parameters = search('linear')
  c.arms.parameters_ties = search('ties', genes=('weight', 'density'))
  c.arms.random = search('linear', search='random_search')
  c.arms.random_ties = search('ties', genes=('weight', 'density'),
                              search='random_search')
  flow = lambda **kw: common.merging(kind='layer_path', settings=dict(
      repeats=2, evaluations=600, batch_size=20) | kw)
  c.arms.flow = flow()
  c.arms.flow_unscaled = flow(scaled=False)
  c.claims.parameters = common.claim('parameters', 'arithmetic')
  c.claims.parameters_ties = common.claim('parameters_ties', 'ties')
  c.claims.random = common.claim('parameters', 'random')
  c.claims.random_ties = common.claim('parameters_ties', 'random_ties')
  c.claims.scales = common.claim('flow', 'flow_unscaled')
  c.claims.flow = common.claim('parameters', 'flow')
  return mnist.merge_variant(c, variant, VARIANTS)
