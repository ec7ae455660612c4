r"""Speculative distillation (SKD) against fixed and on-policy data.

  python -m experiments.run --workdir runs/skd \
      --config configs/xu2024skd/strings.py:small

The student starts weak: 1000 updates on labels. All arms see the same prompts
and make the same updates by forward KL.

A weaker start and larger steps, which was tried first, differ little:
--config.run.pool.weak.changes.loop.steps=150 --config.run.loop.steps=400
--config.run.optimizer.learning_rate=3e-3 gave exact undecided over both arms,
token_accuracy over fkl -0.028 +- 0.011, fails; acceptance +0.11 +- 0.00, holds.

Here, `small`, mean paired difference +- its standard error:

  acceptance rises (accepted_last): +0.0562 +- 0.0119, holds
  skd over fkl, exact: -0.0437 +- 0.0216, fails
  skd over fkl, token_accuracy: -0.0186 +- 0.0146, undecided
  skd over on_policy, exact: -0.0163 +- 0.0192, undecided
  skd over on_policy, token_accuracy: -0.0026 +- 0.0123, undecided
"""
from configs import common
from configs.common import language

VARIANTS = {'small': '15 min, 2 busy cores', 'tiny': 'seconds'}


def get_config(variant: str = 'small'):
  c = language.distill_strings('xu2024skd', steps=600)
  r = c.run
  r.pool.weak = common.pretrained(
      by_seed=True, model=r.model.to_dict(), loop=dict(steps=1000))
  r.init_from = 'weak'
  # A fifth of the vocabulary; both draw at temperature 1.
  r.sampling.update(accept=20)
  c.arms.on_policy = common.arm('fkl', sampling=dict(source='student'))
  c.arms.skd = common.arm('fkl', sampling=dict(source='speculative'))
  for than in ('fkl', 'on_policy'):
    for metric in ('exact', 'token_accuracy'):
      c.claims[f'skd over {than}, {metric}'] = common.claim('skd', than, metric)
  c.claims['acceptance rises'] = common.claim(
      'skd', 'skd', 'accepted_last', than_metric='accepted_first')
  return language.variant(c, variant, VARIANTS)
