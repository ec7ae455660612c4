r"""Trains a small ResNet on any image set: a place to start from.

  python -m experiments.run --config configs/basic/pretrain.py:small \
      --workdir runs/pretrain
  ... --config configs/basic/pretrain.py:cifar10     ResNet-20, 64k updates
"""
from configs import common

VARIANTS = {'small': '20 s, 2 cores', 'cifar10': 'not measured; accelerator',
            'tiny': 'seconds'}


def get_config(variant: str = 'small'):
  c = common.train()
  c.terms.task = common.term('cross_entropy')
  c.optimizer.update(name='sgd', l2=1e-4)
  c.optimizer.kw.update(momentum=0.9, nesterov=True)
  c.optimizer.schedule.name = 'cosine_decay_schedule'
  if variant in ('small', 'tiny'):
    c.data = common.data('digits')
    c.batch.augment.shift = dict(pixels=1)
    c.model = dict(name='resnet8', kw=dict(widths=(8, 16, 32)))
    c.loop.update(steps=400, log_every=50, save_every=100)
  elif variant == 'cifar10':
    c.data = common.data('cifar10')
    c.batch.update(size=128, augment=dict(crop=dict(padding=4), flip={}))
    c.model = dict(name='resnet20', kw={})
    c.loop.update(steps=64000, log_every=100, save_every=4000)
  else:
    raise common.unknown_variant(variant, *VARIANTS)
  if variant == 'tiny':
    c.data.test_limit = 50
    c.batch.size = 8
    c.loop.update(steps=2, log_every=1, save_every=1)
  return c
