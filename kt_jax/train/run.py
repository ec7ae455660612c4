"""A training run: from its spec to a checkpoint, a card and test metrics."""
from collections.abc import Mapping
import dataclasses
from typing import Any, NamedTuple

import jax
import numpy as np

from kt_jax import checkpoint
from kt_jax import core
from kt_jax import data
from kt_jax.train import image_run
from kt_jax.train import loop
from kt_jax.train import mesh as meshes
from kt_jax.train import plots
from kt_jax.train import pool
from kt_jax.train import session as sessions
from kt_jax.train import specs
from kt_jax.train import text_run
from kt_jax.train.networks import check_vocabulary
from kt_jax.train.pretrained import check_fits
from kt_jax.train.pretrained import Trained
from kt_jax.train.session import Report
from kt_jax.train.writer import Writer

# Key -> (spec, its reports), in this process. Functions have their address in a
# key: while a spec is kept, no other one can have it.
_CHECKED: dict[str, tuple[specs.Training, list[Report]]] = {}


def run(spec: specs.Training | Mapping[str, Any], workdir) -> dict[str, float]:
  """Trains, or resumes, or returns at once what a finished run measured.

  Args:
    spec: of the run.
    workdir: where it is kept: `config.json`, `card.json`, checkpoints, metrics.

  Returns:
    Test metrics of the best checkpoint by validation accuracy (images with a
    validation set), else of the last.

  Raises:
    UserError: something in the spec does not exist or fit, before any training;
      the workdir belongs to another run; a loss is not finite.

  Example:
    spec = train.Training(
        model=train.Model('mlp', dict(width=32)),
        terms=dict(task=train.LossTerm('cross_entropy')),
        loop=train.Loop(steps=200))
    metrics = train.run(spec, '/tmp/digits')
  """
  spec = specs.as_training(spec)
  plain = core.spec.to_json(spec)
  workdir = checkpoint.open_workdir(workdir, plain)
  done = finished(workdir)
  if done:
    return done['metrics']
  kind, session, parents = prepare(spec, workdir)
  card = dict(kind='run', status='running', method=spec.experiment,
              parents=[pool.card_of(t) for t in parents], model=plain['model'],
              data=dataclasses.asdict(kind.splits.info),
              config=checkpoint.config_hash(plain),
              code=checkpoint.code_version()) | kind.card()
  open_card(workdir, card)

  stream = kind.stream(session)
  with checkpoint.Run(workdir, keep=spec.loop.keep, best=kind.best,
                      config=card['config']) as saver:
    state = loop.resume(saver, session.init(), stream)
    with Writer(workdir, resumed_at=int(state.step)) as writer:
      while (step := int(state.step)) < spec.loop.steps:
        state = loop.fit(
            session.step, state, stream, session.inputs,
            steps=kind.until(session, state, stream, writer, step),
            shard_batch=meshes.make_shard_batch(session.mesh),
            log_every=spec.loop.log_every, save_every=spec.loop.save_every,
            evaluate=kind.validates and (
                lambda s: kind.validate(session, loop.to_items(s)[0])),
            run=saver, writer=writer, name=model_name(spec))
      saver.wait()
      model, training = loop.to_items(state)
      step = saver.best_step() or spec.loop.steps
      if step != spec.loop.steps:
        model = saver.at(step, model, training).model
      metrics = kind.test(session, model, state, workdir)
      writer.write(step, 'test', metrics)
  if jax.process_index() == 0:
    plots.curves(workdir)
  checkpoint.write_json(workdir / 'card.json', card | dict(
      status='finished', step=step, metrics=metrics,
      digest=checkpoint.digest(model)))
  return metrics


class Prepared(NamedTuple):
  """Everything of a run before its first step."""
  kind: Any  # an ImageRun or TextRun: `stream(session)`, `test(...)`
  session: sessions.Session
  parents: list[Trained]  # models that it learns or starts from


def prepare(spec: specs.Training, workdir) -> Prepared:
  """Loads the data, pretrains what is missing in the pool, and compiles.

  Args:
    spec: of the run.
    workdir: of the run.

  Raises:
    UserError: as `run`.
  """
  if _pool_names(spec):
    check(spec)  # names and shapes first: pretraining may take long
  _kind(spec).refuse(spec, pool.abstract_data(spec.data))
  splits = pool.load_data(spec.data)
  get = lambda name, step=-1: pool.load(spec, name, workdir, run, step)
  teachers = {name: get(t.init_from) for name, t in spec.teachers.items()
              if t.init_from}
  start = get(spec.init_from, spec.init.step) if spec.init_from else None
  splits = splits._replace(info=_as_known(spec, splits.info, start))
  kind = _kind(spec)(spec, splits, teachers)
  session = sessions.make_session(
      spec, splits.info, teachers, start=_fitting(start, splits.info),
      **kind.session_kw())
  kind.check(spec, session, splits.info, teachers)
  # Constants lie on the mesh once, not again at each step.
  replicated = jax.sharding.NamedSharding(
      session.mesh, jax.sharding.PartitionSpec())
  session = session._replace(inputs=session.inputs._replace(
      constants=jax.device_put(session.inputs.constants, replicated)))
  return Prepared(kind, session,
                  [*teachers.values()] + ([start] if start else []))


def check(spec: specs.Training | Mapping[str, Any]) -> list[Report]:
  """Traces one step of a run and of what it pretrains; computes nothing.

  Raises:
    UserError: what is wrong with the spec.
  """
  spec = specs.as_training(spec)
  key = _key(spec)
  if key not in _CHECKED:
    reports = check_pool(spec, _pool_names(spec))
    start = pool.load(spec, spec.init_from, step=spec.init.step) if (
        spec.init_from) else None
    _CHECKED[key] = spec, reports + _check(spec, start)
  return _CHECKED[key][1]


def _key(spec, start=None) -> str:
  """Key of a check: shapes are the same for every seed."""
  return repr((dataclasses.replace(spec, seed=0), start))


def check_pool(spec, names) -> list[Report]:
  """Reports of the pretraining of entries of `spec.pool`, each once."""
  reports = []
  for name, entry in spec.pool.items():  # those that nothing uses, too
    if not entry.checkpoint:
      pool.training_of(spec, name)
  for name in pool.order_of(spec, names):
    start = spec.pool[name].init_from
    reports += [r._replace(name=f'pretrain {name}') for r in _check(
        pool.training_of(spec, name),
        pool.load(spec, start) if start else None)]
  return reports


def _check(spec, start) -> list[Report]:
  """Reports of one run; `start` may be abstract."""
  key = _key(spec, start and start.source)
  if key not in _CHECKED:
    info = _as_known(spec, pool.abstract_data(spec.data), start)
    teachers = {name: pool.load(spec, t.init_from)
                for name, t in spec.teachers.items() if t.init_from}
    kind = _kind(spec)
    kind.refuse(spec, info)
    session = sessions.make_session(
        spec, info, teachers, start=_fitting(start, info),
        **kind.abstract_kw(spec, info, teachers))
    kind.check(spec, session, info, teachers)
    _CHECKED[key] = spec, [sessions.describe(model_name(spec), session,
                                             spec.loop.steps)]
  return _CHECKED[key][1]


def _kind(spec):
  """What is particular to the data of a spec."""
  return (text_run.TextRun if isinstance(spec.data, data.Text)
          else image_run.ImageRun)


def model_name(spec: specs.Training) -> str:
  """Of the student, for progress and reports."""
  return str(core.spec.to_dict(spec.model.name))


def _pool_names(spec) -> list[str]:
  """Entries of the pool that a run uses."""
  names = [spec.init_from, *(t.init_from for t in spec.teachers.values())]
  names = [n for n in names if isinstance(n, str) and n in spec.pool]
  return list(dict.fromkeys(names))


def _as_known(spec, info: data.Info, start) -> data.Info:
  """`info`; images normalized as the model that the student starts from."""
  if start is None or isinstance(spec.data, data.Text) or spec.data.mean:
    return info
  return dataclasses.replace(info, mean=start.info.mean, std=start.info.std)


def _fitting(start, info: data.Info):
  """`start`, or an error if it reads other inputs than the data."""
  if start is None:
    return None
  if len(info.input_shape) == 1:
    check_vocabulary(start.source, start.info, info)
  elif start.info.input_shape != info.input_shape:
    check_fits(dataclasses.replace(start.info, classes=info.classes), info,
               start.source)
  return start


def open_card(workdir, card) -> None:
  """Writes the card of a run that begins.

  Raises:
    UserError: the run began with other data, teachers or another start.
  """
  path = workdir / 'card.json'
  if not path.exists():
    checkpoint.write_json(path, card)
    return
  before = checkpoint.read_json(path)
  for what, of in (('data', lambda c: [c['data']['fingerprint']]),
                   ('pretrained models', lambda c: [
                       parent['digest'] for parent in c['parents']])):
    if of(before) != of(card):
      raise core.UserError(
          f'{workdir} was begun on other {what} ({", ".join(of(before))}, now '
          f'{", ".join(of(card))}). Restore them or name a new --workdir.')


def finished(workdir) -> dict[str, Any] | None:
  """The card of a run that is finished, else None."""
  path = workdir / 'card.json'
  card = checkpoint.read_json(path) if path.exists() else {}
  return card if card.get('status') == 'finished' else None


def right(logits: np.ndarray, labels: np.ndarray) -> int:
  """How many predictions are right; NaN is not."""
  defined = ~np.isnan(logits).any(-1)
  return int((defined & (logits.argmax(-1) == labels)).sum())
