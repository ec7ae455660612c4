"""The forward pass of several networks: loss terms between them, one sum.

A loss term compares a student with a teacher, two networks by name, and updates
the parameters of the networks and modules that it names; for it, those of all
others are constants. So teachers that learn too, adapters, and augmentations
that work against the student are one sum and one gradient.
"""
import collections
from collections.abc import Callable, Mapping
import inspect
from typing import Any, NamedTuple

import jax
from jax import numpy as jnp
import numpy as np

from kt_jax import core
from kt_jax import losses
from kt_jax import models
from kt_jax.train.specs import CLEAN
from kt_jax.train.specs import LossTerm
from kt_jax.train.specs import STUDENT
from kt_jax.train.specs import updated
from kt_jax.train.step import make_cast

HEAD = 'head/kernel'  # path of the classifier of every image model


class Network(NamedTuple):
  """A network that takes part in loss terms; its parameters are elsewhere.

  See `TermContext.params_of`.
  """
  net: models.Net | None  # None: its outputs come with the batch
  kind: str  # student, online, frozen, average, prompted or cached
  classes: int  # K, or the size of the vocabulary
  bits: int = 0  # of its matrices when it runs; 0 as they are
  # Of images.
  mean: tuple[float, ...] = ()  # that its inputs are normalized by
  std: tuple[float, ...] = ()
  class_map: tuple[int, ...] = ()  # its class for each of the data; () the same
  permute_logits: float = 0.0  # share of examples
  # Of tokens.
  softcap: float = 0.0
  of: str = ''  # the frozen network that a prompted one is
  module: str = ''  # module of its prompt
  # It reads `retokenized/NAME/...` of the batch, as `data.retokenize` returns.
  retokenized: bool = False
  mapping: np.ndarray | None = None  # [V] its token for each of the data, or -1


class Module(NamedTuple):
  """Parameters or state of loss terms; `kt_jax.modules` has the contract."""
  net: models.Net
  inputs: tuple[str, ...]  # arrays it is called with, where there are such
  observes: bool = False  # whether the mean of its term moves it after a step


class TermGraph(NamedTuple):
  """Static description of the networks, modules and loss terms of a step."""
  networks: dict[str, Network]
  modules: dict[str, Module]
  terms: Mapping[str, LossTerm]
  functions: Mapping[str, Callable[..., jax.Array]]  # term -> loss
  context: type['TermContext']  # of images or of tokens
  augmentor: str = ''  # the module that changes the inputs
  compute_dtype: str = 'float32'
  chunk: int = 0  # token positions whose logits are held at a time; 0 all

  def net(self, name: str) -> models.Net:
    """The graph of a network or module."""
    network = self.networks.get(name) or self.modules[name]
    assert network.net is not None
    return network.net


def resolve_terms(terms: Mapping[str, LossTerm]
                 ) -> dict[str, Callable[..., jax.Array]]:
  """Term -> its loss: a public name of `kt_jax.losses`, or a function.

  Raises:
    UserError: no terms, or a loss, setting or parameter that does not exist.
  """
  if not terms:
    raise core.UserError('config.terms is empty: name at least one loss.')
  functions = {}
  for name, term in terms.items():
    fn = term.loss if callable(term.loss) else core.resolve(
        losses, term.loss, f'loss (config.terms.{name})')
    parameters = inspect.signature(fn).parameters
    for group in ('kw', 'rename'):
      for setting in getattr(term, group):
        if setting not in parameters:
          raise core.UserError(core.nearest(
              f'parameter of {core.spec.to_dict(term.loss)} '
              f'(config.terms.{name}.{group})', setting, parameters))
    functions[name] = fn
  return functions


def make_forward(graph: TermGraph) -> Callable:
  """`train.make_step`'s forward pass of a graph."""
  def forward(params, stats, batches, key, step_context):
    contexts, outputs, sums = {}, {}, {}
    new_stats = {name: dict(tree) for name, tree in stats.items()}
    for name, term in graph.terms.items():
      batch = term.batch if term.batch in batches else 'data'
      at = updated(term), batch
      if at not in contexts:
        contexts[at] = graph.context(
            graph, at[0], params, stats, batches[batch], key, step_context,
            new_stats, outputs.setdefault(batch, {}))
      sums[name] = contexts[at].sums(name)
    return sums, {
        name: {path: x.astype(stats[name][path].dtype)
               for path, x in tree.items()} for name, tree in new_stats.items()}
  return forward


def make_observe(graph: TermGraph) -> Callable | None:
  """`train.make_step`'s update of modules by the mean of their term."""
  terms = {term.module: name for name, term in graph.terms.items()
           if term.module and graph.modules[term.module].observes}
  if not terms:
    return None

  def observe(params, stats, means):
    stats = dict(stats)
    for name, term in terms.items():
      _, new = models.call(
          graph.modules[name].net, params[name], stats[name],
          lambda m, term=term: m.update(means[term]), train=True)
      stats[name] = {path: new[path].astype(x.dtype) if path in new else x
                     for path, x in stats[name].items()}
    return stats
  return observe


class TermContext:
  """One forward pass, differentiated with respect to `updates` alone.

  Args:
    graph: of the step.
    updates: names of networks and modules.
    params: name -> parameters of everything that learns.
    stats: name -> statistics of the same.
    arrays: of the batch.
    key: of the step.
    step_context: `train.StepContext`.
    new_stats: statistics that the pass leaves, shared by all contexts.
    outputs: of networks, shared by all contexts of the batch.
  """

  def __init__(self, graph: TermGraph, updates: frozenset[str], params, stats,
               arrays, key, step_context, new_stats, outputs):
    self.graph, self.updates, self.batch = graph, updates, arrays
    self.key, self.step_context = key, step_context
    self.all_params, self.stats, self.new_stats = params, stats, new_stats
    self.params = {name: tree if name in updates
                   else jax.lax.stop_gradient(tree)
                   for name, tree in params.items()}
    self._outputs = outputs
    self.cast = make_cast(graph.compute_dtype)
    self.taps = _taps(graph.terms)

  # Networks.

  def params_of(self, name: str, params) -> tuple[models.Arrays, models.Arrays]:
    """`(params, stats)` of a network or module.

    Args:
      name: of it.
      params: those of all that learn.
    """
    network = self.graph.networks.get(name)
    kind = network.kind if network else 'module'
    if kind == 'average':
      return self.step_context.ema['params'], self.step_context.ema['stats']
    if network and kind in ('frozen', 'cached', 'prompted'):
      tree = self.step_context.constants['networks'][network.of or name]
    else:
      tree = dict(params=params[name], stats=self.stats[name])
    own = tree['params']
    return quantize(own, network.bits) if network else own, tree['stats']

  def run_network(self, name: str, params) -> models.Output:
    """Logits, features and new statistics of a network."""
    raise NotImplementedError

  def output(self, name: str) -> models.Output:
    """Logits and tapped features of a network, without gradients for others."""
    if name not in self._outputs:
      self._outputs[name] = self.run_network(name, self.all_params)
    out = self._outputs[name]
    return out if self.learns(name) else jax.lax.stop_gradient(out)

  def learns(self, name: str) -> bool:
    """Whether gradients of this context reach a network."""
    plain = name.removesuffix(CLEAN)
    return bool({plain, self.graph.networks[plain].module} & self.updates)

  def call(self, module: str, arrays) -> dict[str, jax.Array]:
    """Outputs of a module for named arrays; its state moves."""
    params, stats = self.params_of(module, self.params)
    out, new = models.call(
        self.graph.modules[module].net, params, stats,
        lambda m: core.bind(m.__call__, arrays), train=True,
        key=core.fold_path(self.key, module))
    self.new_stats[module].update(new)
    return out

  # Loss terms.

  def sums(self, name: str) -> tuple[jax.Array, jax.Array]:
    """Sum and count of a loss term."""
    return core.masked_sum(self.values(name), self.where(name))

  def where(self, name: str) -> jax.Array | None:
    """`[...]` bool, the entries that count in a term; None: all."""
    del name
    return self.batch.get('where')

  def values(self, name: str) -> jax.Array:
    """`[...]` values of a loss term, one per example."""
    arrays, settings = self.bound(name)
    values = core.bind(self.graph.functions[name], arrays, **settings)
    weight = self.graph.terms[name].example_weight
    return values * per_example(arrays[weight], values.shape
                                ) if weight else values

  def bound(self, name: str, inputs: set[str] | None = None
           ) -> tuple[dict[str, Any], dict[str, Any]]:
    """`(arrays, settings)` of a term's loss, outputs of its module in them.

    Args:
      name: of the term.
      inputs: names of the arrays that are needed; None: those that the loss
        takes.
    """
    term, fn = self.graph.terms[name], self.graph.functions[name]
    extra = {*term.rename.values(), *[term.example_weight] * bool(
        term.example_weight)}
    inputs = {*positional(fn)} | extra if inputs is None else set(inputs)
    if term.module:
      inputs |= set(self.graph.modules[term.module].inputs)
    arrays = self.arrays(name, inputs)
    settings = dict(term.kw)
    if term.module:
      out = self.call(term.module, arrays)
      parameters = inspect.signature(fn).parameters
      settings |= {n: v for n, v in out.items() if n in parameters
                   and parameters[n].kind is inspect.Parameter.KEYWORD_ONLY}
      arrays |= out
    for source in sorted(extra & inputs):
      if source not in arrays:
        raise core.UserError(core.nearest(
            f'array (config.terms.{name})', source, arrays))
    return arrays | {parameter: arrays[source] for parameter, source
                     in term.rename.items() if source in arrays}, settings

  def arrays(self, name: str, inputs) -> dict[str, Any]:
    """The arrays of the batch, and those of `inputs` that networks give."""
    term = self.graph.terms[name]
    student, teacher = term.student, term.teacher
    sources: dict[str, Callable[[], Any]] = {
        'student_logits': lambda: self.output(student).logits,
        'step': lambda: self.step_context.step,
        'key': lambda: core.fold_path(self.key, name)}
    sources |= self.features('student', student, term.taps)
    if teacher:
      hold: Callable[[Any], Any] = (
          jax.lax.stop_gradient if teaches_itself(term) else lambda x: x)
      sources['teacher_logits'] = lambda: hold(self.output(teacher).logits)
      sources |= {n: lambda f=f: hold(f()) for n, f in self.features(
          'teacher', teacher, term.teacher_taps or term.taps).items()}
    teachers = sorted(n for n in self.graph.networks if n != STUDENT)
    if len(teachers) > 1:
      sources['teachers_logits'] = lambda: jnp.stack(
          [self.output(n).logits for n in teachers if n != 'initial'])
    if 'initial' in teachers:
      sources['initial_logits'] = lambda: self.output('initial').logits
    targets = self.step_context.constants.get('targets', {})
    sources |= {n: lambda n=n: targets[n][self.batch['index']] for n in targets}
    # In one order: processes of a run must compile the same program.
    return dict(self.batch) | {n: sources[n]() for n in sorted(inputs)
                               if n in sources}

  def features(self, role: str, name: str, taps
              ) -> dict[str, Callable[[], Any]]:
    """`ROLE_features` and `ROLE_head` of a network, where there are such."""
    def tapped():
      paths, features = as_tuple(taps), self.output(name).features
      for path in paths:
        if path not in features:
          raise core.UserError(core.nearest(f'tap of {name}', path, features))
      return (features[paths[0]] if len(paths) == 1
              else [features[p] for p in paths])

    def head():
      params, _ = self.params_of(name.removesuffix(CLEAN), self.params)
      if HEAD not in params:
        raise core.UserError(f'{name} has no linear layer called head.')
      return params[HEAD]
    return ({f'{role}_features': tapped} if taps else {}) | {
        f'{role}_head': head}


def teaches_itself(term: LossTerm) -> bool:
  """Whether the teacher of a term is its student, a constant in that role."""
  teacher = term.teacher.removesuffix(CLEAN)
  return (teacher == term.student.removesuffix(CLEAN)
          and teacher not in term.updates)


def per_example(weight: jax.Array, shape: tuple[int, ...]) -> jax.Array:
  """Weights `[B]` or of any leading axes of `shape`, as `shape`."""
  extra = (1,) * (len(shape) - weight.ndim)
  return jnp.broadcast_to(weight.reshape(*weight.shape, *extra), shape)


def as_tuple(taps: str | tuple[str, ...]) -> tuple[str, ...]:
  return (taps,) if isinstance(taps, str) else tuple(taps)


def positional(fn) -> tuple[str, ...]:
  """Names of the arrays that a function takes."""
  return tuple(n for n, p in inspect.signature(fn).parameters.items()
               if p.kind is p.POSITIONAL_OR_KEYWORD and n != 'self')


def taps_of(terms: Mapping[str, LossTerm], name: str) -> list[str]:
  """Paths of the features of a network that loss terms read."""
  return sorted(_taps(terms)[name])


def _taps(terms) -> dict[str, set[str]]:
  taps = collections.defaultdict(set)
  for term in terms.values():
    taps[term.student.removesuffix(CLEAN)] |= {*as_tuple(term.taps)}
    taps[term.teacher.removesuffix(CLEAN)] |= {
        *as_tuple(term.teacher_taps or term.taps)}
  return taps


def quantize(params: Mapping[str, jax.Array], bits: int
            ) -> dict[str, jax.Array]:
  """Kernels rounded to `2^bits - 1` levels per output; 0 bits: as they are.

  Levels are even, symmetric about 0 and scaled to the largest magnitude among
  the weights of an output (the last axis). The gradient passes as if nothing
  were rounded.
  """
  if not bits:
    return dict(params)
  top = 2 ** (bits - 1) - 1

  def rounded(w):
    inputs = tuple(range(w.ndim - 1))
    step = jnp.max(jnp.abs(w), axis=inputs, keepdims=True) / top
    near = jnp.round(w / jnp.where(step == 0, 1, step)) * step
    return w + jax.lax.stop_gradient(near - w)
  return {n: rounded(w) if n.endswith('/kernel') else w
          for n, w in params.items()}
