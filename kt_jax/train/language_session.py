"""Builds what a run of language models needs from its config."""
from collections.abc import Mapping
import inspect
import re
from typing import Any

from flax import nnx
import jax
from jax import numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec
import numpy as np

from kt_jax import core
from kt_jax import data
from kt_jax import models
from kt_jax import modules
from kt_jax.train import casting
from kt_jax.train import language
from kt_jax.train import mesh as meshes
from kt_jax.train import sampling as samplings
from kt_jax.train import stage as stages
from kt_jax.train.optimizer import make_optimizer
from kt_jax.train.session import compiled_init
from kt_jax.train.session import only
from kt_jax.train.session import Session
from kt_jax.train.step import init_state
from kt_jax.train.step import make_settings
from kt_jax.train.step import make_step
from kt_jax.train.step import narrower
from kt_jax.train.trained import Trained


def make_language_session(config, info: data.Info,
                          teachers: Mapping[str, Trained] | None = None, *,
                          start: tuple | None = None, stop: int = -1,
                          pad: int = 0, cached: Mapping[str, int] | None = None,
                          prompts: Mapping[str, list[int]] | None = None) -> tuple[Session, stages.Stage, dict[str, Any]]:
  """Resolves a config of `pretrain_lm` or `distill_lm`.

  Args:
    config: `configs/common_language.py` says every key.
    info: what the student must fit: V classes, rows of `(S,)`.
    teachers: those that were trained before, by name; arrays may be abstract.
    start: `(params, stats)` that the student starts from; None: fresh ones.
      Low-rank updates that they lack are fresh.
    stop: end token of responses.
    pad: what stands after it.
    cached: teacher -> how many of its likeliest tokens are on disk.
    prompts: module of a prompted teacher -> tokens, repeated or cut, whose
      embeddings its prompt starts from.

  Returns:
    The session, its stage, and shapes of a batch.

  Raises:
    UserError: something in the config does not exist or does not fit.
  """
  teachers, cached = teachers or {}, cached or {}
  build = models.builder(
      config.model.name, classes=info.classes, input_shape=info.input_shape,
      seed=config.seed, **config.model.kw)
  net = models.abstract(build)
  mesh = meshes.make_mesh(**config.mesh)
  narrow = narrower(config.train.compute_dtype)
  networks, frozen = _networks(config, info, net, teachers, cached)
  stage = stages.Stage(networks, {}, config.terms, '',
                       config.train.compute_dtype)
  builds = {stages.STUDENT: build} | _modules(config, stage, teachers)
  _check_terms(config, stage, info)
  given = {}
  if start:
    given[stages.STUDENT] = _with_fresh_lora(net, build, start)
  for network in networks.values():
    if network.module in (prompts or {}):
      table = teachers[network.of].params['embed/embedding']
      own = jax.eval_shape(lambda n=network.module: models.arrays(
          stage.modules[n].net, builds[n]()))[0]['embedding']
      tokens = np.resize(prompts[network.module], len(own))
      given[network.module] = dict(embedding=table[tokens]), {}
  if 'initial' in networks:
    params, stats = given.get(stages.STUDENT) or jax.jit(
        lambda: models.arrays(net, build()))()
    frozen['initial'] = dict(params=params, stats=stats)

  average = config.train.ema > 0
  nets = {stages.STUDENT: net} | {n: m.net for n, m in stage.modules.items()}
  def fresh(given):
    found = {}, {}
    for name, make in builds.items():
      made = given.get(name) or models.arrays(nets[name], make())
      for kind, arrays in zip(found, made):
        kind |= {stages.prefix(name) + n: v for n, v in arrays.items()}
    return init_state(*found, tx, average)

  names = [stages.prefix(n) + path for n, owner in nets.items()
           for path, kind in zip(owner.names, owner.kinds) if kind == 'param']
  tx = make_optimizer(config.optimizer, config.loop.steps)
  if config.trainable:
    tx = only(tx, f'^@|{config.trainable}', names, 'trainable')
  abstract = jax.eval_shape(fresh, given)
  shardings = meshes.shard_state(mesh, config.sharding, abstract)
  forward = language.make_forward(stage, config.chunk)
  if config.trainable:
    forward = _held(forward, f'^@|{config.trainable}')
  sample = samplings.make_sample(
      stage, config.sampling, prompt=config.data.prompt, stop=stop, pad=pad,
      narrow=narrow)

  def prepare(batch, key):
    del key
    aligned = language.align(batch)
    return {'batch': aligned, language.DATA: aligned}

  step = make_step(forward, config.terms, tx, prepare,
                   accumulate=config.train.accumulate, sample=sample,
                   observe=language.make_observe(stage))
  whole = NamedSharding(mesh, PartitionSpec())
  session = Session(
      net, mesh,
      jax.jit(step, donate_argnums=0, out_shardings=(shardings, whole)),
      language.make_score(net, narrow, config.train.bits),
      lambda: compiled_init(fresh, shardings)(given),
      make_settings(config.terms, seed=config.seed, decay=config.train.ema,
                    frozen=dict(networks=frozen)), abstract)
  return session, stage, _batch(config, info, cached)


def _batch(config, info, cached):
  """Shapes of a batch."""
  rows = lambda *shape, dtype: jax.ShapeDtypeStruct(
      (config.batch.size, *shape), dtype)
  line = info.input_shape
  batch = dict(tokens=rows(*line, dtype=jnp.int32),
               segments=rows(*line, dtype=jnp.int32),
               targets=rows(*line, dtype=jnp.bool_),
               index=rows(dtype=jnp.int32), domain=rows(dtype=jnp.int32))
  for name, top_k in cached.items():
    batch |= {
        f'cached/{name}/tokens': rows(*line, top_k, dtype=jnp.float32),
        f'cached/{name}/log_probs': rows(*line, top_k, dtype=jnp.float32)}
  return batch


def _networks(config, info, net, teachers, cached):
  """Name -> `language.Network`, and the arrays of the frozen ones."""
  softcap = lambda net, params, stats: models.call(
      net, params, stats, lambda m: m.logit_softcap)[0]
  cap_of = lambda t: _static(softcap, t.net, t.params, t.stats)
  networks, frozen = {}, {}
  for name, spec in config.teachers.items():
    if name == stages.STUDENT or set(name) & set('/@'):
      raise core.UserError(f'config.teachers.{name}: choose another name.')
    if (name == 'initial') != (spec.kind == 'initial'):
      raise core.UserError("The teacher called 'initial', and no other, is of "
                           f'kind initial; {name!r} is {spec.kind!r}.')
    if spec.kind in ('frozen', 'prompted'):
      of = spec.of or name
      if of not in teachers:
        raise core.UserError(core.nearest(
            f'frozen teacher (config.teachers.{name}.of)', of, teachers))
      teacher = teachers[of]
      check_vocabulary(name, teacher.info, info)
      if spec.kind == 'prompted' and spec.module not in config.modules:
        raise core.UserError(core.nearest(
            f'module (config.teachers.{name}.module)', spec.module,
            config.modules))
      kind = 'cached' if name in cached else spec.kind
      networks[name] = language.Network(
          None if name in cached else teacher.net, kind, info.classes,
          cap_of(teacher), of, spec.module)
      if kind == 'frozen':
        frozen[name] = dict(params=teacher.params, stats=teacher.stats)
  student = jax.eval_shape(lambda: models.arrays(
      net, models.builder(config.model.name, classes=info.classes,
                          input_shape=info.input_shape, seed=0,
                          **config.model.kw)()))
  mine = _static(softcap, net, *student)
  networks[stages.STUDENT] = language.Network(
      net, 'student', info.classes, mine, bits=config.train.bits)
  for name, spec in config.teachers.items():
    if spec.kind == 'initial':
      networks[name] = language.Network(net, 'frozen', info.classes, mine)
    elif spec.kind == 'average':
      if not config.train.ema:
        raise core.UserError(f'config.teachers.{name} is the moving average: '
                             'set train.ema, such as 0.999.')
      networks[name] = language.Network(net, 'average', info.classes, mine)
    elif spec.kind not in ('frozen', 'prompted'):
      raise core.UserError(core.nearest(
          f'kind of teacher (config.teachers.{name})', spec.kind,
          ('frozen', 'prompted', 'initial', 'average')))
  return networks, frozen


def _static(fn, *args):
  """What `fn` says of a model that no array of it is needed for."""
  said = []
  jax.eval_shape(lambda *a: said.append(fn(args[0], *a)), *args[1:])
  return said[0]


def check_vocabulary(name: str, have: data.Info, want: data.Info) -> None:
  """Refuses a model of another vocabulary, or of a shorter context."""
  if have.classes != want.classes:
    raise core.UserError(
        f'{name} has a vocabulary of {have.classes}, the data '
        f'({want.name}) one of {want.classes}. Their tokens are not the same: '
        'give both one tokenizer, or use losses.uld.')
  if have.input_shape[0] < want.input_shape[0]:
    raise core.UserError(
        f'{name} has a context of {have.input_shape[0]} tokens, rows of the '
        f'data {want.input_shape[0]}. Set data.length.')


def _modules(config, stage, teachers):
  """How each module is built; it joins `stage.modules`."""
  made = {}
  for name, spec in config.modules.items():
    cls = core.resolve(modules, spec.name, f'module (config.modules.{name})')
    takes = inspect.signature(cls.__init__).parameters
    settings = dict(spec.kw)
    for setting in settings:
      if setting not in takes:
        raise core.UserError(core.nearest(
            f'setting of {spec.name} (config.modules.{name}.kw)', setting,
            [n for n, p in takes.items() if p.kind is p.KEYWORD_ONLY]))
    known = dict(steps=config.loop.steps)
    for other, network in stage.networks.items():
      if network.module == name:
        known['width'] = teachers[network.of].params[
            'embed/embedding'].shape[1]
    settings = {n: v for n, v in known.items() if n in takes} | settings
    made[name] = lambda cls=cls, settings=settings, name=name: cls(
        rngs=nnx.Rngs(casting.seed_of(config.seed, name)), **settings)
    call = getattr(cls, '__call__', None)
    stage.modules[name] = stages.Module(
        models.abstract(made[name]),
        stages.positional(call) if inspect.isfunction(call) else (),
        hasattr(cls, 'update'))
  return made


def _check_terms(config, stage, info):
  """Names in terms exist, and samples have somewhere to begin."""
  for name, term in config.terms.items():
    where = f'config.terms.{name}'
    for role in ('learner', 'teacher'):
      if (term[role] or role == 'learner') and (
          term[role] not in stage.networks):
        raise core.UserError(core.nearest(
            f'network ({where}.{role})', term[role], stage.networks))
    if term.module and term.module not in stage.modules:
      raise core.UserError(core.nearest(
          f'module ({where}.module)', term.module, stage.modules))
    if term.on not in ('batch', language.DATA):
      raise core.UserError(core.nearest(f'batch ({where}.on)', term.on,
                                        ('batch', language.DATA)))
    movable = [stages.STUDENT, *stage.modules]
    for who in stages.trains(term):
      if who not in movable:
        raise core.UserError(core.nearest(
            f'network or module that learns ({where}.trains)', who, movable))
  if config.train.bits not in (0, *range(2, 17)):
    raise core.UserError('train.bits must be 0 or from 2 to 16, got '
                         f'{config.train.bits}.')
  sampling = config.sampling
  if sampling.source not in samplings.SOURCES:
    raise core.UserError(core.nearest(
        'source (sampling.source)', sampling.source, samplings.SOURCES))
  if sampling.source != 'data':
    if not 0 < config.data.prompt < info.input_shape[0]:
      raise core.UserError(
          'sampling.source continues prompts: data.prompt must be from 1 to '
          f'{info.input_shape[0] - 1}, got {config.data.prompt}.')
    if any(n.kind == 'cached' for n in stage.networks.values()):
      raise core.UserError('A cache has what teachers say of the data: with '
                           f'sampling.source {sampling.source!r} set '
                           'cache.top_k 0.')
  if sampling.source in ('speculative', 'blend') and (
      getattr(stage.networks.get(sampling.teacher), 'kind', '') != 'frozen'):
    raise core.UserError(core.nearest(
        'frozen teacher (sampling.teacher)', sampling.teacher,
        [n for n, t in stage.networks.items() if t.kind == 'frozen']))


def _with_fresh_lora(net, build, start):
  """`(params, stats)` with the low-rank updates that they lack."""
  params, stats = start
  make = lambda: models.arrays(net, build())[0]
  want = jax.eval_shape(make)
  lacking = [n for n in want if n not in params]
  odd = [n for n in lacking if '/lora_' not in n] + [
      n for n, v in params.items()
      if n not in want or v.shape != want[n].shape]
  if odd:
    raise core.UserError(f'The start does not fit config.model: {odd[:4]}.')
  if lacking:
    abstract = isinstance(next(iter(params.values())), jax.ShapeDtypeStruct)
    made = want if abstract else jax.jit(make)()
    params = params | {n: made[n] for n in lacking}
  return params, stats


def _held(forward, pattern):
  """`forward` without gradients of what `pattern` does not match."""
  def held(params, *args, **kw):
    return forward({n: v if re.search(pattern, n) else jax.lax.stop_gradient(v)
                    for n, v in params.items()}, *args, **kw)
  return held
