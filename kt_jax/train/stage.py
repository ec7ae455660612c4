"""The forward pass of many: networks, modules, and terms between them.

A term compares a `learner` with a `teacher`, two networks by name, and moves
the parameters of those that it `trains`; for it everybody else's are constants.
So teachers that learn too, adapters, and augmentations that work against the
student are all one sum and one gradient.
"""
import collections
from collections.abc import Callable, Mapping
import inspect
from typing import Any, NamedTuple

import jax
from jax import numpy as jnp

from kt_jax import core
from kt_jax import models
from kt_jax.train.objective import resolve_terms
from kt_jax.train.step import narrower

STUDENT = 'student'
HEAD = 'head/kernel'  # of every model's classifier
CLEAN = '@clean'  # 'student@clean' sees its inputs without the augmentor


class Network(NamedTuple):
  """Somebody with logits. Arrays are elsewhere: see `Scene.params_of`."""
  net: models.Net | None  # None: its outputs come with the batch
  mean: tuple[float, ...]  # what its inputs are normalised by
  std: tuple[float, ...]
  kind: str  # 'student', 'online', 'frozen', 'average' or 'cached'
  classes: tuple[int, ...] = ()  # its class for each of ours; () the same
  corrupt: float = 0.0  # share of examples whose logits are permuted


class Module(NamedTuple):
  """Parameters or state of terms; `kt_jax.modules` has the contract."""
  net: models.Net
  wants: tuple[str, ...]  # arrays that it is called with, where there are such
  updates: bool = False  # whether its term's mean moves it after the step


class Stage(NamedTuple):
  """Everybody in a step. Static."""
  networks: dict[str, Network]
  modules: dict[str, Module]
  terms: Mapping[str, Mapping[str, Any]]
  augmentor: str = ''  # the module that changes the inputs
  compute_dtype: str = 'float32'


def prefix(name: str) -> str:
  """Of the paths of `name` in the state's params and stats."""
  return '' if name == STUDENT else f'@{name}/'


def part(arrays: Mapping[str, Any], name: str) -> dict[str, Any]:
  """What of a state's params or stats is of `name`, by its own paths."""
  start = prefix(name)
  return {path[len(start):]: v for path, v in arrays.items()
          if path.startswith(start) and (start or not path.startswith('@'))}


def owner(path: str) -> str:
  """Whose a path of a state is."""
  return path[1:].split('/', 1)[0] if path.startswith('@') else STUDENT


def trains(term) -> frozenset[str]:
  """Whose parameters a term moves."""
  return frozenset(term['trains'] or
                   [term['learner'].removesuffix(CLEAN)]
                   + [term['module']] * bool(term['module']))


def make_forward(stage: Stage) -> Callable:
  """`train.make_step`'s forward pass of a stage."""
  functions = resolve_terms(stage.terms)

  def forward(params, stats, pool, key, shared):
    scenes, after, seen, sums = {}, dict(stats), {}, {}
    for name, term in stage.terms.items():
      who = trains(term)
      if who not in scenes:
        scenes[who] = Scene(stage, who, params, stats, pool, key, shared, after,
                            seen)
      values = scenes[who].value(functions[name], name, term)
      sums[name] = core.masked_sum(values, pool.get('where'))
    return sums, {n: v.astype(stats[n].dtype) for n, v in after.items()}
  return forward


class Scene:
  """One forward pass, differentiated by the parameters of `who` alone.

  Args:
    after: statistics that the pass leaves, shared by all scenes.
    seen: outputs of networks, shared by all scenes.
  """

  def __init__(self, stage: Stage, who, params, stats, pool, key, shared,
               after, seen):
    self.stage, self.pool, self.key, self.shared = stage, pool, key, shared
    self.who, self._all, self._seen = who, params, seen
    self.params = {path: v if owner(path) in who else jax.lax.stop_gradient(v)
                   for path, v in params.items()}
    self.stats, self.after = stats, after
    self._outputs, self._inputs = {}, {}
    self._narrow = narrower(stage.compute_dtype)
    self._taps = _taps(stage.terms)

  def params_of(self, name: str, params=None
               ) -> tuple[models.Arrays, models.Arrays]:
    """`(params, stats)` of a network or module."""
    kind = getattr(self.stage.networks.get(name), 'kind', 'module')
    if kind == 'average':
      return self.shared.slow['params'], self.shared.slow['stats']
    if kind in ('frozen', 'cached'):
      found = self.shared.frozen['networks'][name]
      return found['params'], found['stats']
    return (part(self.params if params is None else params, name),
            part(self.stats, name))

  def call(self, module: str, arrays) -> dict[str, jax.Array]:
    """What a module makes of arrays; its state moves."""
    out, stats = models.call(
        self.stage.modules[module].net, *self.params_of(module),
        lambda m: core.bind(m.__call__, arrays), train=True,
        key=core.fold_path(self.key, module))
    self.after.update({prefix(module) + n: v for n, v in stats.items()})
    return out

  def inputs(self, clean: bool) -> jax.Array:
    if clean or not self.stage.augmentor:
      return self.pool['inputs']
    if not self._inputs:
      name = self.stage.augmentor
      self._inputs = self.call(name, dict(
          self.pool, key=core.fold_path(self.key, name + ' draws')))
    return self._inputs['inputs']

  def output(self, who: str) -> models.Output:
    """Logits and tapped features of a network, in our classes."""
    clean = who.endswith(CLEAN)
    if self.stage.augmentor in self.who and not clean:
      # The gradient runs through the inputs, whosever the parameters are.
      if who not in self._outputs:
        self._outputs[who] = self._output(who, self.params)
      return self._outputs[who]
    if who not in self._seen:
      self._seen[who] = self._output(who, self._all)
    out = self._seen[who]
    return (out if who.removesuffix(CLEAN) in self.who
            else jax.lax.stop_gradient(out))

  def _output(self, who, params):
    name = who.removesuffix(CLEAN)
    network, taps = self.stage.networks[name], sorted(self._taps[name])
    learns = network.kind in (STUDENT, 'online')
    if network.net is None:
      cached = lambda array: self.pool[f'cached/{name}/{array}']
      out = models.Output(cached('logits'), {}, {t: cached(t) for t in taps})
    else:
      x = self.inputs(who.endswith(CLEAN))
      ours = self.stage.networks[STUDENT]
      if (network.mean, network.std) != (ours.mean, ours.std):
        as_array = lambda v: jnp.asarray(v, x.dtype)
        x = (x * as_array(ours.std) + as_array(ours.mean)
             - as_array(network.mean)) / as_array(network.std)
      params, stats = self.params_of(name, params)
      out = models.apply(
          network.net, self._narrow(params), stats, self._narrow(x),
          train=learns, key=core.fold_path(self.key, name), taps=taps)
    if learns:
      new = {prefix(name) + n: v for n, v in out.stats.items()}
      self.after.update(new if who == name else {
          n: v for n, v in new.items() if self.after[n] is self.stats[n]})
    logits = out.logits
    if network.corrupt:
      logits = _corrupt(logits, self.pool['index'], network.corrupt)
    if network.classes:
      logits = logits[..., jnp.asarray(network.classes)]
    return out._replace(logits=logits)

  def arrays(self, name: str, term, wanted) -> dict[str, Any]:
    """The arrays that a term's loss and module may ask for, as wanted."""
    learner, teacher = term['learner'], term['teacher']
    everyone = sorted(n for n in self.stage.networks if n != STUDENT)
    sources = {
        'student_logits': lambda: self.output(learner).logits,
        'student_features': lambda: self._features(learner, term['taps']),
        'student_head': lambda: self._head(learner),
        'step': lambda: self.shared.step,
        'key': lambda: core.fold_path(self.key, name)}
    if not term['taps']:
      del sources['student_features']
    if teacher:
      # A network that teaches itself does not learn in that role.
      name_of = lambda who: who.removesuffix(CLEAN)
      itself = (name_of(teacher) == name_of(learner)
                and name_of(teacher) not in term['trains'])
      held = jax.lax.stop_gradient if itself else lambda x: x
      sources |= {
          'teacher_logits': lambda: held(self.output(teacher).logits),
          'teacher_features': lambda: held(self._features(
              teacher, term['teacher_taps'] or term['taps'])),
          'teacher_head': lambda: held(self._head(teacher))}
      if not (term['teacher_taps'] or term['taps']):
        del sources['teacher_features']
    if len(everyone) > 1:
      sources['teachers_logits'] = lambda: jnp.stack(
          [self.output(n).logits for n in everyone if n != 'initial'])
    if 'initial' in everyone:
      sources['initial_logits'] = lambda: self.output('initial').logits
    targets = self.shared.frozen.get('targets', {})
    sources |= {n: lambda n=n: targets[n][self.pool['index']] for n in targets}
    found = dict(self.pool)
    return found | {n: sources[n]() for n in wanted if n in sources}

  def value(self, fn, name: str, term) -> jax.Array:
    """`[...]` values of a term, one for each example."""
    arrays, settings = self.bound(fn, name, term)
    values = core.bind(fn, arrays, **settings)
    return values * arrays[term['each']] if term['each'] else values

  def bound(self, fn, name: str, term, wanted=None
           ) -> tuple[dict[str, Any], dict[str, Any]]:
    """`(arrays, settings)` of a term's loss, its module's outputs in them."""
    rename, module = dict(term['rename']), term['module']
    if wanted is None:
      wanted = {*positional(fn), *rename.values(), term['each']}
    if module:
      wanted |= set(self.stage.modules[module].wants)
    arrays = self.arrays(name, term, wanted)
    settings = dict(term['kw'])
    if module:
      out = self.call(module, arrays)
      takes = inspect.signature(fn).parameters
      settings |= {n: v for n, v in out.items() if n in takes
                   and takes[n].kind is takes[n].KEYWORD_ONLY}
      arrays |= out
    for source in [*rename.values(), *[term['each']] * bool(term['each'])]:
      if source not in arrays:
        raise core.UserError(core.nearest(
            f'array (config.terms.{name})', source, arrays))
    return arrays | {to: arrays[source] for to, source in rename.items()
                     }, settings

  def _features(self, who, taps):
    taps, seen = as_tuple(taps), self.output(who).features
    return seen[taps[0]] if len(taps) == 1 else [seen[t] for t in taps]

  def _head(self, who):
    params, _ = self.params_of(who.removesuffix(CLEAN))
    if HEAD not in params:
      raise core.UserError(f'{who} has no linear layer called head.')
    return params[HEAD]


def as_tuple(taps) -> tuple[str, ...]:
  return (taps,) if isinstance(taps, str) else tuple(taps)


def positional(fn) -> tuple[str, ...]:
  """Names of the arrays that a function takes."""
  return tuple(n for n, p in inspect.signature(fn).parameters.items()
               if p.kind is p.POSITIONAL_OR_KEYWORD and n != 'self')


def _taps(terms) -> dict[str, set[str]]:
  """Network -> every tap that some term reads off it."""
  found = collections.defaultdict(set)
  for term in terms.values():
    found[term['learner'].removesuffix(CLEAN)] |= {*as_tuple(term['taps'])}
    found[term['teacher'].removesuffix(CLEAN)] |= {
        *as_tuple(term['teacher_taps'] or term['taps'])}
  return found


def _corrupt(logits, index, share):
  """Logits with the classes permuted for a fixed `share` of the examples."""
  def row(z, i):
    draw, shuffle = jax.random.split(jax.random.fold_in(jax.random.key(0), i))
    return jnp.where(jax.random.uniform(draw) < share,
                     jax.random.permutation(shuffle, z), z)
  return jax.vmap(row)(logits, index)
