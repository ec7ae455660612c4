"""Builds a stage from a config of `distill`: networks, modules, optimisers."""
from collections.abc import Mapping
from typing import Any

from flax import nnx
import jax
from jax import numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec
import numpy as np
import optax

from kt_jax import core
from kt_jax import data
from kt_jax import models
from kt_jax.train import casting
from kt_jax.train import evaluate
from kt_jax.train import mesh as meshes
from kt_jax.train import stage as stages
from kt_jax.train.objective import resolve_terms
from kt_jax.train.optimizer import make_optimizer
from kt_jax.train.session import compiled_init
from kt_jax.train.session import Session
from kt_jax.train.step import classification
from kt_jax.train.step import init_state
from kt_jax.train.step import make_settings
from kt_jax.train.step import make_step
from kt_jax.train.step import Shared
from kt_jax.train.trained import Trained


def make_stage_session(config, info: data.Info,
                       teachers: Mapping[str, Trained], *,
                       start: tuple | None = None,
                       targets: Mapping[str, Any] | None = None,
                       held_out: Mapping[str, Any] | None = None,
                       cached: Mapping[str, Mapping[str, Any]] | None = None
                      ) -> tuple[Session, stages.Stage, dict[str, Any]]:
  """Resolves a config of `distill`.

  Args:
    config: `configs/common.py`, `distill()`, says every key.
    info: what the student must fit.
    teachers: those that were trained before, by name; arrays may be abstract.
    start: `(params, stats)` the student starts from; None: fresh ones.
    targets: array name -> `[N, ...]`, one for each training example.
    held_out: `images` and `labels` of the examples of a bilevel config.
    cached: teacher -> name -> shape of an example's cached output.

  Returns:
    The session, its stage, and shapes of a batch.

  Raises:
    UserError: something in the config does not exist or does not fit.
  """
  cached = cached or {}
  build = models.builder(
      config.model.name, classes=info.classes, input_shape=info.input_shape,
      seed=config.seed, **config.model.kw)
  net = models.abstract(build)
  mesh = meshes.make_mesh(**config.mesh)
  data.parse_augment(config.batch.augment)
  networks, builds = casting.make_networks(
      config, info, net, build, teachers, cached)
  casting.check_terms(config, networks)

  batch = dict(images=jax.ShapeDtypeStruct(
      (config.batch.size, *info.input_shape), np.uint8))
  rows = lambda shape, dtype: jax.ShapeDtypeStruct(
      (config.batch.size, *shape), dtype)
  batch |= dict(labels=rows((), np.int32), index=rows((), np.int32))
  for name, outputs in cached.items():
    batch |= {f'cached/{name}/{n}': rows(shape, np.float32)
              for n, shape in outputs.items()}
  prepare = classification(info, mixup=config.batch.mixup,
                           cutmix=config.batch.cutmix)
  pool = jax.eval_shape(prepare, batch, jax.random.key(0))

  given = {n: (t.params, t.stats) for n, t in teachers.items()
           if networks[n].kind == 'online'}
  if start:
    given[stages.STUDENT] = start
  frozen = dict(networks={n: dict(params=t.params, stats=t.stats)
                          for n, t in teachers.items()
                          if networks[n].kind == 'frozen'})
  for name in cached:  # of one whose outputs are on disk a loss may want this
    if _wants_head(config.terms, name):
      frozen['networks'][name] = dict(
          params={stages.HEAD: teachers[name].params[stages.HEAD]}, stats={})
  if 'initial' in networks:
    params, stats = start or jax.jit(lambda: models.arrays(net, build()))()
    frozen['networks']['initial'] = dict(params=params, stats=stats)
  if targets:
    frozen['targets'] = dict(targets)
  if config.bilevel.module:
    frozen['held_out'] = dict(held_out or {})
  average = config.train.ema > 0
  stage = stages.Stage(networks, {}, config.terms, config.augmentor,
                       config.train.compute_dtype)
  builds |= _modules(config, info, stage, builds, given, pool, frozen,
                     average)

  def fresh(given):
    return init_state(*_arrays(stage, builds, given), tx, average)

  names = [stages.prefix(name) + n for name in builds
           for n, kind in zip(_net(stage, name).names, _net(stage, name).kinds)
           if kind == 'param']
  tx = _optimizers(config, names)
  abstract = jax.eval_shape(fresh, given)
  shardings = meshes.shard_state(mesh, config.sharding, abstract)
  step = make_step(
      stages.make_forward(stage), config.terms, tx, prepare,
      accumulate=config.train.accumulate,
      outer=_outer(config, stage, info) if config.bilevel.module else None)

  whole = NamedSharding(mesh, PartitionSpec())
  session = Session(
      net, mesh,
      jax.jit(step, donate_argnums=0, out_shardings=(shardings, whole)),
      evaluate.make_predict(net, info,
                            compute_dtype=config.train.compute_dtype),
      lambda: compiled_init(fresh, shardings)(given),
      make_settings(config.terms, seed=config.seed, decay=config.train.ema,
                    frozen=frozen), abstract)
  return session, stage, batch


def _net(stage, name):
  return (stage.networks.get(name) or stage.modules[name]).net


def _arrays(stage, builds, given):
  """`(params, stats)` of everybody, by the paths of a state."""
  found = {}, {}
  for name, make in builds.items():
    made = given.get(name) or models.arrays(_net(stage, name), make())
    for kind, arrays in zip(found, made):
      kind |= {stages.prefix(name) + n: v for n, v in arrays.items()}
  return found


def _wants_head(terms, name) -> bool:
  functions = resolve_terms(terms)
  return any(t.teacher.removesuffix(stages.CLEAN) == name
             and 'teacher_head' in stages.positional(functions[n])
             for n, t in terms.items())


def _modules(config, info, stage, builds, given, pool, frozen, average):
  """How each module is built; it joins `stage.modules`.

  The shapes that a module is made for are those of the first term that names
  it.
  """
  made = {}
  order = sorted(config.modules, key=lambda n: n != config.augmentor)
  for name in order:
    spec = config.modules[name]
    known = dict(examples=info.sizes['train'], classes=info.classes,
                 steps=config.loop.steps)
    cls, settings = casting.module_settings(name, spec, known)
    wanted = stages.positional(cls.__init__)
    users = [(n, t) for n, t in config.terms.items() if t.module == name]
    if name == config.augmentor or not users:
      shapes = pool
    else:
      shapes = _shapes(stage, builds | made, given, *users[0], wanted, pool,
                       frozen, average)
    seed = casting.seed_of(config.seed, name)
    def make(cls=cls, shapes=shapes, settings=settings, seed=seed):
      return core.bind(cls, shapes, rngs=nnx.Rngs(seed), **settings)
    made[name] = make
    stage.modules[name] = stages.Module(
        models.abstract(make), stages.positional(cls.__call__))
  return made


def _shapes(stage, builds, given, name, term, wanted, pool, frozen, average):
  """Shapes of the arrays that a term has for its module."""
  def look(pool, frozen, given):
    params, stats = _arrays(stage, builds, given)
    own = lambda tree: stages.part(tree, stages.STUDENT)
    slow = dict(params=own(params), stats=own(stats)) if average else {}
    scene = stages.Scene(
        stage, stages.trains(term), params, stats, pool, jax.random.key(0),
        Shared(jnp.int32(0), slow, frozen), dict(stats), {})
    arrays = scene.arrays(name, term, wanted)
    return {n: arrays[n] for n in wanted if n in arrays}
  return jax.eval_shape(look, pool, frozen, given)


def _optimizers(config, paths):
  """One for all, or one for each that `config.optimizers` names."""
  steps = config.loop.steps
  if not config.optimizers:
    return make_optimizer(config.optimizer, steps)
  label = lambda path: (stages.owner(path) if stages.owner(path)
                        in config.optimizers else '')
  made = {n: make_optimizer(o, steps) for n, o in config.optimizers.items()}
  return optax.multi_transform(
      {'': make_optimizer(config.optimizer, steps)} | made,
      {path: label(path) for path in paths})


def _outer(config, stage, info):
  """Gradient of a module through one step of the student.

    d CE(held out; theta - rate grad_theta L(theta, omega)) / d omega
  """
  name, rate, size = (config.bilevel[k] for k in ('module', 'rate', 'batch'))
  student = stage.networks[stages.STUDENT].net

  def outer(loss, params, stats, pool, key, shared):
    mine = {n: v for n, v in params.items() if stages.owner(n) == name}
    theta = stages.part(params, stages.STUDENT)
    found = shared.frozen['held_out']
    images, labels = found['images'], found['labels']
    if size and size < len(labels):
      some = jax.random.choice(core.fold_path(key, 'held out'), len(labels),
                               (size,), replace=False)
      images, labels = images[some], labels[some]
    x = data.normalize(images, info.mean, info.std)

    def held_out_loss(omega):
      grads = jax.grad(lambda theta: loss(
          params | omega | theta, stats, pool, key))(theta)
      moved = jax.tree.map(lambda v, g: v - rate * g, theta, grads)
      out = models.apply(student, moved, stages.part(stats, stages.STUDENT), x,
                         train=True, key=core.fold_path(key, 'held out model'))
      return jnp.mean(optax.losses.softmax_cross_entropy_with_integer_labels(
          out.logits.astype(jnp.float32), labels))
    return jax.grad(held_out_loss)(mine)
  return outer
