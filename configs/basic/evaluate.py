r"""Evaluates a checkpoint: accuracy, NLL, ECE and every logit.

  python -m experiments.run --config configs/basic/evaluate.py:small \
      --workdir runs/evaluate --config.checkpoint=runs/pretrain
"""
from configs import common

VARIANTS = {'small': 'seconds', 'tiny': 'seconds'}


def get_config(variant: str = 'small'):
  c = common.evaluate()
  c.data = common.data('digits')
  if variant == 'tiny':
    c.data.test_limit = 50
  elif variant != 'small':
    raise common.unknown_variant(variant, *VARIANTS)
  return c
