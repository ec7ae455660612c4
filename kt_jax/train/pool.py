"""Pretrained models: trained once, kept by content, shared by runs."""
from collections.abc import Callable, Mapping
import dataclasses
import pathlib
from typing import Any, Protocol

from etils import epath
import jax

import kt_jax
from kt_jax import checkpoint
from kt_jax import core
from kt_jax import data
from kt_jax import models
from kt_jax.train import networks
from kt_jax.train import specs
from kt_jax.train.pretrained import load_trained
from kt_jax.train.pretrained import Trained


class Pooled(Protocol):
  """A spec with pretrained models: `Training`, or that of an experiment."""
  @property
  def pool(self) -> Mapping[str, specs.Pretrained]: ...
  @property
  def pretrain(self) -> specs.Training | None: ...
  @property
  def pool_dir(self) -> str: ...


def training_of(spec: Pooled, name: str) -> specs.Training:
  """The spec that trains an entry of `spec.pool`; `init_from` is not set yet.

  Its data are where those of `spec` are, unless it names a place.
  """
  if name not in spec.pool:
    raise core.UserError(core.nearest('pretrained model (config.pool)', name,
                                      spec.pool))
  entry, where = spec.pool[name], f'config.pool.{name}.changes'
  return changed(spec, entry, where, lambda start: training_of(spec, start))


def changed(spec, entry: specs.Pretrained, where: str,
            of: Callable[[str], specs.Training]) -> specs.Training:
  """`spec.pretrain` with the changes of an entry."""
  if spec.pretrain is None:
    raise core.UserError(f'{where}: config.pretrain is not set.')
  base, changes = spec.pretrain, dict(entry.changes)
  if 'domains' in dict(changes.get('data', {})):  # in place of the others
    base = dataclasses.replace(base, data=dataclasses.replace(
        base.data, domains={}))
  new = core.spec.change(base, changes, where)
  if not new.data.data_dir:
    new = dataclasses.replace(new, data=dataclasses.replace(
        new.data, data_dir=spec.data.data_dir))
  if entry.by_seed:
    new = dataclasses.replace(new, seed=spec.seed)
  if entry.init_from and 'model' not in changes:
    new = dataclasses.replace(new, model=of(entry.init_from).model)
  return new


def load(spec: Pooled, name: str | Trained, workdir=None, run=None,
         step: int = -1) -> Trained:
  """A model: a key of `spec.pool`, trained if need be, or a checkpoint.

  Args:
    spec: of a run.
    name: key or path; a model is returned as it is.
    workdir: of the run; None: shapes alone of what may not be trained yet.
    run: `train.run`.
    step: of the checkpoint; -1: the one that its card names.
  """
  if isinstance(name, Trained):
    return name
  entry, at = spec.pool.get(name), None if step < 0 else step
  if entry is None or entry.checkpoint:
    return load_trained(entry.checkpoint if entry else name, at)
  if workdir is None:
    return abstract(training_of(spec, name), name)
  return load_trained(path(spec, name, workdir, run), at)


def path(spec: Pooled, name: str, workdir, run) -> epath.Path:
  """The workdir of an entry of the pool, trained if it is not there."""
  training, start = training_of(spec, name), spec.pool[name].init_from
  content = {}
  if start:
    before = path(spec, start, workdir, run)
    training = dataclasses.replace(training, init_from=str(before))
    content = dict(init_from=before.name)
  return trained(name, training, home(spec.pool_dir, workdir), run, **content)


def abstract(training: specs.Training, name: str) -> Trained:
  """A model that may not be trained yet: shapes alone."""
  info = abstract_data(training.data)
  build = networks.student_builder(training, info)
  net = models.abstract(build)
  params, stats = jax.eval_shape(lambda: models.arrays(net, build()))
  return Trained(net, params, stats, info, core.spec.to_dict(training.model),
                 '', f'pool {name}')


def abstract_data(spec: data.Images | data.Text) -> data.Info:
  """What is known of a data set from headers."""
  return data.abstract_text(spec) if isinstance(spec, data.Text) else (
      data.abstract(spec))


def load_data(spec: data.Images | data.Text) -> data.Splits:
  """The splits of a data set."""
  return data.load_text(spec) if isinstance(spec, data.Text) else (
      data.load(spec))


def order_of(spec: Pooled, names) -> list[str]:
  """Entries of the pool among `names` and what they start from, those first."""
  order = []
  for name in names:
    chain = []
    while name in spec.pool:
      if name in chain:
        raise core.UserError(f'config.pool.{name} starts from itself.')
      chain.append(name)
      name = spec.pool[name].init_from
    if name and chain:
      raise core.UserError(core.nearest(
          f'pretrained model (config.pool.{chain[-1]}.init_from)', name,
          spec.pool))
    order += [n for n in chain[::-1] if n not in order]
  return [n for n in order if not spec.pool[n].checkpoint]


def home(given: str, workdir) -> epath.Path:
  """Where models that are trained for a run are kept, for other runs too."""
  if given or jax.process_count() == 1:
    return epath.Path(given or data.cache_dir() / 'pool')
  return epath.Path(workdir) / 'pool'  # which all processes see


def trained(name: str, training: specs.Training, folder: epath.Path, run,
            **content: Any) -> epath.Path:
  """Trains a model unless that was done; its workdir.

  The name of the workdir is derived from the spec, the data and the version.

  Args:
    name: of the model.
    training: its spec.
    folder: of the pool.
    run: `train.run`.
    **content: fields of the spec that stand for something else, such as a
      checkpoint for what is in it.
  """
  key = core.spec.to_json(training) | content | dict(
      kt_jax=kt_jax.__version__,
      fingerprint=load_data(training.data).info.fingerprint)
  place = folder / f'{name}-{checkpoint.config_hash(key)}'
  if jax.process_count() > 1:
    run(training, place)
    return place
  folder.mkdir(parents=True, exist_ok=True)
  # Another run may be training it now.
  with data.lock(pathlib.Path(folder) / f'.{place.name}.lock'):
    run(training, place)
  return place


def card_of(trained_model: Trained) -> Mapping[str, str]:
  """What a card says about a parent."""
  return dict(source=trained_model.source, digest=trained_model.digest)
