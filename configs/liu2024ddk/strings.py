r"""Domains sampled by how far the student is behind (DDK).

  python -m experiments.run --workdir runs/ddk \
      --config configs/liu2024ddk/strings.py:small

The student was trained on all tasks but `reverse`, the teacher on all. `noise`,
whose responses cannot be known, is there to see whether it absorbs the
sampling.

Here, `small`, mean paired difference +- its standard error:

  average no worse (nll): -0.0028 +- 0.0420, undecided
  mean of domains (ratio_mean): -0.4086 +- 0.1405, holds
  worst domain (ratio_worst): -3.0347 +- 0.6522, holds
"""
from configs import common
from configs.common import language

VARIANTS = {'small': '12 min, 2 busy cores', 'tiny': 'seconds'}


def get_config(variant: str = 'small'):
  c = language.distill_strings('liu2024ddk', steps=600)
  r = c.run
  r.pool.student = common.pretrained(
      by_seed=True, model=r.model.to_dict(), data=language.strings(
          tasks=('upper', 'sort', 'recall')).to_dict(), loop=dict(steps=600))
  r.init_from = 'student'
  for part in (r, r.pretrain):
    part.data.domains.noise = common.domain('task:noise', 8000, 200, 200)
  r.optimizer.learning_rate = 3e-3
  r.terms.label = common.term('cross_entropy')
  r.terms.fkl.weight = 0.2
  r.mixture.update(smoothing=0.5, limit=4.0, rows=100)
  c.arms = {}
  c.arms.uniform = common.arm('label', 'fkl')
  c.arms.ddk = common.arm('label', 'fkl', mixture=dict(every=60))
  c.baseline = 'uniform'
  c.claims['worst domain'] = common.claim('ddk', 'uniform', 'ratio_worst',
                                          lower=True)
  c.claims['mean of domains'] = common.claim('ddk', 'uniform', 'ratio_mean',
                                             lower=True)
  c.claims['average no worse'] = common.claim('ddk', 'uniform', 'nll',
                                              lower=True, margin=-0.02)
  return language.variant(c, variant, VARIANTS)
