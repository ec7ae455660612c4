r"""A teacher whose prompt learns what the student can take in (PromptKD).

  python -m experiments.run --workdir runs/promptkd \
      --config configs/kim2024promptkd/strings.py:small

All three gradients of an update are taken at one point, and what holds the
prompted teacher near the plain one keeps its weight; in the paper the prompt
moves first, and the weight falls to 0. This small teacher has never seen a
prefix and is 7.6 nats from itself under one (`hold` in metrics.jsonl, seed 0,
the first 50 updates); 300 updates bring it to 2.9.

Here, `small`, mean paired difference +- its standard error:

  exact: -0.3292 +- 0.0537, fails
  token_accuracy: -0.2172 +- 0.0274, fails
"""
from configs import common
from configs.common import language

VARIANTS = {'small': '15 min, 2 busy cores', 'tiny': 'seconds'}


def get_config(variant: str = 'small'):
  c = language.distill_strings('kim2024promptkd', steps=300)
  r = c.run
  r.sampling.source = 'student'
  r.teachers.prompted = common.teacher(
      kind='prompted', of='teacher', module='prompt')
  r.modules.prompt = common.module('SoftPrompt', count=7)
  r.terms = {}
  rkl = lambda **kw: common.term('reverse_kl', **kw)
  r.terms.plain = rkl(teacher='teacher')
  r.terms.student = rkl(teacher='prompted', updates=('student',))
  r.terms.prompt = rkl(student='prompted', teacher='student',
                       updates=('prompt',))
  r.terms.hold = rkl(student='prompted', teacher='teacher', updates=('prompt',))
  c.arms = {}
  c.arms.plain = common.arm('plain')
  c.arms.prompted = common.arm('student', 'prompt', 'hold')
  c.baseline = 'plain'
  for metric in ('exact', 'token_accuracy'):
    c.claims[metric] = common.claim('prompted', 'plain', metric)
  return language.variant(c, variant, VARIANTS)
