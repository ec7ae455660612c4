r"""Skewed divergences against plain ones.

  python -m experiments.run --workdir runs/skew \
      --config configs/ko2024distillm/strings.py:small

Here, `small`, mean paired difference +- its standard error:

  skl over fkl, exact: +0.0004 +- 0.0018, undecided
  skl over fkl, token_accuracy: +0.0007 +- 0.0011, undecided
  srkl over rkl, exact: +0.0158 +- 0.0027, holds
  srkl over rkl, token_accuracy: +0.0069 +- 0.0010, holds
"""
from configs import common
from configs.common import language

VARIANTS = {'small': '12 min, 2 busy cores', 'tiny': 'seconds'}


def get_config(variant: str = 'small'):
  c = language.distill_strings('ko2024distillm')
  for name, loss in (('rkl', 'reverse_kl'), ('skl', 'skew_kl'),
                     ('srkl', 'skew_reverse_kl')):
    c.run.terms[name] = common.term(loss, teacher='teacher')
    c.arms[name] = common.arm(name)
  for metric in ('exact', 'token_accuracy'):
    c.claims[f'skl over fkl, {metric}'] = common.claim('skl', 'fkl', metric)
    c.claims[f'srkl over rkl, {metric}'] = common.claim('srkl', 'rkl', metric)
  return language.variant(c, variant, VARIANTS)
