"""Evaluates a checkpoint on a test split."""
import dataclasses
import json

from experiments import pretrain
from kt_jax import checkpoint
from kt_jax import core
from kt_jax import data
from kt_jax import train


def check(config):
  _trained(config)
  return []


def run(config, workdir):
  """Writes `card.json` and `predictions.npz`; returns the metrics."""
  workdir = checkpoint.open_workdir(workdir, json.loads(config.to_json()))
  trained = _trained(config)
  splits = data.load(config.data)
  predict = train.make_predict(trained.net, trained.info,
                               compute_dtype=config.compute_dtype)
  logits = train.predict_all(
      predict, trained.params, trained.stats, splits.test,
      batch_size=config.eval_batch_size, mesh=train.make_mesh())
  metrics = train.classification_metrics(logits, splits.test.labels)
  pretrain.save_predictions(workdir, logits, splits.test)
  checkpoint.write_json(workdir / 'card.json', dict(
      kind='evaluation', status='finished', metrics=metrics,
      data=dataclasses.asdict(splits.info), code=checkpoint.code_version(),
      parents=[dict(source=trained.source, digest=trained.digest)]))
  return metrics


def _trained(config):
  """The checkpoint, if it fits the data."""
  if not config.checkpoint:
    raise core.UserError('checkpoint is empty: name what to evaluate '
                         '(--config.checkpoint=DIR).')
  trained = train.load_trained(
      config.checkpoint, None if config.step < 0 else config.step)
  train.check_fits(trained.info, data.abstract(config.data), trained.source)
  return trained
