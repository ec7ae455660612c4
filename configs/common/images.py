"""Recipes of distillation between image models that several papers share."""
from configs import common

# The last maps of `cifar_pair()`: of its student and of its teacher.
CIFAR_MAPS = dict(taps='blocks/2', teacher_taps='stages/2')
CIFAR_EPOCH = 50000 // 64  # updates


def cifar_pair(paper: str):
  """A `compare` in which a ResNet-8 teaches a narrow convnet, on CIFAR-10.

  Its arms are `label` and `kd`; configs add the terms and arms of their own.

  The teacher has seen all of the training set, the student has 5000 images, in
  four views each, for which the outputs of the teacher are kept.
  """
  c = common.distill()
  c.paper = paper
  c.data = common.data('cifar10', validation=0, subset=5000)
  c.batch.update(size=64, augment=dict(crop=dict(padding=4), flip={}))
  c.model = dict(name='convnet', kw=dict(widths=(8, 16, 32)))
  c.cache.views = 4
  c.optimizer.update(learning_rate=0.1, l2=5e-4)
  c.optimizer.kw.update(momentum=0.9, nesterov=True)
  c.optimizer.schedule.name = 'cosine_decay_schedule'
  c.loop.update(steps=600, log_every=100)
  c.evaluate.batch_size = 500
  c.pretrain.data = common.data('cifar10', validation=0)
  c.pretrain.batch.update(
      size=64, augment=dict(crop=dict(padding=4), flip={}))
  c.pretrain.terms.task = common.term('cross_entropy')
  c.pretrain.optimizer.update(c.optimizer)
  c.pretrain.evaluate.batch_size = 500
  c.pretrain.loop.update(steps=3000, log_every=500, save_every=1000)
  c.pool.teacher = common.pretrained(
      model=dict(name='resnet8', kw=dict(widths=(16, 32, 64))))
  c.teachers.teacher = common.teacher('teacher')
  c.terms.task = common.term('cross_entropy')
  c.terms.kd = common.term('kd', weight=0.9, teacher='teacher')
  compared = common.compare(c)
  compared.arms.label = common.arm('task')
  compared.arms.kd = common.arm('task', 'kd')
  return compared


def rkd(r, variant: str) -> None:
  """The terms `distance` and `angle`, onto the run of a `cifar_pair`.

  `small` weighs them a tenth of `paper`: the best of 0.03, 0.1 and 0.3 on
  held-out training images.
  """
  scale = 1.0 if variant == 'paper' else 0.1
  for name, weight in (('distance', 25.0), ('angle', 50.0)):
    r.terms[name] = common.term(f'rkd_{name}', weight=scale * weight,
                                teacher='teacher', taps='pool')


def cifar100(r, student: str, teacher: str = '', name: str = 'cifar100',
             validation: float = 0) -> None:
  """The CIFAR recipe that this literature shares, onto a `distill()`.

  SGD 0.05 with momentum 0.9 and decay 5e-4, batch 64, 240 epochs, a tenth of
  the rate after 150, 180 and 210, crop and flip.
  """
  for part, model in ((r, student), (r.pretrain, teacher or student)):
    part.data = common.data(name, validation=validation)
    part.model = dict(name=model, kw={})
    part.batch.update(size=64, augment=dict(crop=dict(padding=4), flip={}))
    part.optimizer = common.optimizer('sgd', 0.05, momentum=0.9)
    part.optimizer.l2 = 5e-4
    part.optimizer.schedule = dict(
        name='piecewise_constant_schedule', kw=dict(boundaries_and_scales={
            str(e * CIFAR_EPOCH): 0.1 for e in (150, 180, 210)}))
    part.loop.update(steps=240 * CIFAR_EPOCH, log_every=CIFAR_EPOCH,
                     save_every=CIFAR_EPOCH)
  r.pretrain.terms.task = common.term('cross_entropy')


def pair_variant(c, variant: str, have):
  """The variant of a `compare` of `cifar_pair()` runs.

  `paper`: ResNet-32x4 teaches ResNet-8x4 on CIFAR-100, KD with 0.1 of the task.
  """
  if variant not in have:
    raise common.unknown_variant(variant, *have)
  r = c.run
  if variant == 'paper':
    cifar100(r, 'resnet8x4', 'resnet32x4')
    c.arms.kd.changes = dict(terms=dict(task=dict(weight=0.1)))
    r.cache.views = 0
    for t in r.terms.values():
      t.taps = t.teacher_taps or t.taps  # they are of one family
    for entry in r.pool.values():
      if not entry.checkpoint:
        entry.changes = dict(model=dict(name='resnet32x4', kw={}))
  elif variant == 'tiny':
    for part in (r, r.pretrain):
      part.data = common.data('digits', size=32, subset=60, validation=20,
                              test_limit=50)
      part.batch.size = part.evaluate.batch_size = 16
      part.loop.update(steps=2, log_every=1, save_every=0)
    c.seeds = (0,)
  return c


def digits_run(generations: bool = False):
  """A run on 300 digits; its teachers see the same ones."""
  c = common.generations() if generations else common.distill()
  for part in (c, c.pretrain):
    part.data = common.data('digits', validation=0, subset=300)
    part.model = dict(name='convnet', kw=dict(widths=(8, 16)))
    part.optimizer.update(learning_rate=0.05, l2=1e-4)
    part.optimizer.kw.momentum = 0.9
    part.optimizer.schedule.name = 'cosine_decay_schedule'
    part.batch.size = 32
    part.loop.update(steps=400, log_every=100)
    part.evaluate.batch_size = 500
  c.pretrain.terms.task = common.term('cross_entropy')
  return c


def small_variant(c, variant: str, have):
  """`small` as it is, or cut to two steps of few digits."""
  if variant not in have:
    raise common.unknown_variant(variant, *have)
  if variant == 'tiny':
    for part in (c.run, c.run.pretrain):
      part.data.update(name='digits', subset=60, test_limit=50,
                       validation=20 if part.data.validation else 0)
      part.batch.size = part.evaluate.batch_size = 16
      part.loop.update(steps=2, log_every=1, save_every=0)
    if c.run.experiment == 'generations':
      c.run.generations.count = min(2, c.run.generations.count)
    c.seeds = (0,)
  return c
