r"""Decoupled distillation against KD.

  python -m experiments.run --workdir runs/dkd \
      --config configs/zhao2022dkd/cifar10.py:small

Here, `small`:

  dkd over label: +0.0311 +- 0.0066, holds
  dkd over kd: -0.0101 +- 0.0154, undecided
  kd over label: +0.0412 +- 0.0134, holds
"""
from configs import common
from configs.common import images

VARIANTS = {'small': '4 min, 2 busy cores', 'paper': 'accelerator, hours',
            'tiny': 'seconds'}


def get_config(variant: str = 'small'):
  c = images.cifar_pair('zhao2022dkd')
  r = c.run
  r.terms.dkd = common.term('dkd', teacher='teacher', warmup=100)
  c.arms.dkd = common.arm('task', 'dkd')
  c.claims.kd = common.claim('kd', 'label')
  c.claims.dkd = common.claim('dkd', 'label')
  c.claims.dkd_kd = common.claim('dkd', 'kd')
  if variant == 'paper':
    r.terms.dkd.warmup = 20 * images.CIFAR_EPOCH
  return images.pair_variant(c, variant, VARIANTS)
