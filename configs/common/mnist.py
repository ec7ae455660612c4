"""Recipes of merging that several papers share: MLPs on digits of MNIST."""
from configs import common


def merge_mnist(paper: str, *, width: int = 128, depth: int = 2,
                steps: int = 300):
  """A `merge` of MLPs on 5000 digits of MNIST: its trainings, no tasks or arms.

  1000 more digits are held out to choose settings on, the same for all tasks.
  """
  c = common.merge()
  c.paper = paper
  c.pretrain.model = dict(name='mlp', kw=dict(width=width, depth=depth))
  for part in (c.pretrain, c.finetune):
    part.data = common.data('mnist', train='train[:6000]', validation=1000)
    part.terms.task = common.term('cross_entropy')
    part.optimizer = common.optimizer('sgd', 0.05, momentum=0.9)
    part.optimizer.schedule.name = 'cosine_decay_schedule'
    part.batch.size = 64
    part.loop.update(steps=steps, log_every=steps)
    part.evaluate.batch_size = 1000
  return c


def merge_skewed(paper: str):
  """A `merge` of two experts, for each of which half of the classes are rare.

  They start from a net of five updates; one that can read digits already keeps
  them so near to each other that their mean is hard to beat.
  """
  c = merge_mnist(paper, steps=600)
  c.pretrain.data.update(train='train[20000:21000]', validation=0)
  c.pretrain.loop.steps = 5
  c.samples = 1000
  rare, full = (0.05,) * 5, (1.0,) * 5
  c.tasks.low = common.task(data=dict(class_shares=full + rare))
  c.tasks.high = common.task(data=dict(class_shares=rare + full))
  c.arms.single = common.merging(kind='best_single')
  c.arms.ensemble = common.merging(kind='ensemble')
  c.arms.multitask = common.merging(kind='multitask')
  c.arms.mean = common.merging('linear')
  c.baseline = 'mean'
  c.seeds = tuple(range(5))
  return c


def merge_two(paper: str):
  """A `merge` of two MLPs that share neither start nor order of the data."""
  c = merge_mnist(paper, depth=3, steps=2000)
  c.pretrain.optimizer.learning_rate = 0.1
  c.base = ''
  c.tasks.one = common.task()
  c.tasks.two = common.task()
  c.samples = 200
  c.arms.own = common.merging(kind='individual')
  c.arms.single = common.merging(kind='best_single')
  c.arms.ensemble = common.merging(kind='ensemble')
  c.arms.mean = common.merging('linear', path=11)
  c.baseline = 'mean'
  c.seeds = tuple(range(5))
  return c


def merge_rotated(paper: str, angles):
  """A `merge` of experts on rotated digits; the base knows upright ones."""
  c = merge_mnist(paper)
  c.pretrain.data.update(train='train[20000:26000]', test_limit=1000)
  for angle in angles:
    c.tasks[f'r{angle}'] = common.task(data=dict(
        rotation=float(angle), test_limit=1000))
  c.arms.base = common.merging(kind='base')
  c.arms.own = common.merging(kind='individual')
  c.arms.mean = common.merging('linear')
  c.arms.arithmetic = common.merging('linear', tune=dict(
      weight=tuple(round(0.05 * n, 2) for n in range(1, 21))))
  c.baseline = 'arithmetic'
  return c


def merge_rotations(paper: str, **ablations):
  """A `merge` of experts on digits rotated by eight angles.

  An arm stands for its operator on the first 2, 4 and all 8 tasks: 'NAME_2' is
  tuned on what these hold out, the others take what it chose.

  Args:
    paper: of the config.
    **ablations: name -> `common.merging()`, arms besides mean and task
      arithmetic.
  """
  c = merge_mnist(paper)
  c.pretrain.data.train = 'train[20000:26000]'
  c.finetune.data.test = 'test[:2000]'
  # Further apart, up to 90 degrees, experts agree on so little that no way of
  # adding them is better than their mean.
  for i, angle in enumerate((0, 30, -30, 15, -15, 45, -45, 22)):
    c.tasks[f'task{i}'] = common.task(data=dict(rotation=float(angle)))
  arms = dict(
      arithmetic=common.merging('task_arithmetic', weight=(1.0,), tune=dict(
          scale=(0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0, 1.3))),
      mean=common.merging('linear')) | ablations
  for count in (2, 4, 8):
    chosen = tuple(f'task{i}' for i in range(count))
    for name, arm in arms.items():
      arm = c.arms[f'{name}_{count}'] = common.merging(**arm.to_dict() | dict(
          experts=chosen))
      if count > 2 and arm.tune:
        arm.tuned_as, arm.tune = f'{name}_2', {}
    for name, kind in (('base', 'base'), ('own', 'individual'),
                       ('ensemble', 'ensemble')):
      c.arms[f'{name}_{count}'] = common.merging(kind=kind, experts=chosen)
  c.arms.multitask_8 = common.merging(kind='multitask')
  c.seeds = tuple(range(5))
  return c


def merge_variant(c, variant: str, have):
  """`small` as it is, or cut to two steps of few digits and two grid values."""
  if variant not in have:
    raise common.unknown_variant(variant, *have)
  if variant == 'tiny':
    changes = [task.changes for task in c.tasks.values()]
    for part in (c.pretrain, c.finetune, *changes):
      if 'data' in part:
        if 'kw' in part.data:
          part.data.kw = {}
        part.data.update(name='digits', train='train', test='test', subset=60,
                         validation=20, test_limit=50)
      if 'loop' in part:
        part.loop.steps = 2
    for part in (c.pretrain, c.finetune):
      part.batch.size = 16
      part.loop.log_every = 1
    for arm in c.arms.values():
      for name in arm.tune:
        arm.tune[name] = tuple(arm.tune[name][:2])
      for name, least in dict(steps=2, evaluations=20, batch=8).items():
        if name in arm.settings:
          arm.settings[name] = least
    c.samples = 16
    c.seeds = (0,)
  return c
