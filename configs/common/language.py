"""Recipes of language model distillation: string tasks for small decoders."""
from configs import common

TASKS = dict(upper=dict(longest=6), reverse=dict(longest=6),
             sort=dict(longest=6), recall=dict(size=4))


def strings(*, train: int = 8000, held_out: int = 200, tasks=tuple(TASKS)):
  """Short prompts and responses that are right or wrong."""
  c = common.text(length=28, prompt=18)
  for name in tasks:
    c.domains[name] = common.domain(f'task:{name}', train, held_out,
                                    held_out, **TASKS[name])
  return c


def sized(depth: int, width: int, heads: int, **kw) -> dict:
  """`model` of a run, an entry of the pool, or an arm."""
  return dict(name='decoder', kw=dict(depth=depth, width=width, heads=heads,
                                      **kw))


def distill_strings(paper: str, steps: int = 500):
  """A `compare` of small decoders that learn string tasks from a larger one.

  Teacher and starts are the same for all configs, so that they are trained
  once. A student from scratch learns a task all at once, at a step that depends
  on chance more than on the loss.
  """
  r = common.distill_lm()
  r.paper = paper
  r.data = strings()
  r.pretrain.data = strings()
  r.pretrain.batch.size = 64
  r.pretrain.loop.update(steps=3000, log_every=200)
  r.pool.teacher = common.pretrained(model=sized(3, 96, 4))
  r.teachers.teacher = common.teacher('teacher')
  r.model = sized(2, 32, 2)
  r.pool.student = common.pretrained(by_seed=True, model=sized(2, 32, 2),
                                     loop=dict(steps=1500))
  r.init_from = 'student'
  r.optimizer.learning_rate = 1e-3
  r.batch.size = 64
  r.loop.update(steps=steps, log_every=50)
  r.evaluate.update(responses=200, samples=100)
  r.terms.fkl = common.term('kd', teacher='teacher', temperature=1.0)
  c = common.compare(r)
  c.arms.fkl = common.arm('fkl')
  c.baseline = 'fkl'
  return c


def variant(c, name: str, have):
  """`c` as its `small` or `tiny` variant.

  Args:
    c: a `compare` of runs on text, or a `decode`.
    name: of the variant.
    have: those there are.
  """
  if name not in have:
    raise common.unknown_variant(name, *have)
  if name == 'small':
    return c
  fused = c.experiment == 'decode'
  r = c if fused else c.run
  c.seeds = (0,)
  for part in (r.pretrain,) if fused else (r, r.pretrain):
    part.model.kw = dict(depth=1, width=16, heads=2)
    part.batch.size = 8
    part.loop.update(steps=2, log_every=1)
    part.evaluate.update(batch_size=8)
  for part in (r, r.pretrain):
    _few(part.data)
  for entry in r.pool.values():
    _without(entry.changes, 'batch', 'loop', 'model')
    _few(entry.changes.get('data', {}))
  r.evaluate.responses = min(r.evaluate.responses, 4)
  if not fused:
    r.evaluate.samples = min(r.evaluate.samples, 2)
    r.mixture.update(every=min(r.mixture.every, 1), rows=4)
    for arm in c.arms.values():
      changes = arm.changes
      _without(changes, 'batch', 'loop')
      if 'model' in changes:
        changes.model = sized(1, 16, 2, **{
            k: v for k, v in changes.model['kw'].items() if 'lora' in k})
  return c


def _without(changes, *keys):
  for key in keys:
    if key in changes:
      del changes[key]


def _few(data):
  for domain in data.get('domains', {}).values():
    domain.update(train=16, validation=4, test=4)
