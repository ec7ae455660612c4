"""A model as a pure function of plain dicts of arrays.

`params` and `stats` are flat dicts, path ('blocks/0/conv/kernel') -> array:
checkpoints store them, rules match their paths, merge operators map over them
and the training step differentiates them.
"""
from collections.abc import Callable, Sequence
import dataclasses
from typing import Any, NamedTuple

from flax import nnx
import jax
from jax import numpy as jnp

from kt_jax import core

Arrays = dict[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class Net:
  """The static part of a model, without its arrays.

  Attributes:
    train: graph in training mode (batch statistics, dropout on).
    eval: graph in evaluation mode.
    treedef: of the model's state; its leaves are `names`, in order.
    names: path of every leaf.
    kinds: 'param', 'stat' (BatchNorm), 'key' or 'count' (random streams).
  """
  train: nnx.GraphDef
  eval: nnx.GraphDef
  treedef: Any
  names: tuple[str, ...]
  kinds: tuple[str, ...]


class Output(NamedTuple):
  logits: jax.Array  # [B, K]
  stats: Arrays  # of BatchNorm and the like, after the forward pass
  features: Arrays  # tap -> output of the module of that path


def _kind(variable) -> str:
  for kind, cls in (('param', nnx.Param), ('key', nnx.RngKey),
                    ('count', nnx.RngCount)):
    if isinstance(variable, cls):
      return kind
  return 'stat'


def abstract(build: Callable[[], nnx.Module]) -> Net:
  """The `Net` of the model that `build()` makes; nothing is computed."""
  model = nnx.eval_shape(build)
  model.train()
  train, state = nnx.split(model)
  model.eval()
  evaluate, _ = nnx.split(model)
  is_variable = lambda x: isinstance(x, nnx.Variable)
  named, _ = jax.tree_util.tree_flatten_with_path(state, is_leaf=is_variable)
  return Net(train, evaluate, jax.tree.structure(state),
             tuple(core.path_str(path) for path, _ in named),
             tuple(_kind(variable) for _, variable in named))


def arrays(net: Net, model: nnx.Module) -> tuple[Arrays, Arrays]:
  """`(params, stats)` of a model with this `Net`."""
  return _arrays(net, nnx.split(model)[1])


def split(model: nnx.Module) -> tuple[Net, Arrays, Arrays]:
  """`(net, params, stats)` of any NNX model."""
  graph, state = nnx.split(model)
  net = abstract(lambda: nnx.merge(graph, state, copy=True))
  return net, *_arrays(net, state)


def join(net: Net, params: Arrays, stats: Arrays) -> nnx.Module:
  """The inverse of `split`: a model in evaluation mode, of the same arrays."""
  return _merge(net, params, stats, False, None)


def init(build: Callable[[], nnx.Module],
         shardings: Callable[[str], Any] | None = None
        ) -> tuple[Net, Arrays, Arrays]:
  """Builds a model in one compiled program, each leaf with its sharding.

  Args:
    build: makes the model.
    shardings: path -> `jax.sharding.Sharding`; None leaves that to JAX.

  Returns:
    `(net, params, stats)`.
  """
  net = abstract(build)
  make = lambda: arrays(net, build())
  out = None
  if shardings is not None:
    out = jax.tree_util.tree_map_with_path(
        lambda path, _: shardings(core.path_str(path[1:])),
        jax.eval_shape(make))
  params, stats = jax.jit(make, out_shardings=out)()
  return net, params, stats


def apply(net: Net, params: Arrays, stats: Arrays, x: jax.Array, *,
          train: bool = False, key: jax.Array | None = None,
          taps: Sequence[str] = ()) -> Output:
  """Runs the model. Pure; unused outputs are compiled away.

  Args:
    net: from `split`, `init` or `abstract`.
    params: path -> parameter.
    stats: path -> BatchNorm statistic and the like.
    x: `[B, ...]` inputs.
    train: training mode; statistics then move and dropout drops.
    key: of the random streams of the model, each with its own key by path.
      None is the same key at every call: set it to train with dropout.
    taps: paths of modules, whose outputs are returned.

  Returns:
    `Output(logits, stats, features)`.

  Raises:
    UserError: a tap does not exist; the message has the nearest one.
  """
  if not taps:
    return Output(*call(net, params, stats, lambda model: model(x),
                        train=train, key=key), {})
  model = _merge(net, params, stats, train, key)
  logits, outputs = _capture(model, x)
  for tap in taps:
    if tap not in outputs:
      raise core.UserError(core.nearest('tap', tap, outputs))
  after = nnx.state(model, nnx.Not(nnx.Intermediate))
  return Output(logits, _arrays(net, after)[1], {t: outputs[t] for t in taps})


def call(net: Net, params: Arrays, stats: Arrays,
         fn: Callable[[Any], Any], *, train: bool = False,
         key: jax.Array | None = None) -> tuple[Any, Arrays]:
  """`(fn(module), stats after it)`, for a module of any kind."""
  module = _merge(net, params, stats, train, key)
  out = fn(module)
  return out, _arrays(net, nnx.split(module)[1])[1]


def taps(net: Net, params: Arrays, stats: Arrays, x) -> Arrays:
  """Every tap -> shape and dtype, without computing anything.

  Args: as `apply`; they may be `jax.ShapeDtypeStruct`s.
  """
  return jax.eval_shape(
      lambda params, stats, x: _capture(
          _merge(net, params, stats, False, None), x)[1], params, stats, x)


def _merge(net, params, stats, train, key) -> nnx.Module:
  key = jax.random.key(0) if key is None else key
  fill = {'param': params.__getitem__, 'stat': stats.__getitem__,
          'key': lambda name: core.fold_path(key, name),
          'count': lambda name: jnp.zeros((), jnp.uint32)}
  state = jax.tree.unflatten(net.treedef, [
      fill[kind](name) for name, kind in zip(net.names, net.kinds)])
  # copy: BatchNorm may write its statistics while jax.grad is tracing.
  return nnx.merge(net.train if train else net.eval, state, copy=True)


def _capture(model, x):
  capture = nnx.capture(
      model, nnx.Intermediate, method_outputs=nnx.Intermediate)
  logits, captured = capture(x)
  return logits, _outputs(nnx.to_pure_dict(captured))


def _outputs(captured, path: str = '') -> dict[str, jax.Array]:
  """Path -> output of the last call of the module."""
  outputs = {}
  for name, node in captured.items():
    if name == '__call__':
      if hasattr(node[-1], 'shape'):
        outputs[path] = node[-1]
    elif isinstance(node, dict):
      outputs |= _outputs(node, f'{path}/{name}' if path else str(name))
  return outputs


def _arrays(net: Net, state) -> tuple[Arrays, Arrays]:
  """`(params, stats)` of a model's state."""
  leaves = dict(zip(net.names, jax.tree.leaves(state), strict=True))
  of_kind = lambda kind: {name: leaves[name] for name, k in zip(
      net.names, net.kinds) if k == kind}
  return of_kind('param'), of_kind('stat')
