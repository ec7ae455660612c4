r"""What the training loop adds to a bare jitted step, and what feeds it.

  python -m experiments.run --config configs/bench/loop.py:small \
      --workdir runs/loop

Target: the loop with everything on adds less than 5 % to a step of 20 ms or
more. The step of the digits convnet takes about 1 ms: there the loop shows.
"""
from configs import common

VARIANTS = {'small': '3 min, 2 cores', 'tiny': '5 s, 2 cores'}


def get_config(variant: str = 'small'):
  c = common.train('bench')  # what workloads have in common
  c.measure = 'loop'
  c.repeats = 5  # turns
  c.threads = (0, 1, 2, 4)  # of the stream alone
  c.batches = 50  # that it is timed over
  c.terms.task = common.term('cross_entropy')
  c.optimizer.kw.momentum = 0.9
  c.optimizer.l2 = 5e-4
  images = dict(name='experiments.bench:images', shape=(32, 32, 3), count=8192,
                labels=10)  # random ones: no data set is needed
  c.workloads = dict(
      resnet8=dict(
          data=images, loop=dict(steps=200),
          model=dict(name='resnet8', kw=dict(widths=(8, 16, 32))),
          batch=dict(augment=dict(crop=dict(padding=4), flip={}))),
      digits=dict(
          model=dict(name='convnet'), loop=dict(steps=500),
          batch=dict(augment=dict(shift=dict(pixels=1)))))
  if variant == 'tiny':
    c.repeats = 1
    c.threads = (0, 1)
    c.batches = 2
    c.workloads = dict(digits=c.workloads.digits)
    c.workloads.digits.update(model=dict(name='mlp'), loop=dict(steps=3))
  elif variant != 'small':
    raise common.unknown_variant(variant, *VARIANTS)
  return c
