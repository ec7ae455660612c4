r"""A small decoder on text, its perplexity and its answers.

  python -m experiments.run --workdir runs/lm \
      --config configs/basic/pretrain_lm.py:small

String tasks, which need no files; for a text of your own

      --config.data.domains='{"own": {"source": "my.txt"}}'
"""
from configs import common

VARIANTS = {'small': '1 min', 'tiny': 'seconds'}


def get_config(variant: str = 'small'):
  if variant not in VARIANTS:
    raise common.unknown_variant(variant, *VARIANTS)
  c = common.train_lm()
  c.data = common.text(length=40, prompt=24)
  c.data.domains.add = common.domain('task:add', 2000, 100, 100)
  c.data.domains.reverse = common.domain('task:reverse', 2000, 100, 100)
  c.model.kw.update(depth=3, width=96, heads=4)
  c.loop.steps = 500
  c.evaluate.responses = 100
  c.evaluate.samples = 8
  if variant == 'tiny':
    c.data.domains.add.update(train=64, validation=8, test=8)
    c.data.domains.reverse.update(train=64, validation=8, test=8)
    c.model.kw.update(depth=1, width=16, heads=2)
    c.batch.size = 8
    c.loop.update(steps=2, log_every=1)
    c.evaluate.responses = 4
  return c
