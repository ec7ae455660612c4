r"""Distillation on the student's own text (GKD), tiny Shakespeare.

  python -m experiments.run --workdir runs/gkd \
      --config configs/agarwal2024gkd/shakespeare.py:small

needs tinyshakespeare.txt (`--config.run.data.data_dir=FOLDER`). report.md has
texts before and after; the folders runs/*/hf are models for `kt-merge` and for
transformers.

Here, `small`, mean paired difference +- its standard error:

  minillm over data (sample_teacher_nll): -0.2276 +- 0.0095, holds
  mixed over data (sample_teacher_nll): +0.0761 +- 0.0305, fails
  own over data (sample_teacher_nll): +0.0870 +- 0.0279, fails
  own over data, jsd (sample_teacher_nll): +0.0399 +- 0.0143, fails
  own over data, rkl (sample_teacher_nll): +0.0134 +- 0.0068, undecided
  own_jsd over data (sample_teacher_nll): -0.1668 +- 0.0093, holds
  own_rkl over data (sample_teacher_nll): -0.2793 +- 0.0136, holds
  reverse KL is sharper (sample_own_nll): -0.2694 +- 0.0283, holds
"""
from configs import common
from configs.common import language

VARIANTS = {'small': '15 min, 2 busy cores', 'tiny': 'seconds'}


def get_config(variant: str = 'small'):
  r = common.distill_lm()
  r.paper = 'agarwal2024gkd'
  for part in (r, r.pretrain):
    part.data = common.text(length=64, prompt=16)
    part.data.domains.plays = common.domain('tiny_shakespeare', test=400,
                                              validation=200)
  r.pretrain.loop.update(steps=1000, log_every=100)
  r.pool.teacher = common.pretrained(model=language.sized(3, 96, 4))
  r.pool.tuned = common.pretrained(
      by_seed=True, model=language.sized(2, 32, 2), loop=dict(steps=300))
  r.teachers.teacher = common.teacher('teacher')
  r.init_from = 'tuned'
  r.model = language.sized(2, 32, 2)
  r.loop.update(steps=200, log_every=20)
  r.evaluate.samples = 200
  r.export = True
  r.optimizer.learning_rate = 1e-3
  r.terms = {}
  for name, loss, kw in (('fkl', 'kd', dict(temperature=1.0)),
                         ('rkl', 'reverse_kl', {}), ('jsd', 'jsd', {}),
                         ('minillm', 'minillm', {})):
    r.terms[name] = common.term(loss, teacher='teacher', **kw)
  c = common.compare(r)
  c.arms.data = common.arm('fkl')
  own = dict(source='student')
  c.arms.own = common.arm('fkl', sampling=own)
  c.arms.mixed = common.arm('fkl', sampling=dict(source='mixed'))
  c.arms.own_jsd = common.arm('jsd', sampling=own)
  c.arms.own_rkl = common.arm('rkl', sampling=own)
  c.arms.data_jsd = common.arm('jsd')
  c.arms.data_rkl = common.arm('rkl')
  c.arms.minillm = common.arm('minillm', sampling=dict(source='blend',
                                                       share=0.2))
  c.baseline = 'data'
  judged = 'sample_teacher_nll'
  for name in ('own', 'mixed', 'own_jsd', 'own_rkl', 'minillm'):
    c.claims[f'{name} over data'] = common.claim(name, 'data', judged,
                                                 lower=True)
  for loss in ('jsd', 'rkl'):
    c.claims[f'own over data, {loss}'] = common.claim(
        f'own_{loss}', f'data_{loss}', judged, lower=True)
  c.claims['reverse KL is sharper'] = common.claim(
      'own_rkl', 'own', 'sample_own_nll', lower=True)
  return language.variant(c, variant, VARIANTS)
