r"""A teacher of another vocabulary: sorted masses (ULD) or the tokens of both.

  python -m experiments.run --workdir runs/uld \
      --config configs/boizard2024uld/strings.py:small

The teacher reads bytes, the student characters. ULD compares no tokens; where
both write the same, `mapped` compares them. `same` has a teacher of characters.

Here, `small`, mean paired difference +- its standard error:

  mapped over label, exact: +0.0063 +- 0.0044, undecided
  mapped over label, nll: -0.0021 +- 0.0006, holds
  mapped over uld, exact: +0.0262 +- 0.0078, holds
  mapped over uld, nll: -0.0320 +- 0.0267, undecided
  uld over label, exact: -0.0200 +- 0.0101, undecided
  uld over label, nll: +0.0298 +- 0.0264, undecided
"""
from configs import common
from configs.common import language

VARIANTS = {'small': '15 min, 2 busy cores', 'tiny': 'seconds'}


def get_config(variant: str = 'small'):
  c = language.distill_strings('boizard2024uld')
  r = c.run
  r.pool.bytes = common.pretrained(model=language.sized(3, 96, 4),
                                    data=dict(tokenizer='bytes'))
  other = lambda mapping: common.teacher(
      'bytes', tokenizer='bytes', mapping=mapping)
  r.teachers.mapped = other('strings')
  r.teachers.unmapped = other('')
  r.terms.label = common.term('cross_entropy')
  r.terms.mapped = common.term('kd', teacher='mapped', temperature=1.0)
  r.terms.uld = common.term('uld', 1.5, teacher='unmapped')
  c.arms = {}
  c.arms.label = common.arm('label')
  c.arms.same = common.arm('label', 'fkl')
  for name in ('mapped', 'uld'):
    c.arms[name] = common.arm('label', name)
  c.baseline = 'label'
  for metric in ('exact', 'nll'):
    for better, than in (('uld', 'label'), ('mapped', 'label'),
                         ('mapped', 'uld')):
      c.claims[f'{better} over {than}, {metric}'] = common.claim(
          better, than, metric, lower=metric == 'nll')
  return language.variant(c, variant, VARIANTS)
