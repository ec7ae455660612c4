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
  c.optimizer = optimizer()
  c.loop = dict(steps=100, log_every=50, save_every=0, keep=2)
  c.eval_batch_size = 250
  c.train = dict(
      accumulate=1,  # micro-batches a step
      compute_dtype='float32',  # or bfloat16
      ema=0.0)  # decay of the moving average that is evaluated; 0 off
  c.mesh = dict(data=-1, model=1)
  c.sharding = ()  # ((regex on the path, (axis or None, ...)), ...)
  return c


def optimizer(name: str = 'sgd', learning_rate: float = 0.1, **kw
             ) -> config_dict.ConfigDict:
  """An optax optimiser; `kw` are settings of it."""
  return config_dict.ConfigDict(dict(
      name=name,
      learning_rate=learning_rate,
      schedule=dict(name='', kw=config_dict.ConfigDict()),  # optax; '' constant
      weight_decay=0.0,  # L2, added to the gradient
      clip=0.0,  # global norm; 0 off
      kw=config_dict.ConfigDict(kw)))


def data(name: str = 'digits', **kw) -> config_dict.ConfigDict:
  """Keys of a data set."""
  c = config_dict.ConfigDict(dict(
      name=name,  # digits, a TFDS image set, or module:function
      train='train', test='test',  # TFDS split strings
      validation=0.1,  # share or number taken from train, class by class
      subset=0.0,  # share or number of train kept, class by class; 0 all
      classes=(),  # only examples with these labels, in all splits; () all
      split_seed=1234,
      imbalance=0.0,  # first class of train : last one, others between; 0 off
      class_shares=(),  # of each class of train that stays; () all
      label_noise=0.0,  # share of train whose labels are of another class
      test_limit=0,  # 0 all
      data_dir='',  # '' TFDS_DATA_DIR, else TFDS's own default
      size=0,  # resize and centre crop; 0 native
      rotation=0.0,  # degrees, counterclockwise, of every image
      pad=0,  # zeros on every side of each image, after that
      mean=(), std=()))  # a channel, images on 0 to 1; () those of the set
  c.update(kw)
  return c


def term(loss: str, weight: float = 1.0, warmup: int = 0, rename=None, *,
         learner: str = 'student', teacher: str = '', taps=(), teacher_taps=(),
         module: str = '', trains=(), each: str = '', **kw
        ) -> config_dict.ConfigDict:
  """One loss of the sum: `weight * loss(**kw)`, linear warm-up over steps.

  Args:
    loss: a public name of `kt_jax.losses`, or `module:function`.
    weight: of its mean over examples.
    warmup: steps until the weight is whole.
    rename: parameter of the loss -> array that stands in for it.
    learner: network whose logits and features are `student_...`; this and all
      below is for `distill` alone. 'NAME@clean' sees its inputs without the
      augmentor.
    teacher: network whose logits and features are `teacher_...`.
    taps: paths of the learner's modules whose outputs are `student_features`.
    teacher_taps: the same of the teacher; () those of the learner.
    module: key of `config.modules`; what it returns joins the arrays.
    trains: whose parameters this term moves; () the learner's and the module's.
    each: an array that multiplies the value of each example.
    **kw: settings of the loss.
  """
  return config_dict.ConfigDict(dict(
      loss=loss, weight=weight, warmup=warmup, kw=kw, rename=rename or {},
      learner=learner, teacher=teacher, taps=taps, teacher_taps=teacher_taps,
      module=module, trains=trains, each=each))


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


def distill() -> config_dict.ConfigDict:
  """Keys of `distill`: those of a supervised run, and who else is there."""
  c = supervised('distill')
  c.teachers = config_dict.ConfigDict()  # name -> teacher()
  c.modules = config_dict.ConfigDict()  # name -> module()
  c.optimizers = config_dict.ConfigDict()  # network or module -> optimizer()
  c.pretrain = supervised()  # what teachers trained for this have in common
  c.pool_dir = ''  # where those are kept; '' the user's cache
  c.start = ''  # checkpoint that the student starts from; '' fresh
  c.cache = dict(  # of what frozen teachers say: then none is in memory
      views=0,  # of each example, one an epoch in turn; 0: no cache
      top_k=0,  # classes kept; 0 all
      dtype='float16',
      seed=0,  # of the augmentation of the views
      folder='')  # '' the user's cache
  # Array -> function of kt_jax.data, of images (and labels): what is known of
  # each training example.
  c.targets = config_dict.ConfigDict()
  c.augmentor = ''  # key of modules: changes the inputs of a step
  c.bilevel = dict(
      module='',  # trained by the held-out loss of the student after a step
      rate=0.1,  # of that step
      batch=0)  # examples of `validation` it is measured on; 0 all
  c.generations = dict(
      count=0,  # fresh students in turn, each the next one's teacher 'previous'
      first=(),  # terms of the first alone; () it has those without a teacher
      label='',  # term whose weight is that of the labels; '' as they are
      teacher='',  # term that has the rest
      ridge=1.0)  # of the kernel regression that chooses the label's weight
  c.shifts = config_dict.ConfigDict()  # test set -> augment: measured there too
  c.cka = ()  # pairs (tap of the student, tap of the teacher)
  return c


def teacher(kind: str = 'frozen', **kw) -> config_dict.ConfigDict:
  """Somebody to learn from.

  Args:
    kind: 'frozen' (a checkpoint, or trained before the run and kept), 'online'
      (learns too, by terms that have it as learner), 'average' (the student's
      moving average, train.ema), 'initial' (the student before the first step).
    **kw: any of the keys below.
  """
  c = config_dict.ConfigDict(dict(
      kind=kind,
      checkpoint='',  # of one that was trained; or
      changes=config_dict.ConfigDict(),  # or to config.pretrain
      # Of an online one that starts fresh: with neither of the two.
      model=dict(name='mlp', kw=config_dict.ConfigDict()),
      classes=(),  # its class for each class of the data; () the same
      corrupt=0.0))  # share of training examples whose logits are permuted
  for key in kw:
    if key not in c:
      raise ValueError(f'teacher() has no key {key!r}; have {", ".join(c)}.')
  with c.ignore_type():
    c.update(kw)
  return c


def module(name: str, **kw) -> config_dict.ConfigDict:
  """A class of `kt_jax.modules` (or module:class), `kw` its settings."""
  return config_dict.ConfigDict(dict(name=name, kw=kw))


def compare(run) -> config_dict.ConfigDict:
  """Keys of `compare`: runs of one config, varied, and what should come out."""
  c = config_dict.ConfigDict()
  c.experiment = 'compare'
  c.paper = run.paper
  c.variant = ''
  c.run = run
  c.arms = config_dict.ConfigDict()  # name -> arm()
  c.seeds = (0, 1, 2)
  c.baseline = ''  # arm that every other is compared to
  c.claims = config_dict.ConfigDict()  # name -> claim()
  return c


def arm(*terms: str, **changes) -> config_dict.ConfigDict:
  """A variation of the run: the terms that it keeps, () all; and changes."""
  return config_dict.ConfigDict(dict(terms=terms, changes=changes))


def claim(better: str, than: str, metric: str = 'accuracy', *,
          than_metric: str = '', lower: bool = False, above=(),
          margin: float = 0.0) -> config_dict.ConfigDict:
  """`better` above `than`, paired by seed.

  Args:
    better: an arm.
    than: an arm.
    metric: of their runs.
    than_metric: of `than`; '' the same.
    lower: whether less is better.
    above: `(better, than)`, two more arms: the claim is then that the first
      difference is larger than this one.
    margin: by how much. Below 0: that it is worse by less.
  """
  return config_dict.ConfigDict(dict(
      better=better, than=than, metric=metric,
      than_metric=than_metric or metric, lower=lower, above=above,
      margin=margin))


def merge() -> config_dict.ConfigDict:
  """Keys of `merge`: experts on tasks, and ways to make one model of them.

  Tasks share one label space and one head, so that no task is told apart.
  """
  c = config_dict.ConfigDict()
  c.experiment = 'merge'
  c.paper = ''
  c.variant = ''
  c.seeds = (0, 1, 2)
  # What experts start from: 'pretrain', trained by that once a seed; or a
  # checkpoint; or '': each its own start, trained by c.pretrain.
  c.base = 'pretrain'
  c.pretrain = supervised()
  c.finetune = finetune()  # what experts have in common, with the base's model
  del c.finetune.model, c.finetune.seed
  del c.finetune.init.checkpoint, c.finetune.init.step
  # Name -> changes to it (without a base: to c.pretrain), or checkpoint=DIR.
  # start='NAME': it starts from the expert on that task, not from the base.
  c.tasks = config_dict.ConfigDict()
  c.samples = 256  # of an expert's training examples, for statistics
  c.arms = config_dict.ConfigDict()  # name -> merging()
  c.baseline = ''  # arm that every other is compared to
  c.claims = config_dict.ConfigDict()  # name -> claim()
  c.eval_batch_size = 1000
  c.pool_dir = ''  # where trained models are kept; '' the user's cache
  return c


def merging(op: str = '', kind: str = 'merge', **kw) -> config_dict.ConfigDict:
  """A way to make one model of experts.

  Args:
    op: an operator of `kt_jax.merge`, or `module:function`. What it asks for by
      name (fisher, grams, key) is computed.
    kind: 'merge' (by op), 'base', 'own' (each task by its expert: the ceiling),
      'single', 'ensemble', 'multitask', 'greedy_soup'; those that learn or
      search: 'learn' (coefficients), 'fit' (parameters), 'singular' (values),
      'evolve', 'flow', 'route', 'swap', 'patch'; or `module:function`.
    **kw: any of the keys below.
  """
  c = config_dict.ConfigDict(dict(
      kind=kind, op=op,
      weight=(),  # () 1 / T each; one number; or one for each expert
      settings=config_dict.ConfigDict(),  # of the operator, or of the kind
      rules=(),  # ((regex on the path, settings or None), ...), first counts
      # Setting (or weight) -> values, of which the best is taken: by pooled
      # accuracy on what the tasks hold out.
      tune=config_dict.ConfigDict(),
      tuned_as='',  # a tuned arm, whose choice is taken instead
      forget='',  # tune for the lowest accuracy on this task; the others keep
      control=0.95,  # this share of the base's
      experts=(),  # tasks whose experts are merged; () all
      tasks=(),  # on which it is measured; () those of the experts
      align='',  # function of kt_jax.align that moves them to the first one
      align_settings=config_dict.ConfigDict(),  # features=True for activations
      # Measured arrays whose entries are shuffled, or 'models' for those of the
      # task vectors: controls.
      shuffle=(),
      whole_model=False,  # trim by a threshold over all leaves at once
      reestimate=False,  # BatchNorm's statistics, on training examples
      path=0))  # points between two experts at which the loss is measured
  for key in kw:
    if key not in c:
      raise ValueError(f'merging() has no key {key!r}; have {", ".join(c)}.')
  with c.ignore_type():
    c.update(kw)
  return c


def merge_mnist(paper: str, *, width: int = 128, depth: int = 2,
                steps: int = 300) -> config_dict.ConfigDict:
  """A `merge` of MLPs on 5000 digits of MNIST: its trainings, no tasks or arms.

  1000 more digits are held out to choose settings on, the same for all tasks.
  """
  c = merge()
  c.paper = paper
  c.pretrain.model = dict(name='mlp', kw=dict(width=width, depth=depth))
  for part in (c.pretrain, c.finetune):
    part.data = data('mnist', train='train[:6000]', validation=1000)
    part.terms.task = term('cross_entropy')
    part.optimizer = optimizer('sgd', 0.05, momentum=0.9)
    part.optimizer.schedule.name = 'cosine_decay_schedule'
    part.batch.size = 64
    part.loop.update(steps=steps, log_every=steps)
    part.eval_batch_size = 1000
  return c


def merge_skewed(paper: str) -> config_dict.ConfigDict:
  """A `merge` of two experts, for each of which half of the classes are rare.

  They start from a net of five updates; one that can read digits already keeps
  them so near to each other that their mean is hard to beat.
  """
  c = merge_mnist(paper, steps=600)
  c.pretrain.data.update(train='train[20000:21000]', validation=0)
  c.pretrain.loop.steps = 5
  c.samples = 1000
  rare, common = (0.05,) * 5, (1.0,) * 5
  c.tasks.low = dict(data=dict(class_shares=common + rare))
  c.tasks.high = dict(data=dict(class_shares=rare + common))
  c.arms.single = merging(kind='single')
  c.arms.ensemble = merging(kind='ensemble')
  c.arms.multitask = merging(kind='multitask')
  c.arms.mean = merging('linear')
  c.baseline = 'mean'
  c.seeds = tuple(range(5))
  return c


def merge_two(paper: str) -> config_dict.ConfigDict:
  """A `merge` of two MLPs that share neither start nor order of the data."""
  c = merge_mnist(paper, depth=3, steps=2000)
  c.pretrain.optimizer.learning_rate = 0.1
  c.base = ''
  c.tasks.one = dict(data=dict())
  c.tasks.two = dict(data=dict())
  c.samples = 200
  c.arms.own = merging(kind='own')
  c.arms.single = merging(kind='single')
  c.arms.ensemble = merging(kind='ensemble')
  c.arms.mean = merging('linear', path=11)
  c.baseline = 'mean'
  c.seeds = tuple(range(5))
  return c


def merge_turned(paper: str, angles) -> config_dict.ConfigDict:
  """A `merge` of experts on rotated digits; the base knows upright ones."""
  c = merge_mnist(paper)
  c.pretrain.data.update(train='train[20000:26000]', test_limit=1000)
  for angle in angles:
    c.tasks[f'r{angle}'] = dict(data=dict(rotation=float(angle),
                                          test_limit=1000))
  c.arms.base = merging(kind='base')
  c.arms.own = merging(kind='own')
  c.arms.mean = merging('linear')
  c.arms.arithmetic = merging('linear', tune=dict(
      weight=tuple(round(0.05 * n, 2) for n in range(1, 21))))
  c.baseline = 'arithmetic'
  return c


def merge_rotations(paper: str, **ablations) -> config_dict.ConfigDict:
  """A `merge` of experts on digits that are turned by eight angles.

  An arm stands for its operator on the first 2, 4 and all 8 tasks: 'NAME_2' is
  tuned on what these hold out, the others take what it chose.

  Args:
    paper: of the config.
    **ablations: name -> `merging()`, arms besides mean and task arithmetic.
  """
  c = merge_mnist(paper)
  c.pretrain.data.train = 'train[20000:26000]'
  c.finetune.data.test = 'test[:2000]'
  # Further apart, up to 90 degrees, experts agree on so little that no way of
  # adding them is better than their mean.
  for i, angle in enumerate((0, 30, -30, 15, -15, 45, -45, 22)):
    c.tasks[f'task{i}'] = dict(data=dict(rotation=float(angle)))
  arms = dict(
      arithmetic=merging('task_arithmetic', weight=(1.0,), tune=dict(
          scale=(0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0, 1.3))),
      mean=merging('linear')) | ablations
  for count in (2, 4, 8):
    chosen = tuple(f'task{i}' for i in range(count))
    for name, arm in arms.items():
      arm = c.arms[f'{name}_{count}'] = config_dict.ConfigDict(arm.to_dict())
      with arm.ignore_type():
        arm.experts = chosen
      if count > 2 and arm.tune:
        arm.tuned_as, arm.tune = f'{name}_2', config_dict.ConfigDict()
    for kind in ('base', 'own', 'ensemble'):
      c.arms[f'{kind}_{count}'] = merging(kind=kind, experts=chosen)
  c.arms.multitask_8 = merging(kind='multitask')
  c.seeds = tuple(range(5))
  return c


def merge_variant(c, variant: str, have) -> config_dict.ConfigDict:
  """`small` as it is, or cut to two steps of few digits and two grid values."""
  if variant not in have:
    raise unknown_variant(variant, *have)
  if variant == 'tiny':
    tasks = [c.tasks[name] for name in c.tasks]
    for part in (c.pretrain, c.finetune, *tasks):
      if 'data' in part:
        if 'parts' in part.data:
          del part.data.parts
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


def tabular() -> config_dict.ConfigDict:
  """Keys of `tabular`."""
  c = config_dict.ConfigDict()
  c.experiment = 'tabular'
  c.paper = ''
  c.variant = ''
  c.inputs = 100  # of the teacher's table, all as likely
  c.labels = 25
  c.concentration = 1.0  # of the Dirichlet distribution of its rows
  c.instance = 0  # seed of the table
  c.instances = 1  # tables that the seeds take turns at
  c.sizes = tuple(m * 10**e for e in range(2, 6) for m in (1, 2, 5)) + (10**6,)
  c.seeds = tuple(range(10))  # of the samples
  c.learners = config_dict.ConfigDict()  # function of procedures -> rate()
  return c


def rate(power: float, inputs: int = 0, labels: int = 0
         ) -> config_dict.ConfigDict:
  """What a theorem says of a risk: (|S|^inputs |A|^labels / n)^power."""
  return config_dict.ConfigDict(dict(
      power=power, inputs=inputs, labels=labels))


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


# The last maps of `cifar_pair()`: of its student and of its teacher.
CIFAR_MAPS = dict(taps='blocks/2', teacher_taps='stages/2')


def cifar_pair(paper: str) -> config_dict.ConfigDict:
  """A `compare` in which a ResNet-8 teaches a narrow convnet, on CIFAR-10.

  Its arms are `label` and `kd`; configs add the terms and arms of their own.

  The teacher has seen all of the training set, the student has 5000 images, in
  four views each, for which what the teacher says is kept.
  """
  c = distill()
  c.paper = paper
  c.data = data('cifar10', validation=0, subset=5000)
  c.batch.update(size=64, augment=dict(crop=dict(padding=4), flip={}))
  c.model = dict(name='convnet', kw=dict(widths=(8, 16, 32)))
  c.cache.views = 4
  c.optimizer.update(learning_rate=0.1, weight_decay=5e-4)
  c.optimizer.kw.update(momentum=0.9, nesterov=True)
  c.optimizer.schedule.name = 'cosine_decay_schedule'
  c.loop.update(steps=600, log_every=100)
  c.eval_batch_size = 500
  c.pretrain.data = data('cifar10', validation=0)
  c.pretrain.batch.update(
      size=64, augment=dict(crop=dict(padding=4), flip={}))
  c.pretrain.terms.task = term('cross_entropy')
  c.pretrain.optimizer.update(c.optimizer)
  c.pretrain.eval_batch_size = 500
  c.pretrain.loop.update(steps=3000, log_every=500, save_every=1000)
  c.teachers.teacher = teacher(changes=dict(
      model=dict(name='resnet8', kw=dict(widths=(16, 32, 64)))))
  c.terms.task = term('cross_entropy')
  c.terms.kd = term('kd', weight=0.9, teacher='teacher')
  compared = compare(c)
  compared.arms.label = arm('task')
  compared.arms.kd = arm('task', 'kd')
  return compared


def rkd(r, variant: str) -> None:
  """The terms `distance` and `angle`, onto the run of a `cifar_pair`.

  `small` weighs them a tenth of `paper`: the best of 0.03, 0.1 and 0.3 on
  held-out training images.
  """
  scale = 1.0 if variant == 'paper' else 0.1
  for name, weight in (('distance', 25.0), ('angle', 50.0)):
    r.terms[name] = term(f'rkd_{name}', weight=scale * weight,
                         teacher='teacher', taps='pool')


CIFAR_EPOCH = 50000 // 64  # updates


def cifar100(r, student: str, teacher: str = '', name: str = 'cifar100',
             validation: float = 0) -> None:
  """The CIFAR recipe that this literature shares, onto a config of `distill`.

  SGD 0.05 with momentum 0.9 and decay 5e-4, batch 64, 240 epochs, a tenth of
  the rate after 150, 180 and 210, crop and flip.
  """
  for part, model in ((r, student), (r.pretrain, teacher or student)):
    part.data = data(name, validation=validation)
    part.model = dict(name=model, kw={})
    part.batch.update(size=64, augment=dict(crop=dict(padding=4), flip={}))
    part.optimizer = optimizer('sgd', 0.05, momentum=0.9)
    part.optimizer.weight_decay = 5e-4
    part.optimizer.schedule = dict(
        name='piecewise_constant_schedule', kw=dict(boundaries_and_scales={
            str(e * CIFAR_EPOCH): 0.1 for e in (150, 180, 210)}))
    part.loop.update(steps=240 * CIFAR_EPOCH, log_every=CIFAR_EPOCH,
                     save_every=CIFAR_EPOCH)
  r.pretrain.terms.task = term('cross_entropy')


def pair_variant(c, variant: str, have) -> config_dict.ConfigDict:
  """The variant of a `compare` of `cifar_pair()` runs.

  `paper`: ResNet-32x4 teaches ResNet-8x4 on CIFAR-100, KD with 0.1 of the task.
  """
  if variant not in have:
    raise unknown_variant(variant, *have)
  r = c.run
  if variant == 'paper':
    cifar100(r, 'resnet8x4', 'resnet32x4')
    c.arms.kd.changes = dict(terms=dict(task=dict(weight=0.1)))
    r.cache.views = 0
    for t in r.terms.values():
      t.taps = t.teacher_taps or t.taps  # they are of one family
    for t in r.teachers.values():
      if t.kind == 'frozen' and not t.checkpoint:
        t.changes = dict(model=dict(name='resnet32x4', kw={}))
  elif variant == 'tiny':
    for part in (r, r.pretrain):
      part.data = data('digits', size=32, subset=60, validation=20,
                       test_limit=50)
      part.batch.size = part.eval_batch_size = 16
      part.loop.update(steps=2, log_every=1, save_every=0)
    c.seeds = (0,)
  return c


def digits_run() -> config_dict.ConfigDict:
  """A `distill` run on 300 digits; what it teaches saw the same ones."""
  c = distill()
  for part in (c, c.pretrain):
    part.data = data('digits', validation=0, subset=300)
    part.model = dict(name='convnet', kw=dict(widths=(8, 16)))
    part.optimizer.update(learning_rate=0.05, weight_decay=1e-4)
    part.optimizer.kw.momentum = 0.9
    part.optimizer.schedule.name = 'cosine_decay_schedule'
    part.batch.size = 32
    part.loop.update(steps=400, log_every=100)
    part.eval_batch_size = 500
  c.pretrain.terms.task = term('cross_entropy')
  return c


def small_variant(c, variant: str, have) -> config_dict.ConfigDict:
  """`small` as it is, or cut to two steps of few digits."""
  if variant not in have:
    raise unknown_variant(variant, *have)
  if variant == 'tiny':
    for part in (c.run, c.run.pretrain):
      part.data.update(name='digits', subset=60, test_limit=50,
                       validation=20 if part.data.validation else 0)
      part.batch.size = part.eval_batch_size = 16
      part.loop.update(steps=2, log_every=1, save_every=0)
    c.run.generations.count = min(2, c.run.generations.count)
    c.seeds = (0,)
  return c
