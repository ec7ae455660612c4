"""Trains a student by a sum of losses between networks.

Frozen teachers are loaded, or trained once and kept; with `config.cache` what
they say is read from disk instead, and none is in memory.
"""
import copy

import jax
import numpy as np

from experiments import distill_measure
from experiments import generations
from experiments import pool
from experiments import pretrain
from kt_jax import checkpoint
from kt_jax import core
from kt_jax import data
from kt_jax import models
from kt_jax import train


def check(config):
  if config.generations.count:
    return generations.check(config, check_one, pretrain.check)
  return check_one(config)


def run(config, workdir):
  """Test metrics of the student; of several generations, those of each."""
  if config.generations.count:
    return generations.run(config, workdir, run_one, pretrain.run)
  return run_one(config, workdir)


def check_one(config):
  """Traces a step; teachers that are not trained yet are abstract."""
  info, reports, teachers = data.abstract(config.data), [], {}
  _check_cache(config)
  for name, spec in _pretrained(config).items():
    if spec.checkpoint:
      teachers[name] = train.load_trained(spec.checkpoint)
      continue
    member = _member(config, name)
    reports += [r._replace(name=f'pretrain {name}')
                for r in pretrain.check(member)]
    have = data.abstract(member.data)
    build = models.builder(
        member.model.name, classes=have.classes, input_shape=have.input_shape,
        seed=member.seed, **member.model.kw)
    net = models.abstract(build)
    teachers[name] = train.Trained(
        net, *jax.eval_shape(lambda: models.arrays(net, build())), have,
        member.model.to_dict(), '', f'teacher {name}')
  few = np.zeros((2, *info.input_shape), np.uint8)
  targets = {n: jax.ShapeDtypeStruct(
      (info.sizes['train'], *np.shape(_target(
          fn, n, few, np.zeros(2, np.int32)))[1:]), np.float32)
             for n, fn in config.targets.items()}
  held = info.sizes['validation']
  held_out = dict(
      images=jax.ShapeDtypeStruct((held, *info.input_shape), np.uint8),
      labels=jax.ShapeDtypeStruct((held,), np.int32))
  if config.bilevel.module and not held:
    raise core.UserError('bilevel needs held-out examples: set '
                         'data.validation.')
  initial = None
  if config.start:
    trained = train.load_trained(config.start)
    initial = trained.params, trained.stats
  session, _, batch = train.make_stage_session(
      config, info, teachers, start=initial, targets=targets,
      held_out=held_out, cached=_cached_shapes(config, teachers))
  train.rows(session.mesh, config.batch.size)
  _check_measures(config, session, info, [
      t for n, t in teachers.items() if config.teachers[n].kind == 'frozen'])
  return reports + [train.describe(
      config.model.name, session.abstract, session.step.lower(
          session.abstract, batch, session.settings), config.loop.steps)]


def run_one(config, workdir):
  return pretrain.run(config, workdir, setup)


def setup(config, splits, workdir) -> pretrain.Setup:
  """Everybody of a config of `distill`, on the data."""
  check_one(config)  # names and shapes first: teachers may take long
  teachers = {}
  for name, spec in _pretrained(config).items():
    path = spec.checkpoint or pool.trained(
        name, _member(config, name), pool.home(config.pool_dir, workdir))
    teachers[name] = train.load_trained(path)
  says = distill_measure.Teachers(config, {
      n: t for n, t in teachers.items()
      if config.teachers[n].kind == 'frozen'}, splits)
  caches = _caches(config, teachers, splits) if config.cache.views else {}
  targets = {n: _target(fn, n, np.asarray(splits.train.images),
                        splits.train.labels)
             for n, fn in config.targets.items()}
  held_out = None
  if config.bilevel.module:
    held_out = dict(images=np.asarray(splits.validation.images),
                    labels=splits.validation.labels)
  start, parents = None, [dict(source=t.source, digest=t.digest)
                        for t in teachers.values()]
  if config.start:
    trained = train.load_trained(config.start)
    train.check_fits(trained.info, splits.info, config.start)
    start = trained.params, trained.stats
    parents.append(dict(source=trained.source, digest=trained.digest))
  session, stage, _ = train.make_stage_session(
      config, splits.info, teachers, start=start, targets=targets,
      held_out=held_out, cached=_cached_shapes(config, teachers))
  whole = jax.sharding.NamedSharding(session.mesh, jax.sharding.PartitionSpec())
  session = session._replace(settings=session.settings._replace(
      frozen=jax.device_put(session.settings.frozen, whole)))
  stream = data.stream(
      splits.train, batch_size=config.batch.size, seed=config.seed,
      augment=config.batch.augment, views=config.cache.views,
      view_seed=config.cache.seed, rows=train.rows(session.mesh,
                                                   config.batch.size),
      lookup=data.attach_cached(caches) if caches else None)
  measure = distill_measure.measure(config, session, stage, splits, says)
  return pretrain.Setup(session, splits, stream, (), tuple(parents), measure)


def _pretrained(config):
  """The teachers that were trained before the run: all frozen ones, and some
  that go on learning."""
  return {n: t for n, t in config.teachers.items() if t.kind == 'frozen'
          or t.kind == 'online' and (t.checkpoint or t.changes)}


def _member(config, name):
  return pool.trained_for(config, config.teachers[name].changes,
                          f'config.teachers.{name}.changes')


def _target(name: str, array: str, images, labels) -> np.ndarray:
  """float32 `[N, ...]`, what is known of each example."""
  fn = core.resolve(data, name, f'function (config.targets.{array})')
  return np.asarray(core.bind(fn, dict(images=images, labels=labels)),
                    np.float32)


def _check_cache(config):
  views = config.cache.views
  if views < 0:
    raise core.UserError(f'cache.views must be 0 or more, got {views}.')
  if views and (config.batch.mixup or config.batch.cutmix or config.augmentor):
    raise core.UserError('cache.views keeps what teachers say of each example '
                         'alone: mixup, cutmix and augmentor must be off.')
  if views and config.cache.dtype not in ('float16', 'float32'):
    raise core.UserError(core.nearest(
        'dtype (cache.dtype)', config.cache.dtype, ('float16', 'float32')))
  if config.targets and (config.batch.mixup or config.batch.cutmix):
    raise core.UserError('config.targets says what is known of one image: '
                         'mixup and cutmix must be off.')
  if views and any(t.corrupt for t in config.teachers.values()):
    raise core.UserError('teachers.X.corrupt needs cache.views 0.')


def _check_measures(config, session, info, frozen):
  """What is measured at the end is refused at the beginning."""
  for augment in config.shifts.values():
    data.parse_augment(augment.to_dict())
  if config.cka and not frozen:
    raise core.UserError('config.cka compares with a frozen teacher; there is '
                         'none.')
  part = lambda tree: train.part(tree, 'student')
  for pair in config.cka:
    for net, params, stats, have, tap in (
        (session.net, part(session.abstract.params),
         part(session.abstract.stats), info, pair[0]),
        (*frozen[0][:4], pair[1])):
      seen = models.taps(net, params, stats, jax.ShapeDtypeStruct(
          (1, *have.input_shape), np.float32))
      if tap not in seen:
        raise core.UserError(core.nearest('tap (config.cka)', tap, seen))


def _taps(config, name):
  """What of a teacher's features the terms read."""
  is_it = lambda who: who.removesuffix('@clean') == name
  taps = set()
  for term in config.terms.values():
    if is_it(term.teacher):
      taps |= {*train.as_tuple(term.teacher_taps or term.taps)}
    if is_it(term.learner):
      taps |= {*train.as_tuple(term.taps)}
  return sorted(taps)


def _cached_shapes(config, teachers):
  """Teacher -> array -> shape of an example's, if they are cached."""
  if not config.cache.views:
    return {}
  found = {}
  for name, t in teachers.items():
    if config.teachers[name].kind != 'frozen':
      continue
    x = jax.ShapeDtypeStruct((1, *t.info.input_shape), np.float32)
    seen = models.taps(t.net, t.params, t.stats, x)
    for tap in _taps(config, name):
      if tap not in seen:
        raise core.UserError(core.nearest(f'tap of {name}', tap, seen))
    if not 0 <= config.cache.top_k < t.info.classes:
      raise core.UserError(f'cache.top_k must be from 0 to less than the '
                           f'{t.info.classes} classes of {name}, got '
                           f'{config.cache.top_k}.')
    found[name] = dict(logits=(t.info.classes,)) | {
        tap: seen[tap].shape[1:] for tap in _taps(config, name)}
  return found


def _caches(config, teachers, splits):
  """What each teacher says of the training examples, written if need be."""
  folder, caches = config.cache, {}
  for name, t in teachers.items():
    if config.teachers[name].kind != 'frozen':
      continue
    taps = _taps(config, name)
    @jax.jit
    def outputs(images, t=t, taps=taps):
      out = models.apply(t.net, t.params, t.stats, data.normalize(
          images, t.info.mean, t.info.std), taps=taps)
      return dict(logits=out.logits) | out.features
    key = dict(teacher=t.digest, model=t.model, mean=t.info.mean,
               std=t.info.std, taps=taps, data=splits.info.fingerprint)
    settings = dict(views=folder.views, top_k=folder.top_k, dtype=folder.dtype,
                    seed=folder.seed,
                    augment=copy.deepcopy(config.batch.augment).to_dict())
    home = folder.folder or data.cache_dir() / 'teachers'
    caches[name] = data.write_cache(
        f'{home}/{name}-{checkpoint.config_hash(key | settings)}', outputs,
        splits.train, key=key, batch_size=config.eval_batch_size, name=name,
        **settings)
  return caches
