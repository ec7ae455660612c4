r"""Two directions of divergence (TopKLD) for a student of few bits.

  python -m experiments.run --workdir runs/topkld \
      --config configs/ding2025topkld/strings.py:small

The student is the teacher with matrices of 3 bits, trained straight through.

Here, `small`, mean paired difference +- its standard error:

  more at 3 bits than at 8 (sample_teacher_nll): -0.0053 +- 0.0113, undecided
  top_reverse over fkl, answers (exact): +0.0058 +- 0.0044, undecided
  top_reverse over fkl, samples (sample_teacher_nll):
    -0.0112 +- 0.0059, undecided
  top_reverse over fkl, text (nll): +0.0014 +- 0.0021, undecided
  top_reverse over rkl, answers (exact): +0.0058 +- 0.0015, holds
  top_reverse over rkl, samples (sample_teacher_nll):
    +0.0041 +- 0.0048, undecided
  top_reverse over rkl, text (nll): -0.0006 +- 0.0005, holds
"""
from configs import common
from configs.common import language

VARIANTS = {'small': '15 min, 2 busy cores', 'tiny': 'seconds'}


def get_config(variant: str = 'small'):
  c = language.distill_strings('ding2025topkld', steps=200)
  r = c.run
  r.pool.teacher.changes.model = language.sized(2, 48, 2)
  r.init_from = 'teacher'
  r.model = language.sized(2, 48, 2)
  r.train.bits = 3
  r.optimizer.learning_rate = 1e-3
  r.terms.rkl = common.term('reverse_kl', teacher='teacher')
  r.terms.top_reverse = common.term('top_kld', teacher='teacher', k=3)
  r.terms.top_forward = common.term('top_kld', teacher='teacher', k=3,
                                            top='forward')
  for name in ('rkl', 'top_reverse', 'top_forward'):
    c.arms[name] = common.arm(name)
  bits = dict(train=dict(bits=8))
  c.arms.fkl8 = common.arm('fkl', **bits)
  c.arms.top8 = common.arm('top_reverse', **bits)
  for than in ('fkl', 'rkl'):
    c.claims[f'top_reverse over {than}, samples'] = common.claim(
        'top_reverse', than, 'sample_teacher_nll', lower=True)
    c.claims[f'top_reverse over {than}, text'] = common.claim(
        'top_reverse', than, 'nll', lower=True, margin=-0.005)
    c.claims[f'top_reverse over {than}, answers'] = common.claim(
        'top_reverse', than, 'exact')
  c.claims['more at 3 bits than at 8'] = common.claim(
      'top_reverse', 'fkl', 'sample_teacher_nll', lower=True,
      above=('top8', 'fkl8'))
  return language.variant(c, variant, VARIANTS)
