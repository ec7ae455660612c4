r"""A target that moves from student to teacher (TAID), under a large gap.

  python -m experiments.run --workdir runs/taid \
      --config configs/shing2025taid/strings.py:small

The student has a third of the teacher's width. `alpha` is 8 over the number of
updates: at the published one, a run as short as this never leaves the linear
schedule. `warm`: forward KL whose weight grows over the first half, which is
what an early target at small `share` comes to.

Here, `small`, mean paired difference +- its standard error:

  taid over fkl (exact): -0.0037 +- 0.0014, fails
  taid over linear (exact): -0.0017 +- 0.0004, fails
  taid over rkl (exact): +0.0246 +- 0.0058, holds
  taid over warm (exact): -0.0125 +- 0.0013, fails
"""
from configs import common
from configs.common import language

VARIANTS = {'small': '15 min, 2 busy cores', 'tiny': 'seconds'}


def get_config(variant: str = 'small'):
  c = language.distill_strings('shing2025taid')
  r, steps = c.run, c.run.loop.steps
  for name, loss in (('rkl', 'reverse_kl'), ('warm', 'kd'), ('taid', 'taid')):
    r.terms[name] = common.term(loss, teacher='teacher')
    c.arms[name] = common.arm(name)
  r.terms.warm.update(warmup=steps // 2, kw=dict(temperature=1.0))
  r.terms.taid.module = 'share'
  r.modules.share = common.module('TaidSchedule', start=0.4, alpha=8 / steps)
  c.arms.linear = common.arm('taid', modules=dict(share=dict(
      kw=dict(adaptive=False))))
  for than in ('fkl', 'rkl', 'warm', 'linear'):
    c.claims[f'taid over {than}'] = common.claim('taid', than, 'exact')
  return language.variant(c, variant, VARIANTS)
