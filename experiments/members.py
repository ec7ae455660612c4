"""Decoders that a config names: given, or trained once and kept."""
import copy
import json

import jax

from experiments import pool
from experiments import pretrain_lm
from kt_jax import core
from kt_jax import data
from kt_jax import models
from kt_jax import train

_CHECKED = {}


def member_config(config, name: str):
  """The config of `pretrain_lm` that trains a member; no start yet."""
  if name not in config.members:
    raise core.UserError(core.nearest('member', name, config.members))
  spec = config.members[name]
  changes = copy.deepcopy(spec.changes).unlock()
  domains = None
  if 'domains' in changes.get('data', {}):  # in place of those, not beside them
    domains = changes.data.domains
    del changes.data.domains
  found = pool.trained_for(config, changes, f'config.members.{name}.changes')
  with found.unlocked():
    if domains is not None:
      found.data.domains = domains
    if spec.by_seed:
      found.seed = config.seed
    if spec.start and 'model' not in spec.changes:
      found.model = member_config(config, spec.start).model
  return found


def path(config, name: str, workdir):
  """The workdir of a member, trained if it is not there."""
  found, spec = member_config(config, name), config.members[name]
  before = {}
  if spec.start:
    start = path(config, spec.start, workdir)
    found.start, before = str(start), dict(start=start.name)
  return pool.trained(name, found, pool.home(config.pool_dir, workdir),
                      run=pretrain_lm.run, load=data.load_text, **before)


def abstract(config, name: str) -> train.Trained:
  """A member that may not be trained yet: shapes alone."""
  found = member_config(config, name)
  info = data.abstract_text(found.data)
  build = models.builder(
      found.model.name, classes=info.classes, input_shape=info.input_shape,
      seed=found.seed, **found.model.kw)
  net = models.abstract(build)
  return train.Trained(net, *jax.eval_shape(lambda: models.arrays(
      net, build())), info, found.model.to_dict(), '', f'member {name}')


def load(config, given: str, workdir=None) -> train.Trained:
  """A member by name, or a checkpoint by path; without a workdir, shapes."""
  if given not in config.members:
    return train.load_trained(given)
  if workdir is None:
    return abstract(config, given)
  return train.load_trained(path(config, given, workdir))


def check(config, names) -> list[train.Report]:
  """Reports of those that would be trained, each once."""
  order = []
  for name in names:
    while name:
      if name not in config.members:
        raise core.UserError(core.nearest('member', name, config.members))
      if name not in order:
        order.append(name)
      name = config.members[name].start
  reports = []
  for name in order[::-1]:
    key = json.dumps([config.pretrain.to_json(), config.members.to_json(), name,
                      config.seed])
    if key not in _CHECKED:  # arms of a comparison have them in common
      start = config.members[name].start
      _CHECKED[key] = [
          r._replace(name=f'pretrain {name}') for r in pretrain_lm.check(
              member_config(config, name),
              abstract(config, start) if start else None)]
    reports += _CHECKED[key]
  return reports
