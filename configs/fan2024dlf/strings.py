r"""Dynamic logit fusion against a fixed weight.

  python -m experiments.run --workdir runs/dlf \
      --config configs/fan2024dlf/strings.py:small

The bases learned tasks whose responses are dressed one way or another; three
small experts were tuned, each on one task with one way to dress it. The large
base was not.

Here, `small`, mean paired difference +- its standard error:

  mixed tasks: over a static weight (exact): -0.2233 +- 0.0158, fails
  mixed tasks: over dynamic reverse (exact): +0.0078 +- 0.0487, undecided
  mixed tasks: over dynamic sort (exact): +0.1300 +- 0.0523, holds
  mixed tasks: over dynamic upper (exact): +0.0478 +- 0.1707, undecided
  mixed tasks: over expert reverse (exact): +0.3278 +- 0.1593, holds
  mixed tasks: over expert sort (exact): +0.3778 +- 0.0901, holds
  mixed tasks: over expert upper (exact): +0.2144 +- 0.1005, holds
  reverse: over expert (reverse_angle_exact): +0.2433 +- 0.2433, undecided
  reverse: over large (reverse_angle_exact): +0.9967 +- 0.0033, holds
  reverse: over proxy (reverse_angle_exact): +0.0000 +- 0.0000, undecided
  reverse: over tuned (reverse_angle_exact): -0.0033 +- 0.0033, undecided
  sort: over expert (sort_angle_exact): +0.2167 +- 0.1120, undecided
  sort: over large (sort_angle_exact): +0.9567 +- 0.0033, holds
  sort: over proxy (sort_angle_exact): +0.0000 +- 0.0000, undecided
  sort: over tuned (sort_angle_exact): +0.0067 +- 0.0033, undecided
  upper: over expert (upper_angle_exact): +0.0033 +- 0.0033, undecided
  upper: over large (upper_angle_exact): +1.0000 +- 0.0000, holds
  upper: over proxy (upper_angle_exact): +0.0000 +- 0.0000, undecided
  upper: over tuned (upper_angle_exact): +0.0000 +- 0.0000, undecided
"""
from configs import common
from configs.common import language

VARIANTS = {'small': '15 min, 2 busy cores', 'tiny': 'seconds'}
TASKS = ('upper', 'reverse', 'sort')


def get_config(variant: str = 'small'):
  c = common.decode()
  c.paper = 'fan2024dlf'
  ways = dict(plain={}, angle=dict(prefix='<', suffix='>'),
              star=dict(suffix='*'), dash=dict(prefix='-'))

  def texts(tasks, ways_of, rows):
    text = common.text(length=30, prompt=18)
    for task in tasks:
      for way in ways_of:
        text.domains[f'{task}_{way}'] = common.domain(
            'task:style', rows, 100, 200, task=task, kw=dict(longest=6),
            **ways[way])
    return text

  c.pretrain.data = texts(TASKS, ways, 4000)
  c.pretrain.batch.size = 64
  c.pretrain.loop.update(steps=3000, log_every=200)
  c.data = texts(TASKS, ('angle',), 4000)
  c.pool.large = common.pretrained(model=language.sized(3, 96, 4))
  c.pool.small = common.pretrained(by_seed=True,
                                    model=language.sized(2, 32, 2),
                                    loop=dict(steps=1500))
  for task in TASKS:
    c.pool[task] = common.pretrained(
        'small', by_seed=True, loop=dict(steps=200), optimizer=dict(
            learning_rate=1e-3), data=texts([task], ('angle',), 4000).to_dict())
  c.evaluate.responses = 100
  c.arms.large = common.fusing('large')
  several = dict(base='large', experts=TASKS, anti_experts=('small',))
  for task in TASKS:
    c.arms[f'expert_{task}'] = common.fusing(task)
    one = dict(base='large', experts=(task,), anti_experts=('small',))
    c.arms[f'proxy_{task}'] = common.fusing(fuse='emulated_fine_tuning',
                                              **one)
    c.arms[f'tuned_{task}'] = common.fusing(
        fuse='emulated_fine_tuning', tune=dict(
            scale=(0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0)), **one)
    c.arms[f'dynamic_{task}'] = common.fusing(fuse='dynamic_logit_fusion',
                                                **one)
  c.arms.dynamic = common.fusing(fuse='dynamic_logit_fusion', **several)
  c.arms.proxy = common.fusing(fuse='emulated_fine_tuning', scale=1 / 3,
                                 **several)
  c.baseline = 'large'
  for task in TASKS:
    metric = f'{task}_angle_exact'
    for than in ('proxy', 'tuned', 'expert'):
      c.claims[f'{task}: over {than}'] = common.claim(
          f'dynamic_{task}', f'{than}_{task}', metric)
    c.claims[f'{task}: over large'] = common.claim(f'dynamic_{task}', 'large',
                                                   metric)
    for than in ('dynamic', 'expert'):
      c.claims[f'mixed tasks: over {than} {task}'] = common.claim(
          'dynamic', f'{than}_{task}', 'exact')
  c.claims['mixed tasks: over a static weight'] = common.claim(
      'dynamic', 'proxy', 'exact')
  return language.variant(c, variant, VARIANTS)
