r"""Distillation by correlation (DIST) against KD.

  python -m experiments.run --workdir runs/dist \
      --config configs/huang2022dist/cifar10.py:small

Here, `small`:

  dist over label: -0.0257 +- 0.0116, fails
  dist over kd: -0.0669 +- 0.0246, fails
"""
from configs import common
from configs.common import images

VARIANTS = {'small': '6 min, 2 busy cores', 'paper': 'accelerator, hours',
            'tiny': 'seconds'}


def get_config(variant: str = 'small'):
  c = images.cifar_pair('huang2022dist')
  r = c.run
  r.terms.dist = common.term('dist', teacher='teacher', temperature=4.0)
  c.arms.dist = common.arm('task', 'dist')
  c.claims.dist = common.claim('dist', 'label')
  c.claims.dist_kd = common.claim('dist', 'kd')
  return images.pair_variant(c, variant, VARIANTS)
