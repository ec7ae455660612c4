r"""New text without forgetting, by swapped logits (Mix-CPT).

  python -m experiments.run --workdir runs/mixcpt \
      --config configs/jiang2024mixcpt/strings.py:small

A decoder that knows two tasks goes on with two others; its frozen start is the
teacher. Test text has all four; the two that it knew say what it forgot.

Here, `small`, mean paired difference +- its standard error:

  forgets less, sort (sort_nll): -1.0857 +- 0.5181, holds
  forgets less, upper (upper_nll): -3.5999 +- 0.3740, holds
  learns more than unswapped, recall (recall_nll): -0.1421 +- 0.0111, holds
  learns more than unswapped, reverse (reverse_nll): -0.5482 +- 0.2362, holds
"""
from configs import common
from configs.common import language

VARIANTS = {'small': '12 min, 2 busy cores', 'tiny': 'seconds'}


def get_config(variant: str = 'small'):
  c = language.distill_strings('jiang2024mixcpt', steps=300)
  r = c.run
  old = ('upper', 'sort')
  r.pool.base = common.pretrained(
      by_seed=True, model=r.model.to_dict(), data=language.strings(
          tasks=old).to_dict(), loop=dict(steps=1000))
  r.init_from = 'base'
  r.optimizer.learning_rate = 3e-3
  for name in old:  # never drawn, but tested
    r.data.domains[name].share = 0.0
  r.teachers = dict(initial=common.teacher(kind='initial'))
  del r.pool.teacher
  r.terms = {}
  r.terms.label = common.term('cross_entropy')
  initial = dict(teacher_logits='initial_logits')
  r.terms.swapped = common.term('logit_swap', 0.3, rename=initial)
  r.terms.plain = common.term('kd', 0.3, rename=initial,
                                      temperature=1.0)
  c.arms = {}
  c.arms.label = common.arm('label')
  c.arms.swapped = common.arm('label', 'swapped')
  c.arms.plain = common.arm('label', 'plain')
  c.baseline = 'label'
  for name in old:
    c.claims[f'forgets less, {name}'] = common.claim(
        'swapped', 'label', f'{name}_nll', lower=True)
  for name in ('reverse', 'recall'):
    c.claims[f'learns more than unswapped, {name}'] = common.claim(
        'swapped', 'plain', f'{name}_nll', lower=True)
  return language.variant(c, variant, VARIANTS)
