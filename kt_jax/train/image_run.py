"""What is particular to a training run on images: data, caches, metrics."""
from collections.abc import Mapping
import dataclasses
import io
from typing import Any

import jax
from jax import numpy as jnp
import numpy as np

from kt_jax import checkpoint
from kt_jax import core
from kt_jax import data
from kt_jax import losses
from kt_jax import models
from kt_jax import scores
from kt_jax.train import graph as graphs
from kt_jax.train import mesh as meshes
from kt_jax.train import specs
from kt_jax.train.evaluate import classification_metrics
from kt_jax.train.evaluate import make_predict
from kt_jax.train.evaluate import predict_all
from kt_jax.train.pretrained import Trained
from kt_jax.train.session import Session
from kt_jax.train.specs import STUDENT

CKA_EXAMPLES = 1000  # of the test set


class ImageRun:
  """Splits of images, and a student and its teachers measured on them."""

  def __init__(self, spec: specs.Training, splits: data.Splits,
               teachers: Mapping[str, Trained]):
    self.spec, self.splits = spec, splits
    self.teachers = {n: t for n, t in teachers.items()
                     if spec.teachers[n].kind == 'frozen'}
    self.validates = len(splits.validation.labels) > 0
    self.best = 'accuracy' if self.validates else ''
    self.teacher_logits = {n: self._logits_of(n, t)
                           for n, t in self.teachers.items()}

  def _logits_of(self, name, trained):
    logits = predict_all(
        make_predict(trained.net, trained.info), trained.params, trained.stats,
        self.splits.test, batch_size=self.spec.evaluate.batch_size)
    if not np.isfinite(logits).all():
      raise core.UserError(
          f'The logits of teacher {name} ({trained.source}) are not finite on '
          f'{int((~np.isfinite(logits)).any(-1).sum())} of {len(logits)} '
          'test examples: name another checkpoint.')
    classes = list(self.spec.teachers[name].classes)
    return logits[:, classes] if classes else logits

  @staticmethod
  def refuse(spec: specs.Training, info: data.Info) -> None:
    """Refuses settings that contradict one another."""
    check_cache(spec)
    if spec.bilevel.module and not info.sizes['validation']:
      raise core.UserError('bilevel needs held-out examples: set '
                           'data.validation.')
    for augment in spec.evaluate.corruptions.values():
      data.parse_augment(augment)

  # What `make_session` needs.

  def session_kw(self) -> dict[str, Any]:
    spec, train = self.spec, self.splits.train
    held_out = None
    if spec.bilevel.module:
      held_out = dict(images=np.asarray(self.splits.validation.images),
                      labels=self.splits.validation.labels)
    targets = {n: target(fn, n, np.asarray(train.images), train.labels)
               for n, fn in spec.targets.items()}
    return dict(targets=targets, held_out=held_out,
                cached=cached_shapes(spec, self.teachers))

  @staticmethod
  def abstract_kw(spec: specs.Training, info: data.Info, teachers
                 ) -> dict[str, Any]:
    """As `session_kw`, shapes alone."""
    few = np.zeros((2, *info.input_shape), np.uint8)
    targets = {n: jax.ShapeDtypeStruct(
        (info.sizes['train'], *np.shape(target(
            fn, n, few, np.zeros(2, np.int32)))[1:]), np.float32)
               for n, fn in spec.targets.items()}
    rows = info.sizes['validation']
    held_out = dict(
        images=jax.ShapeDtypeStruct((rows, *info.input_shape), np.uint8),
        labels=jax.ShapeDtypeStruct((rows,), np.int32))
    frozen = {n: t for n, t in teachers.items()
              if spec.teachers[n].kind == 'frozen'}
    return dict(targets=targets, held_out=held_out,
                cached=cached_shapes(spec, frozen))

  @staticmethod
  def check(spec: specs.Training, session: Session, info: data.Info, teachers):
    """Refuses measurements at the end that cannot be made."""
    frozen = [t for n, t in teachers.items()
              if spec.teachers[n].kind == 'frozen']
    if spec.evaluate.cka and not frozen:
      raise core.UserError('config.evaluate.cka compares with a frozen teacher:'
                           ' name one.')
    for pair in spec.evaluate.cka:
      for net, params, stats, known, tap in (
          (session.net, session.abstract.params[STUDENT],
           session.abstract.stats[STUDENT], info, pair[0]),
          (*frozen[0][:4], pair[1])):
        paths = models.taps(net, params, stats, jax.ShapeDtypeStruct(
            (1, *known.input_shape), np.float32))
        if tap not in paths:
          raise core.UserError(core.nearest('tap (config.evaluate.cka)', tap,
                                            paths))

  # The run.

  def card(self) -> dict[str, Any]:
    return {}

  def stream(self, session: Session):
    """Batches, with cached outputs of the teachers joined."""
    spec = self.spec
    caches = {n: write_cache(spec, n, t, self.splits)
              for n, t in self.teachers.items()} if spec.cache.views else {}
    return open_stream(spec, self.splits.train, session.mesh, caches)

  def until(self, session, state, stream, writer, step) -> int:
    """Step at which the loop returns."""
    return self.spec.loop.steps

  def validate(self, session: Session, model) -> dict[str, float]:
    return self._scores(session, model, self.splits.validation)[0]

  def _scores(self, session, model, arrays):
    logits = predict_all(
        session.predict, model['params'], model['stats'], arrays,
        batch_size=self.spec.evaluate.batch_size, mesh=session.mesh)
    return classification_metrics(logits, arrays.labels), logits

  def test(self, session: Session, model, state, workdir) -> dict[str, float]:
    """Test metrics of the student; those of networks that learn too are of the
    last step. Writes `predictions.npz`."""
    test, size = self.splits.test, self.spec.evaluate.batch_size
    metrics, predictions = self._scores(session, model, test)
    save_predictions(workdir, predictions, test)
    logits = jnp.asarray(predictions)
    if logits.shape[-1] > 5:
      metrics['top5_accuracy'] = float(
          scores.top_k_accuracy(logits, test.labels, k=5))
    for name, teacher in self.teacher_logits.items():
      teacher = jnp.asarray(teacher)
      metrics |= {
          f'{name}_accuracy': float(scores.accuracy(teacher, test.labels)),
          f'{name}_agreement': float(scores.agreement(logits, teacher)),
          f'{name}_kl': float(scores.fidelity(logits, teacher)),
          f'{name}_positive_flips': float(
              scores.rho_positive(teacher, logits, test.labels)),
          f'{name}_negative_flips': float(
              scores.rho_negative(teacher, logits, test.labels))}
    for name, network in session.graph.networks.items():
      if network.kind == 'online':
        peer = predict_all(
            make_predict(session.graph.net(name), dataclasses.replace(
                self.splits.info, mean=network.mean, std=network.std)),
            state.params[name], state.stats[name], test, batch_size=size,
            mesh=session.mesh)
        metrics |= {f'{name}_{k}': v for k, v in classification_metrics(
            peer, test.labels).items()}
    metrics |= self._shifted(session, model)
    for ours, theirs in self.spec.evaluate.cka:
      metrics[f'cka {ours} {theirs}'] = self._cka(session, model, ours, theirs)
    count = lambda names: sum(
        x.size for n in names for x in state.params[n].values())
    return metrics | dict(
        parameters=count([STUDENT]),
        trained_besides=count(set(state.params) - {STUDENT}))

  def _shifted(self, session, model) -> dict[str, float]:
    """Accuracy on augmented test sets."""
    metrics, test = {}, self.splits.test
    for name, augment in self.spec.evaluate.corruptions.items():
      moved = data.augmented(test, augment, seed=0)
      logits = predict_all(
          session.predict, model['params'], model['stats'], moved,
          batch_size=self.spec.evaluate.batch_size, mesh=session.mesh)
      metrics[f'{name}_accuracy'] = float(
          scores.accuracy(jnp.asarray(logits), test.labels))
    return metrics

  def _cka(self, session, model, ours, theirs) -> float:
    """Debiased linear CKA of taps of the student and of the first teacher."""
    images = jnp.asarray(self.splits.test.images[:CKA_EXAMPLES])
    teacher = next(iter(self.teachers.values()))
    def tap(net, params, stats, info, name):
      x = data.normalize(images, info.mean, info.std)
      out = jax.jit(lambda p, s, x: models.apply(net, p, s, x, taps=(name,)))(
          params, stats, x).features[name]
      return out.reshape(len(out), -1)
    a = tap(session.net, model['params'], model['stats'], self.splits.info,
            ours)
    b = tap(teacher.net, teacher.params, teacher.stats, teacher.info, theirs)
    return 1 - float(jnp.mean(losses.cka(a, b, debiased=True)))


def open_stream(spec: specs.Training, arrays: data.Arrays, mesh, caches=()):
  """The batches of a run that this process loads."""
  return data.stream(
      arrays, batch_size=spec.batch.size, seed=spec.seed,
      augment=spec.batch.augment, views=spec.cache.views,
      view_seed=spec.cache.seed, rows=meshes.rows(mesh, spec.batch.size),
      lookup=data.attach_cached(caches) if caches else None)


def save_predictions(workdir, logits, arrays) -> None:
  """`predictions.npz`: logits `[N, K]`, labels and ids of the test split."""
  buffer = io.BytesIO()
  np.savez(buffer, logits=logits, labels=arrays.labels, ids=arrays.ids)
  checkpoint.write_atomic(workdir / 'predictions.npz', buffer.getvalue())


def target(fn, array: str, images, labels) -> np.ndarray:
  """float32 `[N, ...]`, an array of `config.targets` for some examples."""
  fn = fn if callable(fn) else core.resolve(
      data, fn, f'function (config.targets.{array})')
  return np.asarray(core.bind(fn, dict(images=images, labels=labels)),
                    np.float32)


# Caches of teachers.


def check_cache(spec: specs.Training) -> None:
  """Refuses a cache of outputs that differ from step to step."""
  mixed = spec.batch.mixup or spec.batch.cutmix
  if spec.cache.views < 0:
    raise core.UserError('cache.views must be 0 or more, got '
                         f'{spec.cache.views}.')
  if spec.cache.views and (mixed or spec.augmentor):
    raise core.UserError('cache.views keeps the outputs of teachers for each '
                         'example alone: mixup, cutmix and augmentor must be '
                         'off.')
  if spec.targets and mixed:
    raise core.UserError('config.targets are known of single images: mixup and '
                         'cutmix must be off.')
  if spec.cache.views and any(t.permute_logits for t in spec.teachers.values()):
    raise core.UserError('teachers.X.permute_logits needs cache.views 0.')


def cached_shapes(spec: specs.Training, teachers: Mapping[str, Trained]
                 ) -> dict[str, dict[str, jax.ShapeDtypeStruct]]:
  """Teacher -> array -> shape of what its cache holds of an example."""
  shapes = {}
  for name, t in teachers.items() if spec.cache.views else ():
    taps = graphs.taps_of(spec.terms, name)
    outputs = models.taps(t.net, t.params, t.stats, jax.ShapeDtypeStruct(
        (1, *t.info.input_shape), np.float32)) if taps else {}
    for tap in taps:
      if tap not in outputs:
        raise core.UserError(core.nearest(f'tap of {name}', tap, outputs))
    shapes[name] = data.Layout(
        dict(logits=(t.info.classes,)) | {
            tap: outputs[tap].shape[1:] for tap in taps},
        spec.cache.dtype, kept(spec, name, t)).shapes()
  return shapes


def kept(spec: specs.Training, name: str, trained: Trained) -> int:
  """`cache.top_k`, if the teacher has so many classes and more."""
  if not 0 <= spec.cache.top_k < trained.info.classes:
    raise core.UserError(f'cache.top_k must be from 0 to less than the '
                         f'{trained.info.classes} classes of {name}, got '
                         f'{spec.cache.top_k}.')
  return spec.cache.top_k


def write_cache(spec: specs.Training, name: str, t: Trained,
                splits: data.Splits) -> data.TeacherCache:
  """Outputs of a teacher for the training examples, written if need be."""
  text, taps = isinstance(spec.data, data.Text), []
  if text:
    @jax.jit
    def run(tokens, segments):
      return dict(logits=models.call(t.net, t.params, t.stats, lambda m: m(
          tokens, segments))[0])
    outputs = lambda batch: run(batch['tokens'], batch['segments'])
  else:
    taps = graphs.taps_of(spec.terms, name)
    @jax.jit
    def apply(images):
      out = models.apply(t.net, t.params, t.stats, data.normalize(
          images, t.info.mean, t.info.std), taps=taps)
      return dict(logits=out.logits) | out.features
    outputs = lambda batch: apply(batch['images'])
  key = dict(teacher=t.digest, model=t.model, mean=t.info.mean,
             std=t.info.std, taps=taps, data=splits.info.fingerprint)
  cache = spec.cache
  settings = dict(views=cache.views, top_k=cache.top_k, dtype=cache.dtype,
                  seed=cache.seed, augment=dict(spec.batch.augment))
  home = cache.folder or data.cache_dir() / 'teachers'
  return data.write_cache(
      f'{home}/{name}-{checkpoint.config_hash(key | settings)}', outputs,
      splits.train, key=key, batch_size=spec.evaluate.batch_size, name=name,
      **settings)
