r"""What the training loop adds to a bare jitted step, and what feeds it.

  python -m experiments.run --config configs/bench/loop.py:small \
      --workdir runs/loop

Target: the loop with everything on adds less than 5 % to a step of 20 ms or
more. The step of the digits convnet takes about 1 ms: there the loop shows.
"""
from configs import common

VARIANTS = {'small': '3 min, 2 cores', 'tiny': '5 s, 2 cores'}


def get_config(variant: str = 'small'):
  c = common.bench('loop')
  r = c.run  # what workloads have in common
  r.terms.task = common.term('cross_entropy')
  r.optimizer.kw.momentum = 0.9
  r.optimizer.l2 = 5e-4
  # Random images: no data set is needed.
  images = dict(name='experiments.bench:images', kw=dict(
      shape=(32, 32, 3), count=8192, labels=10))
  c.workloads = dict(
      resnet8=dict(
          data=images, loop=dict(steps=200),
          model=dict(name='resnet8', kw=dict(widths=(8, 16, 32))),
          batch=dict(augment=dict(crop=dict(padding=4), flip={}))),
      digits=dict(
          model=dict(name='convnet'), loop=dict(steps=500),
          batch=dict(augment=dict(shift=dict(pixels=1)))))
  if variant == 'tiny':
    c.settings = dict(repeats=1, threads=(0, 1), batches=2)
    c.workloads = dict(digits=dict(
        c.workloads.digits, model=dict(name='mlp'), loop=dict(steps=3)))
  elif variant != 'small':
    raise common.unknown_variant(variant, *VARIANTS)
  return c
