r"""Time from the command to the first step, and where it goes.

  python -m experiments.run --config configs/bench/startup.py:small \
      --workdir runs/startup

Launches the command in fresh processes, with an empty cache of compiled
programs (cold) and again with what that left (warm). A TPU serves one process
at a time: there, measure from the CPU, with JAX_PLATFORMS=cpu before the
command and --config.settings.platform=tpu behind it.
"""
from configs import common

VARIANTS = {'small': '2 min, 2 cores', 'tiny': '10 s, 2 cores'}


def get_config(variant: str = 'small'):
  c = common.bench('startup')
  r = c.run  # what workloads have in common
  r.batch.augment = dict(shift=dict(pixels=1))
  r.terms.task = common.term('cross_entropy')
  r.optimizer.kw.momentum = 0.9
  # Random images: no data set is needed.
  images = dict(name='experiments.bench:images', kw=dict(
      shape=(32, 32, 3), count=2048, labels=10))
  c.workloads = dict(
      digits=dict(model=dict(name='convnet')),
      resnet20=dict(data=images, model=dict(name='resnet20')))
  if variant == 'tiny':
    c.settings.repeats = 1
    c.workloads = dict(digits=dict(model=dict(name='mlp')))
  elif variant != 'small':
    raise common.unknown_variant(variant, *VARIANTS)
  return c
