"""Everything a run needs, built from its config; and its abstract twin."""
from collections.abc import Callable
import re
from typing import Any, NamedTuple

import jax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec
import numpy as np
import optax

from kt_jax import core
from kt_jax import data
from kt_jax import models
from kt_jax.train import evaluate
from kt_jax.train import mesh as meshes
from kt_jax.train.optimizer import make_optimizer
from kt_jax.train.step import classification
from kt_jax.train.step import init_state
from kt_jax.train.step import make_settings
from kt_jax.train.step import make_step
from kt_jax.train.step import Settings
from kt_jax.train.step import State
from kt_jax.train.step import supervised


class Session(NamedTuple):
  """A student, its optimiser and its compiled functions."""
  net: models.Net
  mesh: jax.sharding.Mesh
  step: Callable  # jitted (state, batch, settings) -> (state, metrics)
  predict: Callable  # jitted (params, stats, images) -> logits
  init: Callable[..., State]  # (params, stats) or () -> state on the mesh
  settings: Settings
  abstract: State  # shapes of what `init` makes


def make_session(config, info: data.Info, *, trainable: str = ''
                ) -> Session:
  """Resolves the model, losses, optimiser and mesh of a config.

  Args:
    config: of a supervised run (`configs/common.py` says every key).
    info: what the model must fit.
    trainable: regex on parameter paths; what it does not match stays as it
      is. '' trains everything.

  Raises:
    UserError: something in the config does not exist or does not fit.
  """
  build = models.builder(
      config.model.name, classes=info.classes, input_shape=info.input_shape,
      seed=config.seed, **config.model.kw)
  net = models.abstract(build)
  mesh = meshes.make_mesh(**config.mesh)
  data.parse_augment(config.batch.augment)  # to refuse it here
  tx = make_optimizer(config.optimizer, config.loop.steps)
  if trainable:
    names = [n for n, kind in zip(net.names, net.kinds) if kind == 'param']
    tx = only(tx, trainable, names, 'init.train')
  ema = config.train.ema
  average = ema > 0

  step = make_step(
      supervised(net, config.terms, config.train.compute_dtype),
      config.terms, tx,
      classification(info, mixup=config.batch.mixup,
                     cutmix=config.batch.cutmix),
      accumulate=config.train.accumulate)

  fresh = lambda: init_state(*models.arrays(net, build()), tx, average)
  abstract = jax.eval_shape(fresh)
  shardings = meshes.shard_state(mesh, config.sharding, abstract)

  def init(params=None, stats=None):
    if params is None:
      return compiled_init(fresh, shardings)()
    given = lambda params, stats: init_state(params, stats, tx, average)
    return jax.jit(given, out_shardings=shardings)(params, stats)

  # Said, not inferred: a state that came back otherwise would compile anew.
  whole = NamedSharding(mesh, PartitionSpec())
  return Session(
      net, mesh,
      jax.jit(step, donate_argnums=0, out_shardings=(shardings, whole)),
      evaluate.make_predict(net, info,
                            compute_dtype=config.train.compute_dtype),
      init, make_settings(config.terms, seed=config.seed, decay=ema), abstract)


def compiled_init(fresh, shardings):
  """`fresh`, jitted: random numbers compile slowly; less optimised, they are
  the same."""
  options = {'xla_backend_optimization_level': 1} if (
      jax.default_backend() == 'cpu') else None
  return jax.jit(fresh, out_shardings=shardings, compiler_options=options)


def open_stream(config, arrays: data.Arrays, mesh):
  """The batches of a config that this process loads."""
  return data.stream(
      arrays, batch_size=config.batch.size, seed=config.seed,
      augment=config.batch.augment,
      rows=meshes.rows(mesh, config.batch.size))


class Report(NamedTuple):
  """What a run would take; nothing of it was run."""
  name: str
  parameters: int
  state_bytes: int  # parameters, statistics, optimiser, average
  step_flops: float  # of one step, forward and backward
  steps: int
  lowered: Any = None  # the step; compiled, it says what memory it needs


def check(config, info: data.Info, *, name: str = '', **kw) -> Report:
  """Traces one step of a config abstractly: names, shapes and terms resolve.

  Args:
    config: of a supervised run.
    info: from `data.abstract`.
    name: for the report.
    **kw: of `make_session`.

  Raises:
    UserError, ValueError: what is wrong with the config.
  """
  session = make_session(config, info, **kw)
  state = session.abstract
  rows = config.batch.size
  meshes.rows(session.mesh, rows)
  batch = dict(images=jax.ShapeDtypeStruct((rows, *info.input_shape), np.uint8),
               labels=jax.ShapeDtypeStruct((rows,), np.int32),
               index=jax.ShapeDtypeStruct((rows,), np.int32))
  return describe(name or config.model.name, state, session.step.lower(
      state, batch, session.settings), config.loop.steps)


def describe(name: str, state: State, lowered, steps: int) -> Report:
  """The `Report` of a traced step, `jax.jit(...).lower(state, ...)`."""
  size = lambda tree: sum(x.size * x.dtype.itemsize
                          for x in jax.tree.leaves(tree))
  return Report(name, sum(x.size for x in jax.tree.leaves(state.params)),
                size(state),
                float((lowered.cost_analysis() or {}).get('flops', 0.0)),
                steps, lowered)


def only(tx, pattern: str, names, key: str) -> optax.GradientTransformation:
  """`tx` on the parameters that `pattern` matches; the rest does not move."""
  label = {n: 'train' if re.search(pattern, n) else 'keep' for n in names}
  if 'train' not in label.values():
    raise core.UserError(
        f'{key} {pattern!r} matches no parameter; the first are '
        f'{", ".join(sorted(names)[:5])}.')
  return optax.multi_transform(
      {'train': tx, 'keep': optax.set_to_zero()}, label)
