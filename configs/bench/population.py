r"""64 merge recipes scored by one program, beside a loop of jitted calls.

  python -m experiments.run --config configs/bench/population.py:small \
      --workdir runs/bench_population

Target: `evaluate_population` compiles once, whatever the population and the
generation, and takes no longer than the loop at its default batch size.

Here, `small`, medians of ratios within a turn (quartiles), default batch of 1:

  linear, wide: 100 examples 0.68 (0.68 to 0.72), 1000 0.81 (0.74 to 0.85)
  dare, wide: 0.22 (0.21 to 0.23), for its draws are hoisted out of the loop
  ties, narrow: 100 examples 0.75 (0.74 to 0.75), 1000 0.86 (0.85 to 0.90)
  linear, narrow: 0.40 (0.39 to 0.41)
  batch 64: wide 0.63 to 2.72, narrow 0.41 to 0.72; 148 MB where 1 needs 3.4
  one compilation in every arm

with a load average of 2, our own. At one of 8.7, others being at work, the loop
has more threads to be given time: ties with 1000 examples 1.25, others below
0.9.
"""
from configs import common

VARIANTS = {'small': '1 min, 2 cores', 'tiny': '10 s'}


def get_config(variant: str = 'small'):
  c = common.bench('population')
  wide, narrow = (dict(name='mlp', kw=dict(width=n)) for n in (256, 64))
  digits = dict(shape=(8, 8, 1), model=narrow)
  weight, both = ('weight',), ('weight', 'density')
  def work(operator, genes, examples, **more):
    return dict(model=wide, shape=(28, 28, 1), operator=operator, genes=genes,
                examples=examples) | more
  c.workloads = dict(
      linear_100=work('linear', weight, 100),
      linear_1000=work('linear', weight, 1000),
      dare_100=work('dare', both, 100),
      ties_100=work('ties', both, 100) | digits,
      ties_1000=work('ties', both, 1000) | digits,
      linear_digits_100=work('linear', weight, 100) | digits)
  if variant == 'tiny':
    c.settings = dict(repeats=1, seconds=0.0, genomes=6, batch_sizes=(1, 4))
    tiny = dict(model=dict(name='mlp', kw=dict(width=4)), shape=(4, 4, 1),
                count=20)
    c.workloads = dict(
        linear=work('linear', weight, 20, **tiny),
        dare=work('dare', both, 20, **tiny))
  elif variant != 'small':
    raise common.unknown_variant(variant, *VARIANTS)
  return c
