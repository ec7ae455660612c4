"""Spec of `transfer`: a pool of models, and methods between all pairs."""
from collections.abc import Mapping
import dataclasses
from typing import Any, Literal

from kt_jax import train
from kt_jax.data import Images


def _map():
  return dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Batch:
  size: int = 64
  augment: Mapping[str, Any] = _map()  # name -> settings, see data/augment.py


@dataclasses.dataclass(frozen=True)
class Loop:
  steps: int = 100  # of one transfer
  save_every: int = 0  # steps between checkpoints within a transfer; 0 none


@dataclasses.dataclass(frozen=True)
class Evaluation:
  batch_size: int = 250


@dataclasses.dataclass(frozen=True)
class Method:
  """A weighting of the loss terms, which all methods share."""
  lr_scale: float = 1.0  # multiplies the learning rate
  # Share that the student before transfer has in the moving average at the end,
  # MCL's tau^(updates / N), whatever the length; 0: no average.
  ema_share: float = 0.0
  ema_every: int = 1  # updates between two averagings, MCL's N
  teachers: bool = True  # False: one run per student, its teacher is itself
  # Term -> weight; absent ones are 0. An infinite term spoils every method, at
  # weight 0 too.
  weights: Mapping[str, float] = _map()


@dataclasses.dataclass(frozen=True)
class Multi:
  """Transfer from several teachers, at once or in turn."""
  method: str = ''  # '' none
  teachers: int = 3  # the best on validation, in ascending order


@dataclasses.dataclass(frozen=True)
class Roles:
  """Methods in the roles of the paper's claims; '' where there is none."""
  reference: str = ''  # the paper's method
  unsupervised: str = ''  # the same without labels
  baseline: str = ''  # that the paper improves
  second_baseline: str = ''
  control: str = ''  # trains as long without the knowledge of another model


@dataclasses.dataclass(frozen=True)
class Spec:
  """Transfers between every ordered pair of a pool of models."""
  experiment: str = 'transfer'
  paper: str = ''
  variant: str = ''
  seeds: tuple[int, ...] = (0, 1, 2)
  data: Images = Images()
  batch: Batch = Batch()
  # Of a term, its loss, kw, rename and warmup; weights are the methods'.
  terms: Mapping[str, train.LossTerm] = _map()
  methods: Mapping[str, Method] = _map()
  optimizer: train.Optimizer = train.Optimizer()
  loop: Loop = Loop()
  compute_dtype: Literal['float32', 'bfloat16'] = 'float32'
  evaluate: Evaluation = Evaluation()
  mesh: train.Mesh = train.Mesh()
  pool: Mapping[str, train.Pretrained] = _map()
  pretrain: train.Training | None = None  # common to the models of the pool
  pool_dir: str = ''  # where they are kept; '' the user's cache
  multi: Multi = Multi()
  report: Roles = Roles()
  save: tuple[str, ...] = ()  # methods whose students are kept, in students/
  together: int = 0  # runs of a student that step together; 0 all
  vmap: bool = False  # as one program: for accelerators
