r"""TGeo-KD: a learned weight for each sample, against fixed ones.

  python -m experiments.run --workdir runs/tgeo \
      --config configs/hu2024tgeo/digits.py:small

300 training images of which 30 % have a wrong label; the teacher's logits are
permuted for another 30 %; 200 clean images are held out, for the ratio network.
`fixed_P` gives the teacher P percent.
`paper` is CIFAR-100, ResNet-32x4 to 8x4, a tenth held out, nothing corrupted
(KD 74.07, TGeo-KD 76.83 in the paper).

Here, `small`:

  geo over fixed_0: +0.1578 +- 0.0189, holds
  geo over fixed_100: +0.1546 +- 0.0195, holds
  geo over fixed_25: +0.0670 +- 0.0206, holds
  geo over fixed_50: +0.0634 +- 0.0234, holds
  geo over fixed_75: +0.0892 +- 0.0207, holds
"""
from configs import common
from configs.common import images

VARIANTS = {'small': '5 min, 2 busy cores', 'paper': 'accelerator, hours',
            'tiny': 'seconds'}


def get_config(variant: str = 'small'):
  r = images.digits_run()
  r.paper = 'hu2024tgeo'
  r.data.update(validation=200, label_noise=0.3)
  r.batch.size = 100
  r.model = dict(name='mlp', kw=dict(width=32, depth=1))
  r.pretrain.data.update(subset=0, validation=200)
  r.pool.teacher = common.pretrained(
      model=dict(name='mlp', kw=dict(width=128, depth=2)))
  r.teachers.teacher = common.teacher('teacher', permute_logits=0.3)
  r.modules.ratio = common.module('SampleRatio')
  r.optimizers.ratio = common.optimizer('adam', 0.01)
  share = dict(teacher='teacher', module='ratio')
  r.terms.kd = common.term('kd', teacher='teacher', temperature=1.5)
  r.terms.task = common.term('cross_entropy')
  r.terms.geo_kd = common.term('kd', example_weight='teacher_share',
                               temperature=1.5, **share)
  r.terms.geo_task = common.term('cross_entropy', example_weight='label_share',
                                 **share)
  c = common.compare(r)
  c.arms.geo = common.arm('geo_kd', 'geo_task',
                          bilevel=dict(module='ratio', rate=0.1))
  for percent in (0, 25, 50, 75, 100):
    a = percent / 100
    c.arms[f'fixed_{percent}'] = common.arm('kd', 'task', terms=dict(
        kd=dict(weight=a), task=dict(weight=1 - a)))
    c.claims[f'fixed_{percent}'] = common.claim('geo', f'fixed_{percent}')
  c.seeds = tuple(range(10))
  if variant == 'paper':
    images.cifar100(r, 'resnet8x4', 'resnet32x4', validation=0.1)
    r.data.label_noise = r.teachers.teacher.permute_logits = 0.0
    r.pool.teacher.changes = dict(model=dict(name='resnet32x4', kw={}))
    r.bilevel.batch = 64
  return images.small_variant(c, variant, VARIANTS)
