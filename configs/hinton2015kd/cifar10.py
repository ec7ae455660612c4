r"""Knowledge distillation against training on labels, on part of CIFAR-10.

  python -m experiments.run --config configs/hinton2015kd/cifar10.py:small \
      --workdir runs/kd

`paper` is the recipe by which later papers measure KD on CIFAR-100.

Here, `small`:

  kd over label: +0.0412 +- 0.0134, holds
"""
from configs import common

VARIANTS = {'small': '5 min, 2 busy cores', 'paper': 'accelerator, hours',
            'tiny': 'seconds'}


def get_config(variant: str = 'small'):
  r = common.cifar_pair()
  r.paper = 'hinton2015kd'
  r.terms.task = common.term('cross_entropy')
  r.terms.kd = common.term('kd', weight=0.9, teacher='teacher')
  c = common.compare(r)
  c.arms.label = common.arm('task')
  c.arms.kd = common.arm('task', 'kd')
  c.claims.kd = common.claim('kd', 'label')
  return common.pair_variant(c, variant, VARIANTS)
