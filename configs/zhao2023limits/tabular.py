r"""Four tabular students of a teacher that reveals more and more.

  python -m experiments.run --config configs/zhao2023limits/tabular.py:small \
      --workdir runs/tabular

Paper: rates sqrt(|S||A|/n), constant, |S||A|/n and |S|/n, of the worst
instance for each n. Here, on one instance: log-log slopes -0.500 +- 0.001, the
plateau of normalized squares to 0.3 %, -2.7 +- 0.1 and -2.5 +- 0.2 (risk falls
faster than for the worst), exact from n = 1000 on.
"""
from configs import common

VARIANTS = {'small': 'seconds', 'tiny': 'seconds'}


def get_config(variant: str = 'small'):
  c = common.tabular()
  c.paper = 'zhao2023limits'
  c.learners = dict(
      ce_sgl=common.rate(0.5, inputs=1, labels=1),  # sees labels
      ce_ptl=common.rate(0.0, inputs=1, labels=1),  # weights them: biased
      sel_ptl=common.rate(1.0, inputs=1, labels=1),  # copies their probability
      ce_ful=common.rate(1.0, inputs=1))  # copies rows
  if variant == 'tiny':
    c.update(inputs=6, labels=4, seeds=(0, 1), sizes=(10, 100, 1000))
  elif variant != 'small':
    raise common.unknown_variant(variant, *VARIANTS)
  return c
