r"""A distillation step of a small decoder over its parts.

  python -m experiments.run --config configs/bench/lm_step.py:small \
      --workdir runs/bench_lm_step

Target: a KD step takes no more than 1.2 times the teacher's forward pass and a
step on labels.

Here, `small`, medians of ratios within a turn (quartiles): characters 1.01
(0.91 to 1.04), wider 1.06 (1.01 to 1.11).
"""
from configs import common
from configs.common import language

VARIANTS = {'small': '1 min, 2 cores', 'tiny': 'seconds'}


def get_config(variant: str = 'small'):
  if variant not in VARIANTS:
    raise common.unknown_variant(variant, *VARIANTS)
  tiny = variant == 'tiny'
  c = common.bench('lm_step')
  c.settings.repeats = 1 if tiny else 7
  for name, rows, length, student, teacher in (
      ('characters', 32, 64, (2, 48, 4), (3, 96, 4)),
      ('wider', 8, 128, (4, 128, 4), (6, 256, 8))):
    if tiny:
      rows, length, student, teacher = 8, 8, (1, 8, 2), (1, 8, 2)
    r = common.distill_lm()
    r.data = common.text(length=length)
    r.data.domains.any = common.domain('task:add', 1)
    r.pretrain.data = r.data
    r.batch.size = rows
    r.model = language.sized(*student)
    r.pool.teacher = common.pretrained(model=language.sized(*teacher))
    r.teachers.teacher = common.teacher('teacher')
    r.terms.task = common.term('cross_entropy')
    r.terms.kd = common.term('kd', teacher='teacher', temperature=1.0)
    c.workloads[name] = dict(run=r, steps=1 if tiny else 10, chunk=512)
  return c
