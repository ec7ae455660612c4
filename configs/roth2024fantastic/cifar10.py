r"""General knowledge transfer between six families on CIFAR-10.

  python -m experiments.run \
      --config configs/roth2024fantastic/cifar10.py:small --workdir runs/cifar10

Paper: success 92.5 % (KL-Dist+DP), about 40 % (KL-Dist), on ImageNet.
Here: 60 % against 10 % (holds), worst quartile -0.53 against -5.32 points
(holds), the gap concentrated at weaker teachers (holds); unsupervised within
noise; above the self-distillation control by -0.07 +- 0.12 (undecided): at this
length no method but MCL (+0.11) gains on average. The learning rate was chosen
on training images held out, of 1e-3 and 3e-3.
"""
from configs import common
from configs.common import transfers

VARIANTS = {'small': '17 min, 2 cores, and once 4 for the pool',
            'tiny': '30 s, 2 cores, digits'}


def get_config(variant: str = 'small'):
  c = common.transfer()
  c.paper = 'roth2024fantastic'

  # Members of the pool learn from 5000 images of one half of the training set,
  # each from others; transfer uses 5000 of the other half. On images that both
  # models have seen, both are sure of themselves, and the masks pick out noise.
  augment = dict(crop=dict(padding=4), flip={})
  p = c.pretrain
  p.data = common.data('cifar10', train='train[:50%]', subset=5000,
                       validation=1000, test_limit=5000)
  p.batch.update(size=128, augment=augment)
  p.terms.task = common.term('cross_entropy')
  p.optimizer.update(name='adam', learning_rate=3e-3)
  p.optimizer.schedule.name = 'cosine_decay_schedule'
  p.loop.update(steps=800, log_every=100, save_every=200)
  def model(split_seed, name, learning_rate=3e-3, **kw):
    return common.pretrained(
        model=dict(name=name, kw=kw), data=dict(split_seed=split_seed),
        optimizer=dict(learning_rate=learning_rate))
  c.pool = dict(
      mlp=model(1, 'mlp', 1e-3, width=256, depth=2),
      convnet=model(2, 'convnet', widths=(16, 32, 64)),
      resnet=model(3, 'resnet8', widths=(8, 16, 32)),
      vgg=model(4, 'vgg8', widths=(8, 16, 32, 64, 64)),
      vit=model(5, 'vit_tiny', 1e-3, patch=8, depth=3, width=64, heads=4),
      mixer=model(6, 'mixer_small', 1e-3, patch=8, depth=3, width=64))

  c.data = common.data('cifar10', train='train[50%:]', subset=5000,
                       validation=1000, test_limit=5000)
  c.batch.update(size=64, augment=augment)
  c.optimizer.update(name='sgd', learning_rate=1e-3, l2=1e-4)
  c.optimizer.kw.momentum = 0.9
  transfers.fantastic(c, steps=100)
  if variant == 'tiny':
    transfers.tiny_transfer(c, 'mlp', 'convnet', 'mixer')
  elif variant != 'small':
    raise common.unknown_variant(variant, *VARIANTS)
  return c
