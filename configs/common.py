"""What every config starts from: all keys, with their defaults.

A key that is not here (or in the protocol's own defaults) does not exist; the
launcher refuses it.
"""
from ml_collections import config_dict


def supervised(experiment: str = 'pretrain') -> config_dict.ConfigDict:
  """Keys of `pretrain` and `finetune`; the other protocols add to them."""
  c = config_dict.ConfigDict()
  c.experiment = experiment  # a module of experiments/ or module:function
  c.paper = ''  # key in kt_jax/papers.py; '' for none
  c.variant = ''
  c.seed = 0
  c.data = data()
  c.batch = dict(
      size=64,  # of the global batch
      augment=config_dict.ConfigDict(),  # name -> settings, see data/augment.py
      mixup=0.0, cutmix=0.0)  # alpha of the Beta distribution; 0 off
  c.model = dict(name='mlp', kw=config_dict.ConfigDict())
  c.terms = config_dict.ConfigDict()  # name -> term(); their sum is minimised
  c.optimizer = dict(
      name='sgd',  # an optax optimiser
      learning_rate=0.1,
      schedule=dict(name='', kw=config_dict.ConfigDict()),  # optax; '' constant
      weight_decay=0.0,  # L2, added to the gradient
      clip=0.0,  # global norm; 0 off
      kw=config_dict.ConfigDict())
  c.loop = dict(steps=100, log_every=50, save_every=0, keep=2)
  c.eval_batch_size = 250
  c.train = dict(
      accumulate=1,  # micro-batches a step
      compute_dtype='float32',  # or bfloat16
      ema=0.0)  # decay of the moving average that is evaluated; 0 off
  c.mesh = dict(data=-1, model=1)
  c.sharding = ()  # ((regex on the path, (axis or None, ...)), ...)
  return c


def data(name: str = 'digits', **kw) -> config_dict.ConfigDict:
  """Keys of a data set."""
  c = config_dict.ConfigDict(dict(
      name=name,  # digits, a TFDS image set, or module:function
      train='train', test='test',  # TFDS split strings
      validation=0.1,  # share or number taken from train, class by class
      subset=0.0,  # share or number of train kept, class by class; 0 all
      split_seed=1234,
      test_limit=0,  # 0 all
      data_dir='',  # '' TFDS_DATA_DIR, else TFDS's own default
      size=0,  # resize and centre crop; 0 native
      mean=(), std=()))  # a channel, images on 0 to 1; () those of the set
  c.update(kw)
  return c


def term(loss: str, weight: float = 1.0, warmup: int = 0, rename=None,
         **kw) -> config_dict.ConfigDict:
  """One loss of the sum: `weight * loss(**kw)`, linear warm-up over steps."""
  return config_dict.ConfigDict(dict(
      loss=loss, weight=weight, warmup=warmup, kw=kw, rename=rename or {}))


def finetune() -> config_dict.ConfigDict:
  """Keys of `finetune`."""
  c = supervised('finetune')
  c.init = dict(
      checkpoint='',  # workdir of a run, or a Hugging Face directory
      step=-1,  # -1: the one that the run's card names
      load='.*',  # regex on paths: what is taken from it; the rest is fresh
      # Regex on paths: what is trained. Other parameters stay; BatchNorm's
      # statistics move everywhere.
      train='.*')
  return c


def evaluate() -> config_dict.ConfigDict:
  """Keys of `evaluate`."""
  c = config_dict.ConfigDict()
  c.experiment = 'evaluate'
  c.paper = ''
  c.variant = ''
  c.data = data()
  c.eval_batch_size = 250
  c.checkpoint = ''
  c.step = -1
  c.compute_dtype = 'float32'
  return c


def unknown_variant(variant: str, *have: str) -> ValueError:
  return ValueError(f'No variant {variant!r}; have {", ".join(have)}.')


def transfer() -> config_dict.ConfigDict:
  """Keys of `transfer`: those of a student's run that have a meaning, and more.

  A term's weight is the method's.
  """
  c = supervised('transfer')
  for key in ('model', 'seed', 'sharding', 'train'):
    del c[key]
  del c.batch.mixup, c.batch.cutmix, c.loop.log_every, c.loop.keep
  c.compute_dtype = 'float32'  # or bfloat16
  c.seeds = (0, 1, 2)
  c.pretrain = supervised()  # what members of the pool have in common
  c.pool = config_dict.ConfigDict()  # name -> changes to it, or checkpoint=DIR
  c.pool_dir = ''  # where trained members are kept; '' the user's cache
  c.methods = config_dict.ConfigDict()  # name -> method()
  c.multi = dict(
      method='',  # of several teachers at once or in turn; '' none
      teachers=3)  # how many, the best on validation, ascending
  c.report = dict(  # methods in the roles of the paper's claims; '' not there
      reference='', unsupervised='', baseline='', rival='', control='')
  c.save = ()  # methods whose students are kept, in students/
  c.together = 0  # runs of a student that step together; 0 all
  c.vmap = False  # as one program: for accelerators
  return c


def method(rate: float = 1.0, slow: float = 0.0, every: int = 1,
           teachers: bool = True, **weights: float) -> config_dict.ConfigDict:
  """A weighting of `config.terms` that all methods share.

  Args:
    rate: multiplies the learning rate.
    slow: share that the student before transfer has in the moving average at
      the end, MCL's tau^(updates / N), whatever the length; 0: no average.
    every: updates between two averagings, MCL's N.
    teachers: False runs it once for a student, its teacher being itself.
    **weights: term -> weight; absent ones are 0. A term that is infinite spoils
      every method, at weight 0 too.
  """
  return config_dict.ConfigDict(dict(
      rate=rate, slow=slow, every=every, teachers=teachers, weights=weights))


def fantastic(c, steps: int) -> None:
  """Terms and methods of roth2024fantastic, onto a config of `transfer`.

  Temperature 1 throughout. MCL ends with 0.6 of the old weights, as 5000
  averagings with the paper's tau of 0.9999 do. Departs: MCL has the learning
  rate of the others, its KL all classes and all examples.
  """
  c.loop.steps = steps
  c.terms.xe = term('cross_entropy')
  c.terms.kl = term('kd', temperature=1.0)
  several = dict(teacher_logits='teachers_logits')
  c.terms.dp = term('partitioned_kd', rename=several)
  c.terms.dp_unsupervised = term(
      'partitioned_kd', rename=several, supervised=False)
  c.methods.kl = method(kl=1.0)
  c.methods.xe_kl = method(kl=0.5, xe=0.5)
  c.methods.xe_kl_mcl = method(kl=0.5, xe=0.5, slow=0.6, every=2)
  c.methods.dp = method(dp=1.0)
  c.methods.dp_unsupervised = method(dp_unsupervised=1.0)
  c.methods.self = method(kl=1.0, teachers=False)  # its teacher is itself
  c.methods.xe = method(xe=1.0, teachers=False)
  c.multi.method = 'dp'
  c.report.update(reference='dp', unsupervised='dp_unsupervised', baseline='kl',
                  rival='xe_kl_mcl', control='self')


def tiny_transfer(c, *pool: str) -> None:
  """Cuts a config of `transfer` down to seconds: digits, `pool`, 2 steps."""
  for data_config in (c.data, c.pretrain.data):
    data_config.update(name='digits', train='train', test='test', size=32,
                       subset=100, validation=20, test_limit=50, data_dir='')
  c.pretrain.loop.update(steps=2, save_every=0)
  c.pretrain.batch.size = c.batch.size = c.eval_batch_size = 16
  c.pretrain.eval_batch_size = 16
  c.loop.update(steps=2, save_every=0)
  c.seeds = (0,)
  c.multi.teachers = 2
  c.pool = {name: c.pool[name].to_dict() | dict(loop=dict(steps=2))
            for name in pool}
