r"""Losses on a vocabulary of 131072, from hidden states, tokens by chunks.

  python -m experiments.run --config configs/bench/lm_loss.py:small \
      --workdir runs/bench_lm_loss

Target: value and gradient of a loss of 4096 tokens by `losses.linear_head` need
no more than a fifth of the temporaries that the loss on logits needs, and no
more than 1.3 times the time of the four matrix products alone.

Here, `small`: temporaries 9.0 (taid, logit_swap) to 23.9 (jsd) times less, kd
10.8; cross_entropy, which has one head, 3.9. Time over the products: kd 1.13,
jsd 1.25.
"""
from configs import common

VARIANTS = {'small': '3 min, 2 cores, 6 GB', 'tiny': '10 s'}


def get_config(variant: str = 'small'):
  c = common.bench('lm_loss')
  c.workloads = dict(heads=dict(
      tokens=4096, timed_tokens=2048, width=1024, vocabulary=131072,
      chunk=1024,
      losses=('kd', 'reverse_kl', 'jsd', 'skew_kl', 'skew_reverse_kl',
              'total_variation', 'taid', 'logit_swap', 'cross_entropy'),
      timed=('kd', 'jsd')))
  if variant == 'tiny':
    c.settings.repeats = 1
    c.workloads.heads.update(
        tokens=64, timed_tokens=32, width=8, vocabulary=256, chunk=16,
        losses=('kd', 'jsd'), timed=('kd',))
  elif variant != 'small':
    raise common.unknown_variant(variant, *VARIANTS)
  return c
