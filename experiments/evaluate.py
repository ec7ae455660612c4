"""Evaluates a checkpoint on a test split of images."""
import dataclasses

from kt_jax import checkpoint
from kt_jax import core
from kt_jax import data
from kt_jax import train
from kt_jax.data import Images


@dataclasses.dataclass(frozen=True)
class Spec:
  experiment: str = 'evaluate'
  paper: str = ''
  variant: str = ''
  data: Images = Images()
  checkpoint: str = ''  # workdir of a run, or a Hugging Face directory
  step: int = -1  # of the checkpoint; -1: the one that its card names
  batch_size: int = 250
  compute_dtype: str = 'float32'


def check(spec):
  _trained(spec)
  return []


def run(spec, workdir):
  """Writes `card.json` and `predictions.npz`; returns the metrics."""
  workdir = checkpoint.open_workdir(workdir, core.spec.to_json(spec))
  trained = _trained(spec)
  splits = data.load(spec.data)
  predict = train.make_predict(trained.net, trained.info,
                               compute_dtype=spec.compute_dtype)
  logits = train.predict_all(
      predict, trained.params, trained.stats, splits.test,
      batch_size=spec.batch_size, mesh=train.make_mesh())
  metrics = train.classification_metrics(logits, splits.test.labels)
  train.save_predictions(workdir, logits, splits.test)
  checkpoint.write_json(workdir / 'card.json', dict(
      kind='evaluation', status='finished', metrics=metrics,
      data=dataclasses.asdict(splits.info), code=checkpoint.code_version(),
      parents=[dict(source=trained.source, digest=trained.digest)]))
  return metrics


def _trained(spec):
  """The checkpoint, if it fits the data."""
  if not spec.checkpoint:
    raise core.UserError('checkpoint is empty: name what to evaluate '
                         '(--config.checkpoint=DIR).')
  trained = train.load_trained(
      spec.checkpoint, None if spec.step < 0 else spec.step)
  train.check_fits(trained.info, data.abstract(spec.data), trained.source)
  return trained
