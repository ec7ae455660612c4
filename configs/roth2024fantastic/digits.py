r"""General knowledge transfer between six families on digits (the quickstart).

  python -m experiments.run --config configs/roth2024fantastic/digits.py:small \
      --workdir runs/digits
"""
from configs import common

VARIANTS = {'small': '2 min on 2 cores', 'tiny': 'seconds'}


def get_config(variant: str = 'small'):
  c = common.transfer()
  c.paper = 'roth2024fantastic'

  # Models are trained on few, augmented images, so that they err; the transfer
  # images are a part of them, augmented anew, as in the paper.
  augment = dict(shift=dict(pixels=1), noise=dict(std=0.12))
  p = c.pretrain
  p.data = common.data('digits', validation=100, subset=600)
  p.batch.size = 64
  p.batch.augment = augment
  p.terms.task = common.term('cross_entropy')
  p.optimizer.update(name='adam', learning_rate=2e-3)
  p.optimizer.schedule.name = 'cosine_decay_schedule'
  p.loop.update(steps=400, log_every=100)
  c.pool = dict(
      mlp=dict(model=dict(name='mlp', kw=dict(width=64, depth=2))),
      convnet=dict(model=dict(name='convnet', kw=dict(widths=(8, 16, 16)))),
      resnet=dict(model=dict(name='resnet8', kw=dict(widths=(8, 16, 16)))),
      vgg=dict(model=dict(name='vgg8', kw=dict(widths=(8, 16, 16, 16, 16), pools=(True, True, False, False, False)))),
      vit=dict(model=dict(name='vit_tiny', kw=dict(
          patch=2, depth=2, width=32, heads=2))),
      mixer=dict(model=dict(name='mixer_small', kw=dict(
          patch=2, depth=2, width=32))))

  c.data = common.data('digits', validation=100, subset=500)
  c.batch.size = 64
  c.batch.augment = augment
  common.fantastic(c, steps=100)
  c.optimizer.update(name='sgd', learning_rate=0.01, weight_decay=1e-4)
  c.optimizer.kw.momentum = 0.9
  if variant == 'tiny':
    pass
  elif variant != 'small':
    raise common.unknown_variant(variant, *VARIANTS)
  return c
