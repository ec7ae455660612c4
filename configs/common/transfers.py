"""Recipes of transfer between all pairs of a pool."""
from configs import common


def fantastic(c, steps: int) -> None:
  """Terms and methods of roth2024fantastic, onto a config of `transfer`.

  Temperature 1 throughout. MCL ends with 0.6 of the old weights, as 5000
  averagings with the paper's tau of 0.9999 do. Departs: MCL has the learning
  rate of the others, its KL all classes and all examples.
  """
  c.loop.steps = steps
  c.terms.xe = common.term('cross_entropy')
  c.terms.kl = common.term('kd', temperature=1.0)
  several = dict(teacher_logits='teachers_logits')
  c.terms.dp = common.term('partitioned_kd', rename=several)
  c.terms.dp_unsupervised = common.term(
      'partitioned_kd', rename=several, supervised=False)
  c.methods.kl = common.method(kl=1.0)
  c.methods.xe_kl = common.method(kl=0.5, xe=0.5)
  c.methods.xe_kl_mcl = common.method(
      kl=0.5, xe=0.5, ema_share=0.6, ema_every=2)
  c.methods.dp = common.method(dp=1.0)
  c.methods.dp_unsupervised = common.method(dp_unsupervised=1.0)
  # Its teacher is itself.
  c.methods.self = common.method(kl=1.0, teachers=False)
  c.methods.xe = common.method(xe=1.0, teachers=False)
  c.multi.method = 'dp'
  c.report.update(reference='dp', unsupervised='dp_unsupervised', baseline='kl',
                  second_baseline='xe_kl_mcl', control='self')


def tiny_transfer(c, *pool: str) -> None:
  """Cuts a config of `transfer` down to seconds: digits, `pool`, 2 steps."""
  for data_config in (c.data, c.pretrain.data):
    data_config.update(name='digits', train='train', test='test', size=32,
                       subset=100, validation=20, test_limit=50, data_dir='')
  c.pretrain.loop.update(steps=2, save_every=0)
  c.pretrain.batch.size = c.batch.size = c.evaluate.batch_size = 16
  c.pretrain.evaluate.batch_size = 16
  c.loop.update(steps=2, save_every=0)
  c.seeds = (0,)
  c.multi.teachers = 2
  for name in list(c.pool):
    if name in pool:
      c.pool[name].changes.loop = dict(steps=2)
    else:
      del c.pool[name]
