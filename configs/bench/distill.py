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
  c = common.bench('distill')
  r = c.run = common.distill()  # what workloads have in common
  r.terms.task = common.term('cross_entropy')
  r.optimizer.kw.momentum = 0.9
  r.optimizer.l2 = 5e-4
  r.cache.views = 2
  # Random images: no data set is needed. Nobody looks at accuracy.
  images = dict(name='experiments.bench:images', validation=0, test_limit=250,
                kw=dict(shape=(32, 32, 3), count=4096, labels=10))
  augment = dict(crop=dict(padding=4), flip={})
  for part in (r, r.pretrain):
    part.data.update(images)
    part.batch.augment = augment
  r.pretrain.terms.task = common.term('cross_entropy')
  r.pretrain.loop.steps = 1
  kd = dict(kd=common.term('kd', weight=0.9, teacher='teacher'))
  student = dict(name='resnet8', kw=dict(widths=(8, 16, 32)))
  def taught_by(name, *widths):
    return dict(teachers=dict(teacher=common.teacher('teacher')), pool=dict(
        teacher=common.pretrained(model=dict(
            name=name, kw=dict(widths=widths)))))
  c.workloads = dict(
      wide=dict(terms=kd, model=student, batch=dict(size=64),
                loop=dict(steps=16), **taught_by('resnet8', 16, 32, 64)),
      deep=dict(terms=kd, model=student, batch=dict(size=128),
                loop=dict(steps=10), **taught_by('resnet20', 8, 16, 32)),
      losses=dict(model=dict(name='resnet20'), batch=dict(size=128),
                  data=dict(kw=dict(labels=100))))
  if variant == 'tiny':
    c.settings = dict(repeats=1, warmup=1, seconds=0.0, losses=(
        'kd', 'hint', 'rkd_distance'), maps=('blocks/0', 'blocks/1'))
    for part in (r, r.pretrain):
      part.data.test_limit = 8
      part.data.kw.update(shape=(8, 8, 1), count=32)
      part.batch.update(size=8, augment={})
      part.evaluate.batch_size = 8
    small = dict(name='convnet', kw=dict(widths=(4, 8)))
    c.workloads = dict(
        pair=dict(terms=kd, model=small, loop=dict(steps=2),
                  **taught_by('convnet', 4, 4)),
        losses=dict(model=small))
  elif variant != 'small':
    raise common.unknown_variant(variant, *VARIANTS)
  return c
