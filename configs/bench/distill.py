r"""What a teacher, its cache and each loss add to a training step.

  python -m experiments.run --config configs/bench/distill.py:small \
      --workdir runs/bench_distill

Targets: a KD step takes no more than 1.05 times the teacher's forward pass and
a step on labels; with the teacher read from its cache, its stream included, no
more than 1.10 times a step on labels, its stream included; a loss, value and
gradient, no more than a fifth of a step of ResNet-20, or the table says why.

Here, `small`, medians of ratios within a turn (quartiles):

  KD step over its parts: wide 0.95 (0.92 to 1.09), deep 0.93 (0.88 to 1.04)
  with the cache over labels: wide 0.98 (0.84 to 1.01), deep 0.93 (0.83 to 1.01)
  losses: token_graph 18 %, nst 8 %, all others below 5 %
"""
from configs import common

VARIANTS = {'small': '6 min, 2 cores', 'tiny': '30 s, 2 busy cores'}


def get_config(variant: str = 'small'):
  c = common.distill()  # what workloads have in common
  c.experiment = 'bench'
  c.measure = 'distill'
  c.repeats = 9  # turns
  c.warmup = 8  # steps that a stream feeds before those that are timed
  c.seconds = 0.1  # that a loss is called for in a turn
  c.losses = ()  # names; () all
  c.maps = ('stages/0', 'stages/1', 'stages/2')  # that losses compare
  c.terms.task = common.term('cross_entropy')
  c.optimizer.kw.momentum = 0.9
  c.optimizer.l2 = 5e-4
  c.cache.views = 2
  # Random images: no data set is needed. Nobody looks at accuracy.
  images = dict(name='experiments.bench:images', shape=(32, 32, 3), count=4096,
                labels=10, validation=0, test_limit=250)
  augment = dict(crop=dict(padding=4), flip={})
  for part in (c, c.pretrain):
    part.data.update(images)
    part.batch.augment = augment
  c.pretrain.terms.task = common.term('cross_entropy')
  c.pretrain.loop.steps = 1
  kd = dict(kd=common.term('kd', weight=0.9, teacher='teacher'))
  student = dict(name='resnet8', kw=dict(widths=(8, 16, 32)))
  def taught_by(name, *widths):
    return dict(teacher=common.teacher(changes=dict(model=dict(
        name=name, kw=dict(widths=widths)))))
  c.workloads = dict(
      wide=dict(terms=kd, model=student, batch=dict(size=64),
                teachers=taught_by('resnet8', 16, 32, 64),
                loop=dict(steps=16)),
      deep=dict(terms=kd, model=student, batch=dict(size=128),
                teachers=taught_by('resnet20', 8, 16, 32),
                loop=dict(steps=10)),
      losses=dict(model=dict(name='resnet20'), batch=dict(size=128),
                  data=dict(labels=100)))
  if variant == 'tiny':
    c.repeats = c.warmup = 1
    c.seconds = 0.0
    c.losses = ('kd', 'hint', 'rkd_distance')
    c.maps = ('blocks/0', 'blocks/1')
    for part in (c, c.pretrain):
      part.data.update(shape=(8, 8, 1), count=32, test_limit=8)
      part.batch.update(size=8, augment={})
      part.evaluate.batch_size = 8
    small = dict(name='convnet', kw=dict(widths=(4, 8)))
    c.workloads = dict(
        pair=dict(terms=kd, model=small, teachers=taught_by('convnet', 4, 4),
                  loop=dict(steps=2)),
        losses=dict(model=small))
  elif variant != 'small':
    raise common.unknown_variant(variant, *VARIANTS)
  return c
