r"""Up-scaling: what a large model knows in the form that a small one learned.

  python -m experiments.run --workdir runs/eft \
      --config configs/mitchell2023eft/facts.py:small

Facts are learned in pretraining, which the small model has no room for; three
times out of four they are told without `<` and `>`. Tuning, on half of the
facts, always has these; the other facts are asked for.

Here, `small`, mean paired difference +- its standard error:

  both, over ensemble (exact): -0.0422 +- 0.0059, fails
  both, over large (exact): +0.9533 +- 0.0038, holds
  both, over small_tuned (exact): +0.9467 +- 0.0077, holds
  recall nearer to the large: +0.9022 +- 0.0118, holds
  style within 5 points of the small tuned: +0.0667 +- 0.0067, holds
"""
from configs import common
from configs.common import language

VARIANTS = {'small': '10 min, 2 busy cores', 'tiny': 'seconds'}


def get_config(variant: str = 'small'):
  c = common.decode()
  c.paper = 'mitchell2023eft'
  rows = dict(length=14, prompt=6)
  facts = dict(size=400, value_length=3)
  dressed = dict(task='facts', prefix='<', suffix='>')
  plain = common.text(**rows)
  told = lambda source, share, **kw: common.domain(
      source, 400, 100, 100, share=share, disjoint=False, **kw)
  plain.domains.facts = told('task:facts', 3.0, **facts)
  plain.domains.dressed = told('task:style', 1.0, kw=facts, **dressed)
  tuning = common.text(**rows)
  tuning.domains.facts = common.domain('task:style', 200, 50, 150,
                                         kw=facts, **dressed)
  c.data = tuning
  c.pretrain.data = plain
  c.pretrain.loop.update(steps=1500, log_every=100)
  c.pretrain.batch.size = 64
  tune = dict(data=tuning.to_dict(), loop=dict(steps=100),
              optimizer=dict(learning_rate=1e-3))
  for name, size in (('large', (3, 96, 4)), ('small', (1, 24, 2))):
    c.pool[name] = common.pretrained(by_seed=True,
                                      model=language.sized(*size))
    c.pool[f'{name}_tuned'] = common.pretrained(name, by_seed=True, **tune)
  c.evaluate.responses = 150
  c.evaluate.judge = 'kt_jax.train.evaluate_lm:recall_and_style'
  for name in c.pool:
    c.arms[name] = common.fusing(name)
  c.arms.up = common.fusing(
      fuse='emulated_fine_tuning', base='large', experts=('small_tuned',),
      anti_experts=('small',))
  c.arms.ensemble = common.fusing('large', 'small_tuned', fuse='ensemble')
  c.baseline = 'small_tuned'
  for than in ('large', 'small_tuned', 'ensemble'):
    c.claims[f'both, over {than}'] = common.claim('up', than, 'exact')
  c.claims['style within 5 points of the small tuned'] = common.claim(
      'up', 'small_tuned', 'style', margin=-0.05)
  c.claims['recall nearer to the large'] = common.claim(
      'up', 'small_tuned', 'recall', above=('large', 'up'))
  return language.variant(c, variant, VARIANTS)
