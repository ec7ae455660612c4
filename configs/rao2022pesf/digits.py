r"""PESF-KD: an adapter on a teacher that is too sure, against tuning it.

  python -m experiments.run --workdir runs/pesf \
      --config configs/rao2022pesf/digits.py:small

The teacher, an MLP, was trained to zero loss on the student's own 300 images;
`online` tunes all of it, by the same two terms. "Within noise" means that the
difference is above minus one point, by two standard errors.
`paper` is CIFAR-100, ResNet-32x4 to 8x4, temperature 6, adapter at rate 2e-5.

Here, `small`:

  pesf over online (trained_besides): -81750.0000 +- 0.0000, holds
  kd over label: +0.0024 +- 0.0026, undecided
  pesf over kd: -0.0000 +- 0.0030, undecided
  pesf over online: -0.0008 +- 0.0038 (margin -0.01), holds
"""
from configs import common
from configs.common import images

VARIANTS = {'small': '3 min, 2 busy cores', 'paper': 'accelerator, hours',
            'tiny': 'seconds'}


def get_config(variant: str = 'small'):
  r = images.digits_run()
  r.paper = 'rao2022pesf'
  r.model = dict(name='mlp', kw=dict(width=16, depth=1))
  r.pool.teacher = common.pretrained(
      model=dict(name='mlp', kw=dict(width=256, depth=2)))
  r.teachers.teacher = common.teacher('teacher')
  r.teachers.online = common.teacher('teacher', kind='online')
  r.optimizers.online = common.optimizer('sgd', 0.01, momentum=0.9)
  r.modules.adapter = common.module('TeacherAdapter')
  r.optimizers.adapter = common.optimizer('sgd', 0.01, momentum=0.9)
  kd = dict(temperature=4.0)
  adapted = dict(teacher='teacher', teacher_taps='pool', module='adapter')
  labels = dict(rename=dict(student_logits='teacher_logits'))
  r.terms.task = common.term('cross_entropy')
  r.terms.kd = common.term('kd', teacher='teacher', **kd)
  r.terms.pesf = common.term('kd', **adapted, **kd)
  r.terms.hold = common.term('cross_entropy', updates=('adapter',), **adapted,
                             **labels)
  r.terms.online_kd = common.term('kd', teacher='online', **kd,
                                  updates=('student', 'online'))
  r.terms.online_hold = common.term('cross_entropy', student='online')
  c = common.compare(r)
  c.arms.label = common.arm('task')
  c.arms.kd = common.arm('task', 'kd')
  c.arms.pesf = common.arm('task', 'pesf', 'hold')
  c.arms.online = common.arm('task', 'online_kd', 'online_hold')
  c.seeds = tuple(range(10))
  c.claims.kd = common.claim('kd', 'label')
  c.claims.pesf_kd = common.claim('pesf', 'kd')
  c.claims.within_noise_of_online = common.claim('pesf', 'online', margin=-0.01)
  c.claims.fewer_parameters = common.claim(
      'pesf', 'online', 'trained_besides', lower=True)
  if variant == 'paper':
    images.cifar100(r, 'resnet8x4', 'resnet32x4')
    for name, rate in (('online', 0.05), ('adapter', 2e-5)):
      r.optimizers[name] = common.optimizer('sgd', rate, momentum=0.9)
    r.pool.teacher.changes = dict(model=dict(name='resnet32x4', kw={}))
    for name in ('kd', 'pesf', 'online_kd'):
      r.terms[name].kw.temperature = 6.0
  return images.small_variant(c, variant, VARIANTS)
