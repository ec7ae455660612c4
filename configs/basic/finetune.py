r"""Trains on from a checkpoint; here all of it, at a low rate.

  python -m experiments.run --config configs/basic/finetune.py:small \
      --workdir runs/finetune --config.init_from=runs/pretrain
  ... --config.trainable=^head/ --config.init.load='^(?!head/)'    a new head
"""
from configs import common

VARIANTS = {'small': '20 s, 2 cores', 'tiny': 'seconds'}


def get_config(variant: str = 'small'):
  c = common.train()
  c.init_from = 'runs/pretrain'
  c.terms.task = common.term('cross_entropy')
  c.data = common.data('digits')
  c.model = dict(name='resnet8', kw=dict(widths=(8, 16, 32)))
  c.optimizer.update(name='sgd', learning_rate=0.01)
  c.optimizer.kw.momentum = 0.9
  c.loop.update(steps=100, log_every=50)
  if variant == 'tiny':
    c.data.test_limit = 50
    c.batch.size = 8
    c.loop.update(steps=2, log_every=1)
  elif variant != 'small':
    raise common.unknown_variant(variant, *VARIANTS)
  return c
