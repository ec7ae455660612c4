"""Trains a model on labels; `finetune` is the same from a warm start."""
from collections.abc import Callable
import dataclasses
import io
import json
from typing import Any, NamedTuple

import jax
import numpy as np

from kt_jax import checkpoint
from kt_jax import core
from kt_jax import data
from kt_jax import train


def check(config):
  return [train.check(config, data.abstract(config.data))]


class Setup(NamedTuple):
  """What is trained, on what."""
  session: train.Session
  splits: data.Splits
  stream: Any
  start: tuple = ()  # of `session.init`
  parents: tuple = ()  # cards of the checkpoints that it learns from
  # (model, test logits, state) -> more metrics
  measure: Callable[..., dict[str, float]] = lambda *_: {}


def supervised(config, splits, workdir) -> Setup:
  """A fresh model and labels."""
  del workdir
  session = train.make_session(config, splits.info)
  return Setup(session, splits,
               train.open_stream(config, splits.train, session.mesh))


def run(config, workdir, setup=supervised):
  """Trains, or resumes, or returns at once what a finished run found.

  Args:
    config: `configs.common.supervised()` and the like.
    workdir: of the run.
    setup: `(config, splits, workdir) -> Setup`.

  Returns:
    Test metrics of the best checkpoint by validation accuracy, or of the last
    where nothing was held out.
  """
  plain = json.loads(config.to_json())
  workdir = checkpoint.open_workdir(workdir, plain)
  done = finished(workdir)
  if done:
    return done['metrics']
  made = setup(config, data.load(config.data), workdir)
  session, splits, stream = made[:3]
  held_out = len(splits.validation.labels) > 0

  def scores(model, arrays):
    logits = train.predict_all(
        session.predict, model['params'], model['stats'], arrays,
        batch_size=config.eval_batch_size, mesh=session.mesh)
    return train.classification_metrics(logits, arrays.labels), logits

  card = dict(kind='run', status='running', method=config.experiment,
              parents=list(made.parents), model=plain['model'],
              data=dataclasses.asdict(splits.info),
              config=checkpoint.config_hash(plain),
              code=checkpoint.code_version())
  open_card(workdir, card)

  best = 'accuracy' if held_out else ''
  with checkpoint.Run(workdir, keep=config.loop.keep, best=best,
                      config=card['config']) as saver:
    state = session.init(*made.start)
    state = train.resume(saver, state, stream)
    with train.Writer(workdir, resumed_at=int(state.step)) as writer:
      state = train.fit(
          session.step, state, stream, session.settings,
          steps=config.loop.steps, put=train.putter(session.mesh),
          log_every=config.loop.log_every, save_every=config.loop.save_every,
          evaluate=held_out and (
              lambda s: scores(train.to_items(s)[0], splits.validation)[0]),
          run=saver, writer=writer, name=config.model.name)
      saver.wait()
      model, training = train.to_items(state)
      step = saver.best_step() or config.loop.steps
      if step != config.loop.steps:
        model = saver.at(step, model, training).model
      metrics, logits = scores(model, splits.test)
      metrics |= made.measure(model, logits, state)
      writer.write(step, 'test', metrics)
  save_predictions(workdir, logits, splits.test)
  if jax.process_index() == 0:
    train.curves(workdir)
  checkpoint.write_json(workdir / 'card.json', card | dict(
      status='finished', step=step, metrics=metrics,
      digest=checkpoint.digest(model)))
  return metrics


def open_card(workdir, card):
  """Writes the card of a run that begins; one that goes on has its data."""
  path, now = workdir / 'card.json', card['data']['fingerprint']
  if not path.exists():
    checkpoint.write_json(path, card)
    return
  before = checkpoint.read_json(path)['data']['fingerprint']
  if before != now:
    raise core.UserError(
        f'{workdir} was begun on other data (fingerprint {before}, now {now}). '
        'Restore them or name a new --workdir.')


def finished(workdir):
  """The card of a run that is finished, else None."""
  path = workdir / 'card.json'
  card = checkpoint.read_json(path) if path.exists() else {}
  return card if card.get('status') == 'finished' else None


def save_predictions(workdir, logits, arrays):
  """`predictions.npz`: logits `[N, K]`, labels and ids of the test split."""
  buffer = io.BytesIO()
  np.savez(buffer, logits=logits, labels=arrays.labels, ids=arrays.ids)
  checkpoint.write_atomic(workdir / 'predictions.npz', buffer.getvalue())
