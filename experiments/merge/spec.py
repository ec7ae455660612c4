"""Spec of `merge`: tasks, experts on them, and arms that make one model."""
from collections.abc import Callable, Mapping
import dataclasses
from typing import Any

from experiments import compare
from kt_jax import train


def _map():
  return dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Task:
  """A data set, and the expert that is trained on it.

  All tasks share one label space and one head.
  """
  changes: Mapping[str, Any] = _map()  # to finetune (without a base: pretrain)
  checkpoint: str = ''  # of an expert that is taken as it is; '' trains one
  init_from: str = ''  # task from whose expert it starts; '' the base


@dataclasses.dataclass(frozen=True)
class Arm:
  """A way to make one model of experts."""
  # A key of `experiments.merge.kinds.KINDS`, module:function, or the function.
  kind: str | Callable[..., Any] = 'merge'
  # Of kt_jax.merge, module:function, or the function. Arrays that it takes by
  # name (fisher, grams, key) are computed.
  op: str | Callable[..., Any] = ''
  weight: float | tuple[float, ...] = ()  # () 1 / T; one number; or one each
  settings: Mapping[str, Any] = _map()  # of the operator, or of the kind
  # ((regex on the path, settings or None for the base's leaf), ...): the first
  # that matches counts.
  rules: tuple[tuple[str, Mapping[str, Any] | None], ...] = ()
  # Setting (or weight) -> values, of which the best by pooled validation
  # accuracy is taken.
  tune: Mapping[str, tuple[Any, ...]] = _map()
  tuned_as: str = ''  # a tuned arm whose choice is taken instead
  # Tune for the lowest accuracy on this task, among the settings that keep
  # `control` of the base's accuracy on the others.
  forget: str = ''
  control: float = 0.95
  experts: tuple[str, ...] = ()  # tasks whose experts are merged; () all
  tasks: tuple[str, ...] = ()  # it is measured on; () those of the experts
  align: str = ''  # function of kt_jax.align that moves experts to the first
  align_settings: Mapping[str, Any] = _map()  # features=True: by activations
  # Measured arrays whose entries are shuffled, or 'models' for those of the
  # task vectors: controls.
  shuffle: tuple[str, ...] = ()
  whole_model: bool = False  # trim by one threshold over all leaves
  reestimate: bool = False  # statistics of BatchNorm, on training examples
  path: int = 0  # points between two experts at which the loss is measured


@dataclasses.dataclass(frozen=True)
class Evaluation:
  batch_size: int = 1000


@dataclasses.dataclass(frozen=True)
class Spec:
  """Merges of experts."""
  experiment: str = 'merge'
  paper: str = ''
  variant: str = ''
  seeds: tuple[int, ...] = (0, 1, 2)
  # Start of the experts: 'pretrain', trained by that once per seed; a
  # checkpoint; or '': each has its own, and `pretrain` trains the experts.
  base: str = 'pretrain'
  pretrain: train.Training = train.Training()
  # What experts have in common; model, seed and init_from are the base's.
  finetune: train.Training = train.Training()
  tasks: Mapping[str, Task] = _map()
  samples: int = 256  # training examples of an expert, for statistics
  arms: Mapping[str, Arm] = _map()
  baseline: str = ''  # arm that every other is compared to
  claims: Mapping[str, compare.Claim] = _map()
  evaluate: Evaluation = Evaluation()
  pool_dir: str = ''  # where trained models are kept; '' the user's cache
