r"""Class attention transfer against labels, KD and logit matching.

  python -m experiments.run --workdir runs/catkd \
      --config configs/guo2023catkd/cifar10.py:small

The arm `cat` sees no label and no logits; `logits` is the same loss pooled to
one cell, the match of logits that lies within CAT-KD.

Here, `small`:

  cat_kd over label: +0.0793 +- 0.0090, holds
  cat_kd over kd: +0.0381 +- 0.0049, holds
  cat_kd over logits: +0.0374 +- 0.0114, holds
"""
from configs import common
from configs.common import images

VARIANTS = {'small': '5 min, 2 busy cores', 'paper': 'accelerator, hours',
            'tiny': 'seconds'}


def get_config(variant: str = 'small'):
  c = images.cifar_pair('guo2023catkd')
  r = c.run
  cam = dict(teacher='teacher', **images.CIFAR_MAPS)
  r.terms.cat_kd = common.term('class_attention', weight=2.0, **cam)
  r.terms.logits = common.term('class_attention', weight=2.0, pool=1, **cam)
  r.terms.cat = common.term('class_attention', weight=50.0, normalize=True,
                            **cam)
  c.arms.cat_kd = common.arm('task', 'cat_kd')
  c.arms.logits = common.arm('task', 'logits')
  c.arms.cat = common.arm('cat')
  c.claims.cat_kd = common.claim('cat_kd', 'label')
  c.claims.maps = common.claim('cat_kd', 'logits')
  c.claims.cat_kd_kd = common.claim('cat_kd', 'kd')
  if variant == 'paper':
    r.terms.cat_kd.weight = r.terms.logits.weight = 15.0
  return images.pair_variant(c, variant, VARIANTS)
