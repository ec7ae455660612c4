"""Trains on from a checkpoint: all of it or a part, loaded and trained."""
import dataclasses
import re

from experiments import pretrain
from kt_jax import core
from kt_jax import data
from kt_jax import train


def check(config):
  if not config.init.checkpoint:
    raise core.UserError('init.checkpoint is empty: name the checkpoint to '
                         'start from (--config.init.checkpoint=DIR).')
  return [train.check(config, data.abstract(config.data),
                      trainable=config.init.train)]


def run(config, workdir):
  """`pretrain.run` from `config.init.checkpoint`; returns test metrics."""
  check(config)
  init = config.init
  trained = train.load_trained(
      init.checkpoint, None if init.step < 0 else init.step)

  def setup(config, splits, workdir):
    del workdir
    if not config.data.mean:  # inputs as the model knows them
      splits = splits._replace(info=dataclasses.replace(
          splits.info, mean=trained.info.mean, std=trained.info.std))
    session = train.make_session(config, splits.info, trainable=init.train)
    fresh = session.init()
    return pretrain.Setup(
        session, splits,
        train.open_stream(config, splits.train, session.mesh),
        start=(_load(fresh.params, trained.params, init.load, trained.source),
               _load(fresh.stats, trained.stats, init.load, trained.source)),
        parents=(dict(source=trained.source, digest=trained.digest),))

  return pretrain.run(config, workdir, setup)


def _load(fresh, old, pattern, source):
  """`fresh` with what `pattern` matches taken from `old`."""
  wanted = {n for n in fresh if re.search(pattern, n)}
  for name in wanted:
    if name not in old:
      raise core.UserError(
          core.nearest(f'array in {source} (init.load narrows what is taken)',
                       name, old))
    if old[name].shape != fresh[name].shape:
      raise core.UserError(
          f'{name} is {old[name].shape} in {source}, {fresh[name].shape} in '
          f'this model; leave it out with init.load (now {pattern!r}).')
  return {n: old[n] if n in wanted else fresh[n] for n in fresh}
