"""Specs of a training run: every key, its default, and what it means.

`Training` is the whole; the other classes are parts of it. Defaults that depend
on the data are those of images.
"""
from collections.abc import Callable, Mapping
import dataclasses
from typing import Any, Literal

import optax

from kt_jax import core
from kt_jax import data as data_lib
from kt_jax.train.pretrained import Trained

STUDENT = 'student'
CLEAN = '@clean'  # 'student@clean' sees its inputs without the augmentor


def _map():
  return dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Model:
  """A constructor of `kt_jax.models` and its sizes."""
  name: str | Callable[..., Any] = 'mlp'  # or module:function, or the function
  kw: Mapping[str, Any] = _map()


@dataclasses.dataclass(frozen=True)
class Module:
  """A class of `kt_jax.modules` and its settings."""
  name: str | Callable[..., Any]  # or module:class, or the class
  kw: Mapping[str, Any] = _map()


@dataclasses.dataclass(frozen=True)
class Schedule:
  """A schedule of optax; its peak and length are filled in."""
  name: str = ''  # '' constant
  kw: Mapping[str, Any] = _map()


@dataclasses.dataclass(frozen=True)
class Optimizer:
  """An optimizer of optax, with clipping before it."""
  name: str = 'sgd'
  learning_rate: float = 0.1
  schedule: Schedule = Schedule()
  l2: float = 0.0  # added to the gradient; decoupled decay is kw.weight_decay
  clip: float = 0.0  # global norm of the gradient; 0 off
  kw: Mapping[str, Any] = _map()


@dataclasses.dataclass(frozen=True)
class LossTerm:
  """One loss of the objective, between a student and a teacher network.

  The objective is the sum over loss terms of weight times the mean of the loss
  over examples (or tokens).
  """
  loss: str | Callable[..., Any]  # of kt_jax.losses, module:function, function
  weight: float = 1.0
  warmup: int = 0  # steps in which the weight rises linearly from 0
  kw: Mapping[str, Any] = _map()  # settings of the loss
  rename: Mapping[str, str] = _map()  # parameter of the loss -> array it gets
  # Network whose logits and features are `student_...`. With an augmentor,
  # 'NAME@clean' sees the inputs without it.
  student: str = STUDENT
  teacher: str = ''  # network whose logits and features are `teacher_...`
  taps: str | tuple[str, ...] = ()  # module paths: `student_features`
  teacher_taps: str | tuple[str, ...] = ()  # of the teacher; () the same paths
  module: str = ''  # key of modules: its outputs join the arrays of the loss
  # Networks and modules that get gradients from this term; () the student
  # network of the term and its module.
  updates: tuple[str, ...] = ()
  example_weight: str = ''  # array that multiplies the value of each example
  # 'data' reads the data where the step samples responses from the student.
  batch: Literal['sampled', 'data'] = 'sampled'


@dataclasses.dataclass(frozen=True)
class Teacher:
  """A network to learn from.

  Kinds: 'frozen'; 'online' learns too, by terms that have it as student or in
  `updates`; 'average' is the student's moving average (train.ema); 'initial'
  the student before the first step, under that name; 'prompted' the frozen
  decoder `of` with the learned embeddings of a module before its input.
  """
  # Key of pool, checkpoint, or the model: `load_trained`, `trained_from`.
  init_from: str | Trained = ''
  kind: Literal['frozen', 'online', 'average', 'initial', 'prompted'] = 'frozen'
  model: Model = Model()  # of an online one without init_from
  classes: tuple[int, ...] = ()  # its class for each class of the data; () same
  permute_logits: float = 0.0  # share of training examples, a control
  of: str = ''  # the frozen teacher that a prompted one is
  module: str = ''  # key of modules: the prompt of a prompted one
  # The teacher's, if it differs from that of the data: it reads the same text
  # in its own tokens and is compared wherever a token of both ends.
  tokenizer: str = ''
  # 'strings' compares tokens that spell the same; '' compares none, for losses
  # such as 'uld'.
  mapping: Literal['strings', ''] = 'strings'


@dataclasses.dataclass(frozen=True)
class Pretrained:
  """A model of the pool: trained once, kept by content, shared by runs."""
  changes: Mapping[str, Any] = _map()  # to pretrain
  checkpoint: str = ''  # taken as it is instead of trained
  init_from: str = ''  # another entry of the pool that it starts from
  by_seed: bool = False  # whether each seed of the run has its own


@dataclasses.dataclass(frozen=True)
class Batch:
  size: int = 64  # examples (or rows of tokens) of the global batch
  augment: Mapping[str, Any] = _map()  # name -> settings, see data/augment.py
  mixup: float = 0.0  # alpha of the Beta distribution; 0 off
  cutmix: float = 0.0  # likewise


@dataclasses.dataclass(frozen=True)
class Loop:
  steps: int = 100
  log_every: int = 50  # steps between rows of metrics
  save_every: int = 0  # steps between checkpoints; 0: only the last
  keep: int = 2  # checkpoints


@dataclasses.dataclass(frozen=True)
class Init:
  """What is taken from the checkpoint `init_from`."""
  step: int = -1  # of the checkpoint; -1: the one that its card names
  load: str = '.*'  # regex on paths; the rest is fresh


@dataclasses.dataclass(frozen=True)
class Step:
  """Arithmetic of a step."""
  accumulate: int = 1  # micro-batches per step
  compute_dtype: Literal['float32', 'bfloat16'] = 'float32'
  ema: float = 0.0  # decay of the moving average that is evaluated; 0 off
  bits: int = 0  # of the matrices of the student, straight through; 0 off
  chunk: int = 0  # token positions whose logits are held at a time; 0 all


@dataclasses.dataclass(frozen=True)
class Mesh:
  data: int = -1  # devices along the batch; -1: all that model leaves
  model: int = 1


@dataclasses.dataclass(frozen=True)
class Cache:
  """Outputs of frozen teachers on disk: then none of them is in memory."""
  views: int = 0  # augmented views per example, one per epoch; 0: no cache
  top_k: int = 0  # largest logits kept; 0 all
  dtype: Literal['float16', 'float32'] = 'float16'
  seed: int = 0  # of the augmentation of the views
  folder: str = ''  # '' the user's cache


@dataclasses.dataclass(frozen=True)
class Bilevel:
  """A module trained by the held-out loss of the student after a step."""
  module: str = ''  # key of modules; '' off
  rate: float = 0.1  # of that step
  batch: int = 0  # validation examples per step; 0 all


@dataclasses.dataclass(frozen=True)
class Sampling:
  """Where responses come from; `kt_jax/train/sampling.py` describes each."""
  source: Literal['data', 'student', 'mixed', 'speculative', 'blend'] = 'data'
  share: float = 0.5  # of sampling steps ('mixed'); of the teacher ('blend')
  temperature: float = 1.0  # of the student
  top_k: int = 0
  top_p: float = 1.0
  teacher: str = 'teacher'  # the one of 'speculative' and 'blend'
  accept: int = 25  # likeliest teacher tokens that the student may choose
  teacher_temperature: float = 1.0
  teacher_top_p: float = 1.0


@dataclasses.dataclass(frozen=True)
class Mixture:
  """Shares of text domains that follow how far the student is behind."""
  every: int = 0  # steps between two changes; 0: shares are constant
  smoothing: float = 0.5  # share of the uniform mixture in a new one
  limit: float = 4.0  # on the perplexity ratio that a share grows by
  rows: int = 64  # of each domain's validation set that ratios are measured on


@dataclasses.dataclass(frozen=True)
class Evaluation:
  batch_size: int = 250
  # Test set -> augmentations: accuracy under shift.
  corruptions: Mapping[str, Any] = _map()
  # Pairs (tap of the student, tap of the first frozen teacher).
  cka: tuple[tuple[str, str], ...] = ()
  responses: int = 0  # prompts of each text domain that are answered
  samples: int = 0  # texts of report.md, which teachers score
  temperature: float = 1.0  # of those


@dataclasses.dataclass(frozen=True)
class Training:
  """A training run: a student, and what it learns from."""
  experiment: str = 'train'
  paper: str = ''  # key of kt_jax/papers.py
  variant: str = ''
  seed: int = 0
  data: data_lib.Images | data_lib.Text = data_lib.Images()
  batch: Batch = Batch()
  model: Model = Model()  # of the student
  # Checkpoint, key of pool or model that it starts from; '' fresh.
  init_from: str | Trained = ''
  init: Init = Init()
  trainable: str = ''  # regex on paths of the student that learn; '' all
  terms: Mapping[str, LossTerm] = _map()
  teachers: Mapping[str, Teacher] = _map()
  modules: Mapping[str, Module] = _map()
  optimizer: Optimizer | optax.GradientTransformation = Optimizer()
  # Network or module -> its own optimizer.
  optimizers: Mapping[str, Optimizer | optax.GradientTransformation] = _map()
  loop: Loop = Loop()
  train: Step = Step()
  evaluate: Evaluation = Evaluation()
  mesh: Mesh = Mesh()
  sharding: tuple[Any, ...] = ()  # ((regex on the path, (axis or None, ...)),)
  cache: Cache = Cache()
  # Array -> function of kt_jax.data, module:function or function, of images and
  # labels: known of each training example.
  targets: Mapping[str, str | Callable[..., Any]] = _map()
  augmentor: str = ''  # key of modules: changes the inputs of a step
  bilevel: Bilevel = Bilevel()
  sampling: Sampling = Sampling()
  mixture: Mixture = Mixture()
  prompt_text: str = 'You are a student.'  # a learned prompt starts from it
  export: bool = False  # a decoder as a Hugging Face directory, WORKDIR/hf
  pool: Mapping[str, Pretrained] = _map()
  pretrain: 'Training | None' = None  # what models of the pool have in common
  pool_dir: str = ''  # where they are kept; '' the user's cache

  @property
  def text(self) -> data_lib.Text:
    """The data of a run on text."""
    assert isinstance(self.data, data_lib.Text)
    return self.data


def updated(term: LossTerm) -> frozenset[str]:
  """Names of the networks and modules that a loss term updates."""
  return frozenset(term.updates or
                   [term.student.removesuffix(CLEAN)]
                   + [term.module] * bool(term.module))


def as_training(spec: Training | Mapping[str, Any]) -> Training:
  """`spec`, built and checked if it is a mapping."""
  return core.spec.build(Training, spec)
