r"""Greedy generation with a cache, over the bare matrix products of a decoder.

  python -m experiments.run --config configs/bench/generate.py:small \
      --workdir runs/bench_generate

`products` is the arithmetic that no implementation can leave out: what each
weight is multiplied with, prompt and new tokens, one after another.

Here, `small`, 5 turns, medians (quartiles):

  rows  tokens/s  of the products  generate over products
  1     151       166              1.10 (1.08 to 1.11)
  32    1,298     1,790            1.34 (1.28 to 1.38)
"""
from configs import common

VARIANTS = {'small': '1 min, 2 cores', 'tiny': '5 s, 2 cores'}


def get_config(variant: str = 'small'):
  c = common.bench('generate')
  c.workloads = dict(decoder=dict(
      vocabulary=32000, prompt=16, new=64, batch_sizes=(1, 32),
      model=dict(name='decoder', kw=dict(
          depth=8, width=512, heads=8, kv_heads=4))))
  if variant == 'tiny':
    c.settings.repeats = 1
    c.workloads.decoder.update(vocabulary=64, prompt=4, new=4,
                               batch_sizes=(1, 2))
    c.workloads.decoder.model.kw.update(depth=2, width=16, heads=2, kv_heads=1)
  elif variant != 'small':
    raise common.unknown_variant(variant, *VARIANTS)
  return c
