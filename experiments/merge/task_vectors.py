"""Arms that carry layers or task vectors from one model to another."""
import dataclasses
from typing import Literal

import jax
from jax import numpy as jnp
import numpy as np

from experiments.merge import operators
from experiments.merge.context import MergeContext
from experiments.merge.result import MergeResult
from experiments.merge.result import of_model
from experiments.merge.result import settings_of
from experiments.merge.result import tune
from experiments.merge.spec import Arm
from kt_jax import core
from kt_jax import merge
from kt_jax import procedures


@dataclasses.dataclass(frozen=True)
class LayerSwap:
  """Settings of `layer_swap`, those of `procedures.layer_swap`."""
  bottom: int = 1
  top: int = 0
  transition: int = 0
  others: float = 0.0


def layer_swap(arm: Arm, context: MergeContext) -> MergeResult:
  """The first expert at the ends, the second in the middle.

  Recorded: how far each expert went from the base in each layer, relative to
  the base's norm there ('TASK_LAYER').
  """
  (outer, stats), (middle, _) = operators.experts(arm, context)
  merged = procedures.layer_swap(
      outer, middle, **dataclasses.asdict(settings_of(LayerSwap, arm)))
  moved = {f'{task}_{layer}': value
           for task, model in zip(arm.experts, (outer, middle))
           for layer, value in distances(context.base.params, model).items()}
  return of_model(context, (merged, stats), moved)


def distances(base, model):
  """Layer (a number, or the first name of a path) -> |model - base| / |base|.
  """
  sums: dict[str, tuple[float, float]] = {}
  for path, leaf in base.items():
    layer = merge.layer_of(path)
    name = path.split('/')[0] if layer is None else str(layer)
    far, size = sums.get(name, (0, 0))
    sums[name] = (far + float(jnp.sum((model[path] - leaf)**2)),
                  size + float(jnp.sum(leaf**2)))
  return {name: (far / size)**0.5 for name, (far, size) in sums.items()}


@dataclasses.dataclass(frozen=True)
class Transfer:
  """Settings of `transfer_task_vector`: names of tasks, '' the base."""
  target: str = ''
  tuned: str = ''
  start: str = ''
  scale: float = 1.0
  rank: int = 0  # of each leaf; 0 full
  skip: tuple[str, ...] = ()  # see task_patch
  # A control: each leaf's entries shuffled, or drawn at random with its norm.
  noise: Literal['none', 'shuffled', 'random'] = 'none'

  def check(self, spec, arm):
    del arm
    for name in (self.target, self.tuned, self.start):
      if name and name not in spec.tasks:
        raise core.UserError(core.nearest('task', name, spec.tasks))


def transfer_task_vector(arm: Arm, context: MergeContext) -> MergeResult:
  """target + scale (tuned - start), of experts or the base.

  Recorded: |cosine| of the task vector with the one of the target itself, and
  the norm of the latter.
  """
  def params(name):
    return context.experts[name].params if name else context.base.params
  def make(chosen):
    s = settings_of(Transfer, arm, chosen)
    vector = procedures.task_patch(params(s.tuned), params(s.start),
                                   rank=s.rank or None, skip=s.skip)
    if s.noise != 'none':
      vector = {path: _noise(s.noise, path, x, context.seed)
                for path, x in vector.items()}
    model = procedures.apply_patch(params(s.target), vector, scale=s.scale)
    own = procedures.task_patch(params(s.target), context.base.params)
    if not s.rank:
      recorded.update(cosine=abs(_cosine(vector, own)))
    recorded.update(moved=_dot(own, own)**0.5)
    target = context.experts[s.target] if s.target else context.base
    return model, target.stats
  recorded = {}
  chosen = tune(arm, context, make)
  return of_model(context, make(chosen), chosen | recorded)


def _noise(kind, path, delta, seed):
  rng = np.random.default_rng([seed, *path.encode()])
  x = np.asarray(delta)
  if kind == 'shuffled':
    return jnp.asarray(rng.permutation(x.ravel()).reshape(x.shape))
  drawn = rng.standard_normal(x.shape)
  return jnp.asarray((drawn * np.linalg.norm(x) / np.linalg.norm(drawn)
                      ).astype(x.dtype))


def _dot(a, b):
  return float(sum(jax.tree.leaves({p: jnp.vdot(a[p], b[p]) for p in a
                                    if p in b})))


def _cosine(a, b):
  b = {p: x for p, x in b.items() if p in a}
  return _dot(a, b) / max((_dot(a, a) * _dot(b, b))**0.5, 1e-30)
