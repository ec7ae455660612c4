r"""Answers about each image as further targets (MaKD), on few digits.

  python -m experiments.run --workdir runs/aspects \
      --config configs/lee2024multiaspect/digits.py:small

The answers are attributes computed from the image (loops, symmetry, ink), not
a language model's; so there is no `paper` variant. Controls:
`shuffled` among the images of a class, and `by_class`, their means.

Here, `small`:

  aspects over label: +0.0010 +- 0.0012, undecided
  aspects over by_class: +0.0024 +- 0.0015, undecided
  aspects over shuffled: +0.0048 +- 0.0016, holds
"""
from configs import common
from configs.common import images

VARIANTS = {'small': '6 min, 2 busy cores', 'tiny': 'seconds'}


def get_config(variant: str = 'small'):
  r = images.digits_run()
  r.paper = 'lee2024multiaspect'
  r.modules.aspects = common.module('AspectHead')
  more = dict(taps='pool', module='aspects', weight=4.0)
  r.terms.task = common.term('cross_entropy')
  r.terms.aspects = common.term('multi_aspect', **more)
  r.terms.by_class = common.term(
      'multi_aspect', rename=dict(teacher_aspects='class_aspects'), **more)
  r.terms.shuffled = common.term(
      'multi_aspect', rename=dict(teacher_aspects='shuffled_aspects'), **more)
  r.targets.teacher_aspects = 'image_aspects'
  r.targets.class_aspects = 'class_aspects'
  r.targets.shuffled_aspects = 'shuffled_aspects'
  r.model = dict(name='mlp', kw=dict(width=64, depth=1))
  c = common.compare(r)
  c.arms.label = common.arm('task')
  for name in ('aspects', 'by_class', 'shuffled'):
    c.arms[name] = common.arm('task', name)
  c.seeds = tuple(range(10))
  c.claims.aspects = common.claim('aspects', 'label')
  c.claims.shuffled = common.claim('aspects', 'shuffled')
  c.claims.by_class = common.claim('aspects', 'by_class')
  return images.small_variant(c, variant, VARIANTS)
