r"""General knowledge transfer between six families on MNIST.

  python -m experiments.run --config configs/roth2024fantastic/mnist.py:small \
      --workdir runs/mnist

Paper: success 92.5 % (KL-Dist+DP), about 40 % (KL-Dist), on ImageNet. Here: not
run yet.
"""
from configs import common
from configs.common import transfers

VARIANTS = {'small': 'not measured; 2 cores',
            'tiny': '30 s, 2 cores, digits'}


def get_config(variant: str = 'small'):
  c = common.transfer()
  c.paper = 'roth2024fantastic'

  # 1000 noisy images for the pool, as many others for transfer: with all of
  # MNIST every model is right about nearly everything.
  augment = dict(shift=dict(pixels=3), noise=dict(std=0.3))
  p = c.pretrain
  p.data = common.data('mnist', train='train[:50%]', subset=1000,
                       validation=1000, test_limit=5000)
  p.batch.update(size=64, augment=augment)
  p.terms.task = common.term('cross_entropy')
  p.optimizer.update(name='adam', learning_rate=3e-3)
  p.optimizer.schedule.name = 'cosine_decay_schedule'
  p.loop.update(steps=600, log_every=100)
  model = lambda name, **kw: common.pretrained(model=dict(name=name, kw=kw))
  c.pool = dict(
      mlp=model('mlp', width=128, depth=2),
      convnet=model('convnet', widths=(8, 16, 16)),
      resnet=model('resnet8', widths=(4, 8, 16)),
      vgg=model('vgg8', widths=(8, 16, 16, 16, 16),
                pools=(True, True, False, False, False)),
      vit=model('vit_tiny', patch=7, depth=2, width=48, heads=3),
      mixer=model('mixer_small', patch=7, depth=2, width=32))

  c.data = common.data('mnist', train='train[50%:]', subset=1000,
                       validation=1000, test_limit=5000)
  c.batch.update(size=64, augment=augment)
  c.optimizer.update(name='sgd', learning_rate=1e-3, l2=1e-4)
  c.optimizer.kw.momentum = 0.9
  transfers.fantastic(c, steps=100)
  if variant == 'tiny':
    transfers.tiny_transfer(c, 'mlp', 'convnet', 'resnet')
  elif variant != 'small':
    raise common.unknown_variant(variant, *VARIANTS)
  return c
