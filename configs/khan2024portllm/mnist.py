r"""PortLLM: what fine-tuning changed, carried to a base that trained on.

  python -m experiments.run --config configs/khan2024portllm/mnist.py:small \
      --workdir runs/port

The base knows upright digits, the patch is of digits turned by 60 degrees. The
base is updated by more and more steps on digits turned by -60 degrees.

Here, `small`:

  patched10 over again10: -0.0358 +- 0.0019 (margin -0.03), fails
  patched100 over again100: -0.3215 +- 0.0396 (margin -0.03), fails
  patched3 over again3: -0.0043 +- 0.0032 (margin -0.03), holds
  patched30 over again30: -0.1788 +- 0.0159 (margin -0.03), fails
  patched300 over again300: -0.4297 +- 0.0282 (margin -0.03), fails
  again300 over patched300, above again3 - patched3: +0.4253 +- 0.0252, holds
  patched10 over updated10: +0.6445 +- 0.0232, holds
  patched100 over updated100: +0.4495 +- 0.0407, holds
  patched3 over updated3: +0.6713 +- 0.0130, holds
  patched30 over updated30: +0.5972 +- 0.0301, holds
  patched300 over updated300: +0.3480 +- 0.0298, holds

Updates of three steps were added when ten had proved too many. The breaking
point lies between 3 and 10 steps, norms of 0.9 and 2.6. A patch of rank 8
(`rank8_N`) is 0.06 to 0.13 below the whole one.
"""
from configs import common
from configs.common import mnist

VARIANTS = {'small': '3 min, 2 busy cores', 'tiny': 'seconds'}
STEPS = (3, 10, 30, 100, 300)


def get_config(variant: str = 'small'):
  c = mnist.merge_mnist('khan2024portllm')
  c.pretrain.data.update(train='train[20000:26000]', test_limit=1000)
  turned = dict(rotation=60.0, test_limit=2000)
  c.tasks.task = common.task(data=turned)
  for steps in STEPS:
    c.tasks[f'up{steps}'] = common.task(
        data=dict(train='train[26000:32000]', rotation=-60.0, test_limit=1000),
        loop=dict(steps=steps))
    c.tasks[f'again{steps}'] = common.task(init_from=f'up{steps}', data=turned)
  on = dict(tasks=('task',))
  c.arms.base = common.merging(kind='base', **on)
  c.arms.tuned = common.merging(kind='individual', **on)
  for n in STEPS:
    single = lambda name: common.merging(kind='best_single', experts=(name,),
                                         **on)
    patch = lambda **kw: common.merging(
        kind='transfer_task_vector', settings=dict(
            target=f'up{n}', tuned='task') | kw, **on)
    c.arms[f'updated{n}'] = single(f'up{n}')
    c.arms[f'again{n}'] = single(f'again{n}')
    c.arms[f'patched{n}'] = patch()
    c.arms[f'rank8_{n}'] = patch(rank=8)
    c.claims[f'updated{n}'] = common.claim(f'patched{n}', f'updated{n}')
    c.claims[f'again{n}'] = common.claim(f'patched{n}', f'again{n}',
                                         margin=-0.03)
  least, most = STEPS[0], STEPS[-1]
  c.claims.size = common.claim(f'again{most}', f'patched{most}',
                               above=(f'again{least}', f'patched{least}'))
  return mnist.merge_variant(c, variant, VARIANTS)
