r"""Layer swapping: a task learned in one language, read in another.

  python -m experiments.run --config configs/bandarkar2024swap/mnist.py:small \
      --workdir runs/swap

The other language is digits turned by 90 degrees; its expert sees 0 to 4 of
them. The task is to tell all digits, its expert sees them upright. Measured on
5 to 9, turned.

Here, `small`:

  swap over ends: +0.2171 +- 0.0532, holds
  swap over inverse: +0.1989 +- 0.0523, holds
  swap over language: +0.2171 +- 0.0532, holds
  swap over mean: +0.2154 +- 0.0532, holds
  swap over sum: +0.1317 +- 0.0654, holds
  swap over task: +0.0586 +- 0.0640, undecided

`inverse` takes the middle from the language, `ends` the last layer and the
head. It is the weaker form of the paper's claim: the swap is 0.22 of a ceiling
of 0.95, and not above the task expert by two standard errors. What the method
presumes is half there: of its norm, the language's expert moves the first layer
by 0.39, the others by 0.25 to 0.26, the head by 0.50; the task's by 0.43, 0.25
to 0.27 and 0.64. Turned by 45 degrees, or under a pattern of noise, the task
expert reads the other language by itself and the swap loses (0.17 to 0.38, 0.13
to 0.51, held out). Three seeds left `sum` and `task` undecided; two were added.
"""
from configs import common
from configs.common import mnist

VARIANTS = {'small': '2 min, 2 busy cores', 'tiny': 'seconds'}


def get_config(variant: str = 'small'):
  c = mnist.merge_mnist('bandarkar2024swap', depth=4)
  first, last = (0, 1, 2, 3, 4), (5, 6, 7, 8, 9)
  c.pretrain.data.update(train='train[20000:30000]', classes=first)
  c.tasks.language = common.task(data=dict(rotation=90.0, classes=first))
  c.tasks.task = common.task()
  c.tasks.goal = common.task(data=dict(rotation=90.0, classes=last))
  on = dict(tasks=('goal',))
  both = dict(experts=('language', 'task'), **on)
  single = lambda name: common.merging(kind='best_single', experts=(name,),
                                       **on)
  c.arms.language = single('language')
  c.arms.task = single('task')
  c.arms.ceiling = common.merging(kind='individual', **on)
  c.arms.mean = common.merging('linear', **both)
  c.arms.sum = common.merging('linear', weight=1.0, **both)
  swap = lambda **kw: common.merging(kind='layer_swap', settings=dict(
      bottom=1, top=0, transition=0, others=1.0) | kw, **both)
  c.arms.swap = swap()
  c.arms.transition = swap(transition=1)
  c.arms.ends = swap(top=1, others=0.0)
  c.arms.inverse = swap()
  c.arms.inverse.experts = ('task', 'language')
  c.arms.inverse.settings.others = 0.0
  for name in ('language', 'task', 'mean', 'sum', 'inverse', 'ends'):
    c.claims[name] = common.claim('swap', name)
  c.seeds = tuple(range(5))
  return mnist.merge_variant(c, variant, VARIANTS)
