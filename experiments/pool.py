"""Models that others learn from: given as checkpoints, or trained and kept."""
import copy
import json
from typing import NamedTuple

from etils import epath
import jax
import numpy as np

from experiments import pretrain
import kt_jax
from kt_jax import checkpoint
from kt_jax import core
from kt_jax import data
from kt_jax import train


class Member(NamedTuple):
  """A model of the pool."""
  trained: train.Trained
  predict: object  # jitted (params, stats, images) -> logits
  test: np.ndarray  # [N, K] logits before any transfer
  validation: float  # accuracy on what was held out of the transfer data


def members(config):
  """Name -> checkpoint directory, or the config that trains the member."""
  return {name: changes.get('checkpoint') or trained_for(
      config, changes, f'config.pool.{name}')
          for name, changes in config.pool.items()}


def trained_for(config, changes, where: str):
  """`config.pretrain` with `changes`; its data are where those of `config` are,
  if it does not say."""
  found = changed(config.pretrain, changes, where)
  found.data.data_dir = found.data.data_dir or config.data.data_dir
  return found


def changed(base, changes, where: str):
  """A copy of the config `base` with `changes`; none of them is unknown."""
  changes, found = changes.to_dict(), copy.deepcopy(base).unlock()
  _refuse_unknown(changes, found, where)
  if 'model' in changes:  # not merged: settings of another model do not fit
    found.model = dict(kw={}) | changes.pop('model')
  try:
    found.update(changes)
  except TypeError as e:  # a number where a list stands
    raise core.UserError(f'{where}: {e}') from e
  return found


def _refuse_unknown(changes, known, where):
  """Names a key of `changes` that a config does not have."""
  for key, value in changes.items():
    if key not in known:
      raise core.UserError(core.nearest(f'key ({where})', key, known))
    if key == 'terms':
      for term, fields in value.items():
        if term not in known[key] and 'loss' not in fields:
          raise core.UserError(core.nearest(f'term ({where})', term,
                                            known[key]))
    if isinstance(value, dict) and key not in ('kw', 'augment', 'terms'):
      _refuse_unknown(value, known[key], f'{where}.{key}')


def load(config, splits, workdir):
  """Name -> Member; trains what is neither given nor in the cache."""
  folder = home(config.pool_dir, workdir)
  pool = {}
  for name, member in members(config).items():
    if not isinstance(member, str):
      member = trained(name, member, folder)
    model = train.load_trained(member)
    train.check_fits(model.info, splits.info, f'config.pool.{name}')
    predict = train.make_predict(model.net, model.info,
                                 compute_dtype=config.compute_dtype)
    logits = lambda arrays: train.predict_all(
        predict, model.params, model.stats, arrays,
        batch_size=config.eval_batch_size)
    held_out = splits.validation
    pool[name] = Member(
        model, predict, logits(splits.test),
        right(logits(held_out), held_out.labels) / len(held_out)
        if len(held_out) else 0.0)
  return pool


def home(given: str, workdir):
  """Where models that are trained for this run are kept, for others too."""
  if given or jax.process_count() == 1:
    return epath.Path(given or data.cache_dir() / 'pool')
  return epath.Path(workdir) / 'pool'  # which all processes see


def trained(name, config, folder, run=pretrain.run, load=data.load, **content):
  """Trains a model unless that was done: its workdir.

  The name of the workdir says config, data and version; `content` says what of
  the config stands for something else, such as a checkpoint for what is in it.
  """
  content = json.loads(config.to_json()) | content | dict(
      kt_jax=kt_jax.__version__,
      fingerprint=load(config.data).info.fingerprint)
  path = folder / f'{name}-{checkpoint.config_hash(content)}'
  if jax.process_count() > 1:
    run(config, path)
    return path
  folder.mkdir(parents=True, exist_ok=True)
  with data.lock(folder / f'.{path.name}.lock'):  # another run may train it now
    run(config, path)
  return path


def right(logits, labels) -> int:
  """How many are right; what is NaN is not."""
  defined = ~np.isnan(logits).any(-1)
  return int((defined & (logits.argmax(-1) == labels)).sum())
