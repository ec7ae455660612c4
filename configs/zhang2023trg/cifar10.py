r"""Token relationship graphs (TRG) against KD and instance relations (RKD).

  python -m experiments.run --workdir runs/trg \
      --config configs/zhang2023trg/cifar10.py:small

Arms `..._tail` train on a long tail: 50 times as many images of the first
class as of the last. All parts of TRG have weight 1 before the common 0.5.

Here, `small`:

  trg_tail over rkd_tail, above trg - rkd: +0.0081 +- 0.0114, undecided
  trg over kd: +0.0333 +- 0.0055, holds
  trg over rkd: +0.0243 +- 0.0130, undecided
  trg_tail over rkd_tail: +0.0324 +- 0.0025, holds
"""
from configs import common
from configs.common import images

VARIANTS = {'small': '17 min, 2 busy cores', 'paper': 'accelerator, hours',
            'tiny': 'seconds'}


def get_config(variant: str = 'small'):
  c = images.cifar_pair('zhang2023trg')
  r = c.run
  images.rkd(r, variant)
  graph = dict(teacher='teacher', module='graph', tokens=8,
               **images.CIFAR_MAPS)
  r.modules.graph = common.module('TokenGraph')
  r.terms.trg = common.term('token_graph', weight=0.5, **graph)
  rkd, trg = ('task', 'kd', 'distance', 'angle'), ('task', 'kd', 'trg')
  for name, terms in (('rkd', rkd), ('trg', trg)):
    c.arms[name] = common.arm(*terms)
    c.arms[f'{name}_tail'] = common.arm(*terms, data=dict(imbalance=50.0))
  c.claims.trg_kd = common.claim('trg', 'kd')
  c.claims.trg_rkd = common.claim('trg', 'rkd')
  c.claims.trg_rkd_tail = common.claim('trg_tail', 'rkd_tail')
  c.claims.margin_grows = common.claim('trg_tail', 'rkd_tail',
                                       above=('trg', 'rkd'))
  return images.pair_variant(c, variant, VARIANTS)
