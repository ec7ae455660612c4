r"""BD-KD: forward or reverse divergence by the entropy gap, online.

  python -m experiments.run --workdir runs/bdkd \
      --config configs/amara2022bdkd/mnist.py:small

Student: 16 hidden units; peer: twice 512; 5000 images of MNIST, ECE on its
10,000 test images. `forward` is deep mutual learning.
`paper` is CIFAR-100, ResNet-8x4 beside ResNet-32x4.

Here, `small`:

  bd over forward: -0.0086 +- 0.0029 (margin -0.005), undecided
  bd over both (ece): -0.0019 +- 0.0012, undecided
  bd over flipped (ece): +0.0003 +- 0.0006, undecided
  bd over forward (ece): +0.0008 +- 0.0009, undecided
  bd over label (ece): -0.0095 +- 0.0008, holds
  bd over reverse (ece): -0.0070 +- 0.0003, holds
"""
from configs import common
from configs.common import images

VARIANTS = {'small': '4 min, 2 busy cores', 'paper': 'accelerator, hours',
            'tiny': 'seconds'}


def get_config(variant: str = 'small'):
  r = common.distill()
  r.paper = 'amara2022bdkd'
  r.data = common.data('mnist', validation=0, subset=5000)
  r.model = dict(name='mlp', kw=dict(width=16, depth=1))
  r.teachers.peer = common.teacher(
      kind='online', model=dict(name='mlp', kw=dict(width=512, depth=2)))
  r.batch.size = 64
  r.optimizer.update(learning_rate=0.05, l2=5e-4, clip=1.0)
  r.optimizer.kw.momentum = 0.9
  r.optimizer.schedule.name = 'cosine_decay_schedule'
  r.loop.update(steps=800, log_every=200)
  r.evaluate.batch_size = 1000
  r.terms.task = common.term('cross_entropy')
  r.terms.peer_task = common.term('cross_entropy', student='peer')
  r.terms.peer_kd = common.term('kd', student='peer', teacher='student',
                                temperature=1.0)
  r.terms.bd = common.term('bd_kd', teacher='peer')
  c = common.compare(r)
  gate = lambda name: common.arm(terms=dict(bd=dict(kw=dict(gate=name))))
  c.arms.label = common.arm('task')
  c.arms.bd = gate('calibrating')
  c.arms.flipped = gate('flipped')
  c.arms.forward = gate('forward')  # deep mutual learning
  c.arms.reverse = gate('reverse')
  c.arms.both = gate('both')
  c.seeds = tuple(range(5))
  for other in ('forward', 'reverse', 'both', 'flipped', 'label'):
    c.claims[f'ece_{other}'] = common.claim('bd', other, 'ece', lower=True)
  c.claims.accuracy = common.claim('bd', 'forward', margin=-0.005)
  if variant == 'paper':
    images.cifar100(r, 'resnet8x4')
    r.teachers.peer.model = dict(name='resnet32x4', kw={})
  return images.small_variant(c, variant, VARIANTS)
