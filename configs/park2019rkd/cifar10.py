r"""Relational distillation, distances and angles, against labels and KD.

  python -m experiments.run --config configs/park2019rkd/cifar10.py:small \
      --workdir runs/rkd
"""
from configs import common

VARIANTS = {'small': 'not measured', 'paper': 'accelerator, hours',
            'tiny': 'seconds'}


def get_config(variant: str = 'small'):
  r = common.cifar_pair()
  r.paper = 'park2019rkd'
  r.terms.task = common.term('cross_entropy')
  r.terms.kd = common.term('kd', weight=0.9, teacher='teacher')
  r.terms.distance = common.term('rkd_distance', weight=25.0,
                                 teacher='teacher', taps='pool')
  r.terms.angle = common.term('rkd_angle', weight=50.0, teacher='teacher',
                              taps='pool')
  c = common.compare(r)
  c.arms.label = common.arm('task')
  c.arms.kd = common.arm('task', 'kd')
  c.arms.rkd_d = common.arm('task', 'distance')
  c.arms.rkd = common.arm('task', 'distance', 'angle')
  c.arms.rkd_kd = common.arm('task', 'kd', 'distance', 'angle')
  c.claims.rkd = common.claim('rkd', 'label')
  c.claims.angle = common.claim('rkd', 'rkd_d')
  c.claims.rkd_kd = common.claim('rkd_kd', 'kd')
  return common.pair_variant(c, variant, VARIANTS)
