r"""Harder targets for hard tokens (Self-Evolution KD) on a cipher.

  python -m experiments.run --workdir runs/evolution \
      --config configs/song2024selfevolution/cipher.py:small

Two readings of the proxy student, and three controls: every token treated as
hard, random tokens at the same rate, and the contrary, hard tokens weighted up.

Here, `small`, mean paired difference +- its standard error:

  geometric over fkl (exact): +0.0000 +- 0.0038, undecided
  geometric over random (exact): -0.0058 +- 0.0022, fails
  geometric over uniform (exact): -0.0050 +- 0.0050, undecided
  geometric over weight (exact): -0.0075 +- 0.0025, fails
  mixture over fkl (exact): +0.0050 +- 0.0014, holds
  mixture over random (exact): -0.0008 +- 0.0008, undecided
  mixture over uniform (exact): +0.0000 +- 0.0025, undecided
  mixture over weight (exact): -0.0025 +- 0.0000, fails
"""
from configs import common
from configs.common import language

VARIANTS = {'small': '15 min, 2 busy cores', 'tiny': 'seconds'}


def get_config(variant: str = 'small'):
  c = language.distill_strings('song2024selfevolution')
  r = c.run
  for part in (r, r.pretrain):
    part.data = common.text(length=38, prompt=22)
    for key in range(2):
      part.data.domains[f'cipher{key}'] = common.domain(
          'task:shift', 2000, 200, 200, key=3 + key, shortest=1, longest=2)
  r.pretrain.loop.steps = 1500
  r.pool.student.changes.loop.steps = 800
  evolve = lambda **kw: common.term('self_evolution_kd',
                                            teacher='teacher', **kw)
  for name, term in dict(
      mixture=evolve(), geometric=evolve(form='geometric'),
      uniform=evolve(hard=1.0), random=evolve(choice='random'),
      weight=evolve(form='weight')).items():
    r.terms[name] = term
    c.arms[name] = common.arm(name)
  for form in ('mixture', 'geometric'):
    for than in ('fkl', 'uniform', 'random', 'weight'):
      c.claims[f'{form} over {than}'] = common.claim(form, than, 'exact')
  return language.variant(c, variant, VARIANTS)
