r"""HARD: augmentations learned against the student, out of domain.

  python -m experiments.run --workdir runs/hard \
      --config configs/nix2023hard/digits.py:small

Digits on a canvas twice their size. The teacher knows shifts of up to 4 pixels,
the student sees centered digits alone; `shifted_accuracy` is on shifted ones.
HARD is told an outer range of 8 pixels; `random_P` shifts by up to P.
`paper` is CIFAR-10, ResNet-32x4 to 8x4, with all affine transforms; the paper's
own settings are not public.

Here, `small`:

  hard over plain (shifted_accuracy): +0.4948 +- 0.0075, holds
  hard over plain: -0.0016 +- 0.0015, undecided
  hard over random_1 (shifted_accuracy): +0.3836 +- 0.0080, holds
  hard over random_2 (shifted_accuracy): +0.1920 +- 0.0058, holds
  hard over random_4 (shifted_accuracy): -0.2612 +- 0.0083, fails
  hard over random_8 (shifted_accuracy): -0.1188 +- 0.0071, fails
"""
from configs import common
from configs.common import images

VARIANTS = {'small': '9 min, 2 busy cores', 'paper': 'accelerator, hours',
            'tiny': 'seconds'}


def get_config(variant: str = 'small'):
  r = images.digits_run()
  r.paper = 'nix2023hard'
  r.data.update(pad=4, subset=0)
  r.pretrain.data.update(pad=4, subset=0)
  r.batch.size = 64
  r.model = dict(name='mlp', kw=dict(width=256, depth=2))
  r.optimizer = common.optimizer('adam', 1e-3)
  r.optimizer.schedule.name = 'cosine_decay_schedule'
  r.loop.steps = 2000
  r.pretrain.loop.steps = 1500
  r.pool.teacher = common.pretrained(
      model=dict(name='convnet', kw=dict(widths=(16, 32))),
      batch=dict(augment=dict(shift=dict(pixels=4))))
  r.teachers.teacher = common.teacher('teacher')
  r.modules.move = common.module('AffineAugmentor', shift=0.5)
  r.optimizers.move = common.optimizer('adam', 0.01)
  kd = dict(teacher='teacher', temperature=4.0)
  r.terms.kd = common.term('kd', **kd)
  r.terms.clean = common.term('kd', student='student@clean',
                              teacher='teacher@clean', temperature=4.0)
  r.terms.against = common.term('kd', weight=-1.0, updates=('move',), **kd)
  r.evaluate.corruptions.shifted = dict(shift=dict(pixels=4))
  c = common.compare(r)
  c.arms.plain = common.arm('kd')
  c.arms.hard = common.arm('kd', 'clean', 'against', augmentor='move')
  c.claims.hard = common.claim('hard', 'plain', 'shifted_accuracy')
  c.claims.in_domain = common.claim('hard', 'plain')
  for pixels in (1, 2, 4, 8):
    c.arms[f'random_{pixels}'] = common.arm('kd', batch=dict(
        augment=dict(shift=dict(pixels=pixels))))
    c.claims[f'random_{pixels}'] = common.claim(
        'hard', f'random_{pixels}', 'shifted_accuracy')
  c.seeds = (0, 1, 2, 3, 4)
  if variant == 'paper':
    images.cifar100(r, 'resnet8x4', 'resnet32x4', name='cifar10')
    r.pool.teacher.changes = dict(model=dict(name='resnet32x4', kw={}))
    r.modules.move.kw = dict(shift=0.25, rotate=30.0, scale=0.3, shear=0.3)
    r.evaluate.corruptions.shifted = dict(shift=dict(pixels=8))
  return images.small_variant(c, variant, VARIANTS)
