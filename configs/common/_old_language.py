"""What configs of language models start from: all keys, with their defaults."""
from ml_collections import config_dict

from configs import common


def text(length: int = 64, prompt: int = 0, **kw) -> config_dict.ConfigDict:
  """Keys of a data set of texts; `kt_jax/data/load_text.py` says more."""
  c = config_dict.ConfigDict(dict(
      name='text',
      tokenizer='characters',  # or 'bytes', or a folder with tokenizer.json
      length=length,  # S, tokens of a row
      prompt=prompt,  # P, of which so many are the prompt
      domains=config_dict.ConfigDict(),  # name -> domain()
      split_seed=1234,
      start=False,  # prompts and documents begin with the begin token
      end=True,  # responses and documents end with the end token
      pack=True,  # several documents to a row
      too_long='refuse',  # or 'drop'
      data_dir=''))  # '' where the environment says
  c.update(kw)
  return c


def domain(source: str, train=0, validation=0, test=0, *, share: float = 1.0,
           as_text: bool = False, disjoint: bool = True, **kw
          ) -> config_dict.ConfigDict:
  """Texts of one kind.

  Args:
    source: 'tiny_shakespeare', a .txt or .jsonl file, 'task:NAME' of
      kt_jax/data/strings.py, or `module:function`.
    train: rows; 0 all there are.
    validation: likewise.
    test: likewise.
    share: of the rows of a batch, relative to the other domains.
    as_text: pairs become documents.
    disjoint: whether no prompt of one split is in another.
    **kw: settings of the source.
  """
  return config_dict.ConfigDict(dict(
      source=source, train=train, validation=validation, test=test,
      share=share, as_text=as_text, disjoint=disjoint, kw=kw))


def pretrain_lm(experiment: str = 'pretrain_lm') -> config_dict.ConfigDict:
  """Keys of `pretrain_lm`; `distill_lm` adds to them."""
  c = config_dict.ConfigDict()
  c.experiment = experiment
  c.paper = ''
  c.variant = ''
  c.seed = 0
  c.data = text()
  c.batch = dict(size=32)  # rows of the global batch
  c.mixture = dict(  # of the domains
      every=0,  # updates between two changes of their shares; 0: they stay
      smoothing=0.5,  # share of the uniform mixture in a new one
      limit=4.0,  # on the perplexity ratio that a share grows by
      rows=64)  # of each domain's validation set that ratios are measured on
  c.model = dict(name='decoder', kw=config_dict.ConfigDict(
      dict(depth=2, width=32, heads=2)))
  c.start = ''  # checkpoint, or a key of members, to start from; '' fresh
  c.trainable = ''  # regex on paths; '' all
  c.terms = config_dict.ConfigDict()  # name -> token_term()
  c.terms.task = token_term('cross_entropy')
  c.teachers = config_dict.ConfigDict()  # name -> token_teacher()
  c.modules = config_dict.ConfigDict()  # name -> common.module()
  c.sampling = sampling()
  c.chunk = 0  # positions whose logits are held at a time; 0 all
  c.cache = dict(
      top_k=0,  # likeliest tokens that are kept of frozen teachers; 0: no cache
      folder='')  # '' the user's cache
  c.optimizer = common.optimizer('adamw', 3e-3, weight_decay=0.01)
  c.optimizer.clip = 1.0
  c.optimizer.schedule.name = 'cosine_decay_schedule'
  c.loop = dict(steps=300, log_every=50, save_every=0, keep=2)
  c.evaluate = dict(
      batch_size=64,
      responses=0,  # prompts of each domain that are answered; 0 none
      samples=0,  # texts of report.md, on which teachers judge a model
      temperature=1.0)  # of those
  c.export = False  # also writes a Hugging Face directory, WORKDIR/hf
  c.train = dict(accumulate=1, compute_dtype='float32', ema=0.0,
                 bits=0)  # of the matrices, straight through; 0 as they are
  c.mesh = dict(data=-1, model=1)
  c.sharding = ()
  # Name -> member(): decoders that are trained once and kept for others.
  c.members = config_dict.ConfigDict()
  c.pool_dir = ''  # where; '' the user's cache
  return c


def member(start: str = '', by_seed: bool = False, **changes
          ) -> config_dict.ConfigDict:
  """A decoder that `pretrain_lm` trains.

  Args:
    start: another member that it starts from; '' fresh.
    by_seed: whether each seed of the run has its own.
    **changes: to the config's `pretrain`; its model is this one's, too.
  """
  return config_dict.ConfigDict(dict(start=start, by_seed=by_seed,
                                     changes=changes))


def distill_lm() -> config_dict.ConfigDict:
  """Keys of `distill_lm`."""
  c = pretrain_lm('distill_lm')
  # Whose embeddings a learned prompt starts from, repeated or cut.
  c.prompt_text = 'You are a student.'
  c.pretrain = pretrain_lm()  # what members have in common
  return c


def token_term(loss: str, weight: float = 1.0, *, on: str = 'batch', **kw
              ) -> config_dict.ConfigDict:
  """One loss on tokens; as `common.term`.

  Args:
    loss: a public name of `kt_jax.losses`, or `module:function`.
    weight: of its mean over the tokens that count.
    on: 'batch', or 'data' where the batch is drawn from the student.
    **kw: of `common.term`.
  """
  c = common.term(loss, weight, **kw)
  c.on = on
  return c


def token_teacher(member: str = '', *, kind: str = 'frozen',
                  checkpoint: str = '', of: str = '', module: str = '',
                  tokenizer: str = '', mapping: str = 'strings'
                 ) -> config_dict.ConfigDict:
  """A decoder to learn from.

  Args:
    member: a key of `config.members`; or
    kind: 'frozen', 'initial' (the student before the first step), 'average'
      (its moving average), 'prompted' (a frozen one with learned embeddings
      before its input).
    checkpoint: a workdir or a Hugging Face directory.
    of: whom a prompted one is.
    module: key of `config.modules`, its prompt.
    tokenizer: the teacher's, if it is not that of the data: it then reads the
      same text in its own tokens, and says something wherever a token of both
      ends.
    mapping: 'strings' compares tokens that write the same, the others are left
      out of both models; '' compares none, for losses such as 'uld'.
  """
  return config_dict.ConfigDict(dict(
      kind=kind, member=member, checkpoint=checkpoint, of=of, module=module,
      tokenizer=tokenizer, mapping=mapping))


def sampling(source: str = 'data', **kw) -> config_dict.ConfigDict:
  """Where responses come from; `kt_jax/train/sampling.py` says more."""
  c = config_dict.ConfigDict(dict(
      source=source,
      share=0.5,  # of the steps that draw ('mixed'); of the teacher ('blend')
      temperature=1.0, top_k=0, top_p=1.0,  # of the student's draw
      teacher='teacher',  # whom 'speculative' and 'blend' ask
      accept=25,  # likeliest tokens of the teacher that the student may take
      teacher_temperature=1.0, teacher_top_p=1.0))
  c.update(kw)
  return c


def decode() -> config_dict.ConfigDict:
  """Keys of `decode`: ways to fuse decoders that are not trained any more."""
  c = config_dict.ConfigDict()
  c.experiment = 'decode'
  c.paper = ''
  c.variant = ''
  c.seed = 0  # of a run over `seeds`: set for each
  c.seeds = (0, 1, 2)  # of the members that are trained by seed
  c.data = text()  # what fused models are tried on
  c.pretrain = pretrain_lm()  # what members have in common
  c.members = config_dict.ConfigDict()  # name -> member()
  c.pool_dir = ''
  c.arms = config_dict.ConfigDict()  # name -> fusing()
  c.baseline = ''
  c.claims = config_dict.ConfigDict()  # name -> common.claim()
  c.evaluate = dict(
      batch_size=64, responses=100,
      # `module:function` of a response and the right one: {name: number}.
      judge='')
  return c


def fusing(*logits: str, fuse: str = '', base: str = '', experts=(),
           anti_experts=(), tune=None, **kw) -> config_dict.ConfigDict:
  """One model, or several fused token by token.

  Args:
    *logits: members (or checkpoints) that stand for `logits`; a single model
      is one of these, without `fuse`.
    fuse: a function of `kt_jax.fuse`, or `module:function`.
    base: that of `base_logits`.
    experts: those of `expert_logits`.
    anti_experts: those of `anti_expert_logits`; as many as experts, or one.
    tune: setting -> values, the best of which by exact answers to validation
      prompts is taken.
    **kw: settings of the function.
  """
  return config_dict.ConfigDict(dict(
      logits=logits, fuse=fuse, base=base, experts=experts,
      anti_experts=anti_experts, tune=tune or {}, kw=kw))


TASKS = dict(upper=dict(longest=6), reverse=dict(longest=6),
             sort=dict(longest=6), recall=dict(size=4))


def strings(*, train: int = 8000, held_out: int = 200, tasks=tuple(TASKS)
           ) -> config_dict.ConfigDict:
  """Short prompts and responses that are right or wrong."""
  c = text(length=28, prompt=18)
  for name in tasks:
    c.domains[name] = domain(f'task:{name}', train, held_out, held_out,
                             **TASKS[name])
  return c


def sized(depth: int, width: int, heads: int, **kw) -> dict:
  """`model` of a member or arm."""
  return dict(name='decoder', kw=dict(depth=depth, width=width, heads=heads,
                                      **kw))


def distill_strings(paper: str, steps: int = 500) -> config_dict.ConfigDict:
  """A `compare` of small decoders that learn string tasks from a larger one.

  Teacher and starts are the same for all configs, so that they are trained
  once. From fresh ones a student's answers hang on when it gets the knack of a
  task, by chance, more than on the loss.
  """
  r = distill_lm()
  r.paper = paper
  r.data = strings()
  r.pretrain.data = strings()
  r.pretrain.batch.size = 64
  r.pretrain.loop.update(steps=3000, log_every=200)
  r.members.teacher = member(model=sized(3, 96, 4))
  r.teachers.teacher = token_teacher('teacher')
  r.model = config_dict.ConfigDict(sized(2, 32, 2))
  r.members.student = member(by_seed=True, model=sized(2, 32, 2),
                             loop=dict(steps=1500))
  r.start = 'student'
  r.optimizer.learning_rate = 1e-3
  r.batch.size = 64
  r.loop.update(steps=steps, log_every=50)
  r.evaluate.update(responses=200, samples=100)
  r.terms = config_dict.ConfigDict()
  r.terms.fkl = token_term('kd', teacher='teacher', temperature=1.0)
  c = common.compare(r)
  c.arms.fkl = common.arm('fkl')
  c.baseline = 'fkl'
  return c


def variant(c, name: str, have) -> config_dict.ConfigDict:
  """`c` as its `small` or `tiny` variant.

  Args:
    c: a `compare` of `distill_lm`, or a `decode`.
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
    part.model.kw = config_dict.ConfigDict(dict(depth=1, width=16, heads=2))
    part.batch.size = 8
    part.loop.update(steps=2, log_every=1)
    part.evaluate.update(batch_size=8)
  for part in (r, r.pretrain):
    _few(part.data)
  for spec in r.members.values():
    _without(spec.changes, 'batch', 'loop', 'model')
    _few(spec.changes.get('data', {}))
  r.evaluate.responses = min(r.evaluate.responses, 4)
  if not fused:
    r.evaluate.samples = min(r.evaluate.samples, 2)
    r.mixture.update(every=min(r.mixture.every, 1), rows=4)
    for spec in c.arms.values():
      changes = spec.changes
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
  for spec in data.get('domains', {}).values():
    spec.update(train=16, validation=4, test=4)
