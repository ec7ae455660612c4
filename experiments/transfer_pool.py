"""The pool of `transfer`: models given as checkpoints, or trained and kept."""
import copy
import json
from typing import NamedTuple

from etils import epath
import jax
import numpy as np

import kt_jax
from kt_jax import checkpoint
from kt_jax import core
from kt_jax import data
from kt_jax import train
from experiments import pretrain


class Member(NamedTuple):
  """A model of the pool."""
  trained: train.Trained
  predict: object  # jitted (params, stats, images) -> logits
  test: np.ndarray  # [N, K] logits before any transfer
  validation: float  # accuracy on what was held out of the transfer data


def members(config):
  """Name -> checkpoint directory, or the config that trains the member."""
  found = {}
  for name, changes in config.pool.items():
    changes = changes.to_dict()
    if changes.get('checkpoint'):
      found[name] = changes['checkpoint']
      continue
    member = copy.deepcopy(config.pretrain).unlock()
    _refuse_unknown(changes, member, f'config.pool.{name}')
    if 'model' in changes:  # not merged: settings of another model do not fit
      member.model = dict(kw={}) | changes.pop('model')
    member.update(changes)
    found[name] = member
  return found


def _refuse_unknown(changes, known, where):
  """Names a key of `changes` that a config does not have."""
  for key, value in changes.items():
    if key not in known:
      raise core.UserError(core.nearest(f'key ({where})', key, known))
    if isinstance(value, dict) and key not in ('kw', 'augment', 'terms'):
      _refuse_unknown(value, known[key], f'{where}.{key}')


def load(config, splits, workdir):
  """Name -> Member; trains what is neither given nor in the cache."""
  folder = epath.Path(config.pool_dir or (
      data.cache_dir() / 'pool' if jax.process_count() == 1
      else workdir / 'pool'))  # which all processes see
  pool = {}
  for name, member in members(config).items():
    if not isinstance(member, str):
      member = _train(name, member, folder)
    trained = train.load_trained(member)
    train.check_fits(trained.info, splits.info, f'config.pool.{name}')
    predict = train.make_predict(trained.net, trained.info,
                                 compute_dtype=config.compute_dtype)
    logits = lambda arrays: train.predict_all(
        predict, trained.params, trained.stats, arrays,
        batch_size=config.eval_batch_size)
    held_out = splits.validation
    pool[name] = Member(
        trained, predict, logits(splits.test),
        right(logits(held_out), held_out.labels) / len(held_out)
        if len(held_out) else 0.0)
  return pool


def _train(name, config, folder):
  """The workdir of a member; its name says config, data and version."""
  content = json.loads(config.to_json()) | dict(
      kt_jax=kt_jax.__version__,
      fingerprint=data.load(config.data).info.fingerprint)
  home = folder / f'{name}-{checkpoint.config_hash(content)}'
  if jax.process_count() > 1:
    pretrain.run(config, home)
    return home
  folder.mkdir(parents=True, exist_ok=True)
  with data.lock(folder / f'.{home.name}.lock'):  # another run may train it now
    pretrain.run(config, home)
  return home


def right(logits, labels) -> int:
  """How many are right; what is NaN is not."""
  defined = ~np.isnan(logits).any(-1)
  return int((defined & (logits.argmax(-1) == labels)).sum())
