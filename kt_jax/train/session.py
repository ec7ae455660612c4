"""Compiled functions of a training run, built from its spec; their shapes."""
from collections.abc import Callable, Mapping
import re
from typing import Any, NamedTuple

import jax
from jax import numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec
import numpy as np
import optax

from kt_jax import core
from kt_jax import data
from kt_jax import models
from kt_jax.train import evaluate
from kt_jax.train import graph as graphs
from kt_jax.train import images
from kt_jax.train import mesh as meshes
from kt_jax.train import networks as networks_lib
from kt_jax.train import sampling
from kt_jax.train import specs
from kt_jax.train import tokens
from kt_jax.train.graph import TermGraph
from kt_jax.train.optimizer import make_optimizer
from kt_jax.train.pretrained import Trained
from kt_jax.train.specs import STUDENT
from kt_jax.train.step import init_state
from kt_jax.train.step import make_cast
from kt_jax.train.step import make_step
from kt_jax.train.step import State
from kt_jax.train.step import step_inputs
from kt_jax.train.step import StepContext
from kt_jax.train.step import StepInputs


class Session(NamedTuple):
  """A student, its optimizer and the compiled functions of a run."""
  net: models.Net  # of the student
  graph: TermGraph
  mesh: jax.sharding.Mesh
  step: Any  # jitted (state, batch, inputs) -> (state, metrics)
  # Jitted (params, stats, ...) -> logits of images, or scores of token rows.
  predict: Callable[..., Any]
  init: Callable[[], State]  # the first state, on the mesh
  inputs: StepInputs
  abstract: State  # shapes of what `init` returns
  batch: dict[str, jax.ShapeDtypeStruct]  # shapes of a batch


def make_session(spec: specs.Training, info: data.Info,
                 teachers: Mapping[str, Trained] | None = None, *,
                 start: Trained | None = None,
                 targets: Mapping[str, Any] | None = None,
                 held_out: Mapping[str, Any] | None = None,
                 cached: Mapping[str, Mapping[str, Any]] | None = None,
                 stop: int = -1, pad: int = 0,
                 prompts: Mapping[str, list[int]] | None = None) -> Session:
  """Resolves a training spec: networks, losses, optimizer, mesh.

  Args:
    spec: of the run.
    info: of the data that the student must fit.
    teachers: pretrained ones by name; arrays may be abstract.
    start: the model that the student starts from; None: fresh parameters.
    targets: array name -> `[N, ...]`, one row per training example.
    held_out: rows that the loss of a bilevel spec is measured on.
    cached: teacher -> array -> shape and dtype of an example's cached outputs.
    stop: end token of sampled responses.
    pad: token that stands after it.
    prompts: module of a prompted teacher -> tokens, repeated or cut, whose
      embeddings its prompt starts from.

  Raises:
    UserError: a name in the spec does not exist, or parts do not fit.
  """
  check_modality(spec)
  teachers, cached, text = teachers or {}, cached or {}, isinstance(
      spec.data, data.Text)
  build = networks_lib.student_builder(spec, info)
  net = models.abstract(build)
  mesh = meshes.make_mesh(spec.mesh.data, spec.mesh.model)
  cast = make_cast(spec.train.compute_dtype)
  networks, builds = networks_lib.make_networks(
      spec, info, net, teachers, cached)
  graph = TermGraph(
      networks, {}, spec.terms, graphs.resolve_terms(spec.terms),
      tokens.TokenContext if text else images.ImageContext, spec.augmentor,
      spec.train.compute_dtype, spec.train.chunk)
  networks_lib.check_terms(spec, networks)

  batch = _batch(spec, info, networks, teachers, cached)
  prepare = tokens.prepare_tokens if text else images.prepare_images(
      info, mixup=spec.batch.mixup, cutmix=spec.batch.cutmix)
  arrays = {name: (t.params, t.stats) for name, t in teachers.items()
            if spec.teachers[name].kind == 'online'}
  if start:
    arrays[STUDENT] = loaded(spec, net, build, start)
  constants = _constants(spec, graph, teachers, targets, held_out)
  if 'initial' in networks:
    params, stats = arrays.get(STUDENT) or jax.jit(
        lambda: models.arrays(net, build()))()
    constants['networks']['initial'] = dict(params=params, stats=stats)
  ema = spec.train.ema > 0

  def shapes(module, term, names):
    """Shapes of the arrays that a term has for its module."""
    if module == spec.augmentor or not term:
      return jax.eval_shape(prepare, batch, jax.random.key(0))['data']
    return _term_shapes(graph, builds, arrays, term, names, prepare, batch,
                        constants, ema)
  networks_lib.make_modules(
      spec, graph, builds, dict(examples=info.sizes.get('train', 0),
                                classes=info.classes, steps=spec.loop.steps),
      shapes, teachers)
  for module, prompt in (prompts or {}).items():
    arrays[module] = _prompt(graph, builds, module, prompt, teachers)

  tx = _optimizer(spec, {name: graph.net(name) for name in builds})
  def fresh(arrays):
    return init_state(*_everything(graph, builds, arrays), tx, ema)
  abstract = jax.eval_shape(fresh, arrays)
  shardings = meshes.shard_state(mesh, spec.sharding, abstract)
  step = make_step(
      _trainable_only(graphs.make_forward(graph), spec.trainable), spec.terms,
      tx, prepare, accumulate=spec.train.accumulate,
      outer=_outer(spec, graph, info) if spec.bilevel.module else None,
      sample=sampling.make_sample(
          graph, spec.sampling, prompt=spec.text.prompt, stop=stop, pad=pad,
          cast=cast) if text else None,
      observe=graphs.make_observe(graph))
  # Set explicitly: if the sharding of the new state differed from that of the
  # old one, the step would be compiled again.
  replicated = NamedSharding(mesh, PartitionSpec())
  predict = tokens.make_score(net, cast, spec.train.bits) if text else (
      evaluate.make_predict(net, info, compute_dtype=spec.train.compute_dtype,
                            bits=spec.train.bits))
  return Session(
      net, graph, mesh,
      jax.jit(step, donate_argnums=0, out_shardings=(shardings, replicated)),
      predict, lambda: _compiled_init(fresh, shardings)(arrays),
      step_inputs(spec.terms, seed=spec.seed, ema_decay=spec.train.ema,
                  constants=constants), abstract, batch)


def check_modality(spec: specs.Training) -> None:
  """Refuses settings that have no meaning for the data of a spec."""
  default = specs.Training()
  text = isinstance(spec.data, data.Text)
  only = dict(
      text=('batch.augment', 'batch.mixup', 'batch.cutmix', 'augmentor',
            'targets', 'evaluate.corruptions', 'evaluate.cka'),
      images=('sampling', 'mixture', 'train.chunk', 'export', 'prompt_text',
              'evaluate.responses', 'evaluate.samples'))
  for key in only['text' if text else 'images']:
    value, usual = spec, default
    for name in key.split('.'):
      value, usual = getattr(value, name), getattr(usual, name)
    if value != usual:
      raise core.UserError(
          f'config.{key} is for {"images" if text else "text"}, and the data '
          f'{"are text: tokens" if text else "are images: classes"} have no '
          'such thing.')
  if not text:
    data.parse_augment(spec.batch.augment)  # refused here, not in a thread


def _batch(spec, info, networks, teachers, cached):
  """Shapes of a batch with what is joined to it from disk.

  Rows of retokenized teachers have at most these.
  """
  text, rows = isinstance(spec.data, data.Text), spec.batch.size
  batch = (tokens.token_shapes if text else images.image_shapes)(info, rows)
  for name, arrays in cached.items():
    batch |= {f'cached/{name}/{n}': jax.ShapeDtypeStruct(
        (rows, *x.shape), x.dtype) for n, x in arrays.items()}
  for name, network in networks.items():
    if network.retokenized:
      theirs = teachers[network.of or name].info.input_shape
      batch |= {f'retokenized/{name}/{n}': jax.ShapeDtypeStruct(
          (rows, *shape), jnp.int32) for n, shape in dict(
              tokens=theirs, segments=theirs, places=info.input_shape).items()}
  return batch


def _constants(spec, graph, teachers, targets, held_out):
  """Arrays of frozen networks, and what is known of examples."""
  networks = {name: dict(params=t.params, stats=t.stats)
              for name, t in teachers.items()
              if graph.networks[name].kind == 'frozen'}
  for name, network in graph.networks.items():
    # Of a teacher whose outputs are on disk a loss may want the classifier.
    if network.kind == 'cached' and graphs.HEAD in teachers[name].params and (
        _wants_head(graph, name)):
      networks[name] = dict(params={
          graphs.HEAD: teachers[name].params[graphs.HEAD]}, stats={})
  constants: dict[str, Any] = dict(networks=networks)
  if targets:
    constants['targets'] = dict(targets)
  if spec.bilevel.module:
    constants['held_out'] = dict(held_out or {})
  return constants


def _wants_head(graph, name) -> bool:
  return any(term.teacher.removesuffix(specs.CLEAN) == name
             and 'teacher_head' in graphs.positional(graph.functions[n])
             for n, term in graph.terms.items())


def _everything(graph, builds, arrays):
  """`(params, stats)` by name of everything that learns."""
  both = {name: arrays.get(name) or models.arrays(graph.net(name), build())
          for name, build in builds.items()}
  return ({name: dict(params) for name, (params, _) in both.items()},
          {name: dict(stats) for name, (_, stats) in both.items()})


def _term_shapes(graph, builds, arrays, name, names, prepare, batch, constants,
                 ema):
  def look(batch, constants, arrays):
    params, stats = _everything(graph, builds, arrays)
    average = dict(params=params[STUDENT], stats=stats[STUDENT]) if ema else {}
    batches = prepare(batch, jax.random.key(0))
    context = graph.context(
        graph, specs.updated(graph.terms[name]), params, stats,
        batches['data'], jax.random.key(0),
        StepContext(jnp.int32(0), average, constants),
        {n: dict(tree) for n, tree in stats.items()}, {})
    inputs = context.arrays(name, names)
    return {n: inputs[n] for n in names if n in inputs}
  return jax.eval_shape(look, batch, constants, arrays)


def _prompt(graph, builds, module, prompt, teachers):
  """A soft prompt that starts from the embeddings of tokens."""
  of = next(n.of for n in graph.networks.values() if n.module == module)
  table = teachers[of].params['embed/embedding']
  own = jax.eval_shape(lambda: models.arrays(
      graph.modules[module].net, builds[module]()))[0]['embedding']
  return dict(embedding=table[np.resize(prompt, len(own))]), {}


def loaded(spec: specs.Training, net: models.Net, build, start: Trained):
  """`(params, stats)` of a student that starts from another model.

  Low-rank updates that the other lacks are fresh, as is what `init.load` does
  not match.
  """
  want = jax.eval_shape(lambda: models.arrays(net, build()))
  pattern, result = spec.init.load, []
  fresh: Any = None
  abstract = any(isinstance(x, jax.ShapeDtypeStruct)
                 for x in start.params.values())
  for i, arrays in enumerate((start.params, start.stats)):
    taken = [n for n in want[i] if re.search(pattern, n)
             and (n in arrays or '/lora_' not in n)]
    for name in taken:
      if name not in arrays:
        raise core.UserError(core.nearest(
            f'array in {start.source} (init.load narrows what is taken)', name,
            arrays))
      if arrays[name].shape != want[i][name].shape:
        raise core.UserError(
            f'{name} is {arrays[name].shape} in {start.source}, '
            f'{want[i][name].shape} in this model; leave it out with init.load '
            f'(now {pattern!r}).')
    extra = sorted(n for n in arrays if n not in want[i]
                   and re.search(pattern, n))
    if extra:
      raise core.UserError(
          f'{start.source} has {", ".join(extra[:3])}, which this model lacks: '
          'it has other sizes. Set config.model to its own, or leave arrays '
          f'out with init.load (now {pattern!r}).')
    if len(taken) < len(want[i]) and fresh is None:
      fresh = want if abstract else jax.jit(
          lambda: models.arrays(net, build()))()
    result.append({n: arrays[n] if n in taken else fresh[i][n]
                   for n in want[i]})
  return tuple(result)


def _optimizer(spec: specs.Training, nets) -> optax.GradientTransformation:
  """One for all, or one for each network that `optimizers` names."""
  steps = spec.loop.steps
  make = lambda o: make_optimizer(o, steps)
  if not spec.optimizers and not spec.trainable:
    return make(spec.optimizer)
  frozen = 'frozen '  # no name of a network
  def label(name, path):
    if name == STUDENT and not re.search(spec.trainable, path):
      return frozen
    return name if name in spec.optimizers else ''
  labels = {name: {path: label(name, path) for path, kind in zip(
      net.names, net.kinds) if kind == 'param'} for name, net in nets.items()}
  if set(labels[STUDENT].values()) == {frozen}:
    raise core.UserError(
        f'config.trainable {spec.trainable!r} matches no parameter; the first '
        f'are {", ".join(sorted(labels[STUDENT])[:5])}.')
  return optax.multi_transform(
      {'': make(spec.optimizer), frozen: optax.set_to_zero()}
      | {name: make(o) for name, o in spec.optimizers.items()}, labels)


def _trainable_only(forward, pattern: str):
  """`forward` without gradients of the student's parameters that do not learn.
  """
  if not pattern:
    return forward
  def held(params, *args, **kw):
    student = {n: v if re.search(pattern, n) else jax.lax.stop_gradient(v)
               for n, v in params[STUDENT].items()}
    return forward(params | {STUDENT: student}, *args, **kw)
  return held


def _outer(spec: specs.Training, graph: TermGraph, info):
  """Gradient of a module through one step of the student.

    d L_held_out(theta - rate grad_theta L(theta, omega)) / d omega
  """
  bilevel, text = spec.bilevel, isinstance(spec.data, data.Text)
  net = graph.net(STUDENT)

  def outer(loss, params, stats, batches, key, step_context):
    rows = step_context.constants['held_out']
    count = len(next(iter(rows.values())))
    if bilevel.batch and bilevel.batch < count:
      some = jax.random.choice(core.fold_path(key, 'held out'), count,
                               (bilevel.batch,), replace=False)
      rows = {n: x[some] for n, x in rows.items()}
    held_out = tokens.held_out_loss(net, rows) if text else (
        images.held_out_loss(net, info, rows))

    def loss_after_step(omega):
      grads = jax.grad(lambda theta: loss(
          params | {bilevel.module: omega, STUDENT: theta}, stats, batches,
          key))(params[STUDENT])
      moved = jax.tree.map(lambda v, g: v - bilevel.rate * g, params[STUDENT],
                           grads)
      return held_out(moved, stats[STUDENT],
                      core.fold_path(key, 'held out model'))
    return {bilevel.module: jax.grad(loss_after_step)(params[bilevel.module])}
  return outer


def _compiled_init(fresh, shardings):
  """`fresh`, jitted: random numbers compile slowly; less optimized, they are
  the same."""
  options = {'xla_backend_optimization_level': 1} if (
      jax.default_backend() == 'cpu') else None
  return jax.jit(fresh, out_shardings=shardings, compiler_options=options)


class Report(NamedTuple):
  """Sizes and costs of a run; nothing of it was run."""
  name: str
  parameters: int
  state_bytes: int  # parameters, statistics, optimizer, average
  step_flops: float  # of one step, forward and backward
  steps: int
  lowered: Any = None  # the step; compiled, it reports the memory it needs


def describe(name: str, session: Session, steps: int) -> Report:
  """The `Report` of a session: its step is traced, nothing computed."""
  meshes.rows(session.mesh, session.batch['index'].shape[0])
  lowered = session.step.lower(session.abstract, session.batch, session.inputs)
  return report(name, session.abstract, lowered, steps)


def report(name: str, state: State, lowered, steps: int) -> Report:
  """The `Report` of a traced step, `jax.jit(...).lower(state, ...)`."""
  size = lambda tree: sum(x.size * x.dtype.itemsize
                          for x in jax.tree.leaves(tree))
  return Report(name, sum(x.size for x in jax.tree.leaves(state.params)),
                size(state),
                float((lowered.cost_analysis() or {}).get('flops', 0.0)),
                steps, lowered)
