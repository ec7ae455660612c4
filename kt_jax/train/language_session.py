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
from kt_jax.train import casting
from kt_jax.train import language
from kt_jax.train import language_casting
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
                          prompts: Mapping[str, list[int]] | None = None
                         ) -> tuple[Session, stages.Stage, dict[str, Any]]:
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
  networks, frozen = language_casting.make_networks(
      config, info, net, teachers, cached)
  stage = stages.Stage(networks, {}, config.terms, '',
                       config.train.compute_dtype)
  builds = {stages.STUDENT: build} | _modules(config, stage, teachers)
  language_casting.check_terms(config, stage, info)
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
  return session, stage, _batch(config, info, cached, {
      name: teachers[network.of].info.input_shape
      for name, network in networks.items() if network.retokenized})


def _batch(config, info, cached, retokenized):
  """Shapes of a batch; rows of `retokenized` teachers have at most these."""
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
  for name, theirs in retokenized.items():
    batch |= {f'retokenized/{name}/{array}': rows(*shape, dtype=jnp.int32)
              for array, shape in dict(tokens=theirs, segments=theirs,
                                       places=line).items()}
  return batch


def _modules(config, stage, teachers):
  """How each module is built; it joins `stage.modules`."""
  made = {}
  for name, spec in config.modules.items():
    known = dict(steps=config.loop.steps)
    for other, network in stage.networks.items():
      if network.module == name:
        known['width'] = teachers[network.of].params[
            'embed/embedding'].shape[1]
    cls, settings = casting.module_settings(name, spec, known)
    made[name] = lambda cls=cls, settings=settings, name=name: cls(
        rngs=nnx.Rngs(casting.seed_of(config.seed, name)), **settings)
    call = getattr(cls, '__call__', None)
    stage.modules[name] = stages.Module(
        models.abstract(made[name]),
        stages.positional(call) if inspect.isfunction(call) else (),
        hasattr(cls, 'update'))
  return made


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
