"""Trains a language model on text; `distill_lm` adds whom it learns from."""
from collections.abc import Callable
import dataclasses
import json
from typing import Any, NamedTuple

from experiments import language_measure
from experiments import pretrain
from kt_jax import checkpoint
from kt_jax import core
from kt_jax import data
from kt_jax import models
from kt_jax import train


def check(config, start=None):
  """Traces a step; `start` stands for a checkpoint that is not there yet."""
  _only_labels(config)
  info, tokenizer = abstract(config)
  if config.start:
    start = train.load_trained(config.start)
  session, _, batch = train.make_language_session(
      config, info, start=fitting(start, info),
      stop=stop_of(tokenizer), pad=tokenizer.pad)
  return [describe(config, session, batch)]


class Setup(NamedTuple):
  """What is trained, on what."""
  session: train.Session
  splits: data.Splits
  tokenizer: data.Tokenizer
  parents: tuple = ()  # cards of the checkpoints that it learns from
  judges: tuple = ()  # `(name, score, model)`, who judge samples
  stream: Any = None  # None: of the config
  # (model, step, shares) -> the domains' shares of the next steps
  remix: Callable[..., dict[str, float]] | None = None


def setup(config, workdir) -> Setup:
  """A model and text."""
  del workdir
  _only_labels(config)
  splits, tokenizer = load(config)
  start = train.load_trained(config.start) if config.start else None
  session, _, _ = train.make_language_session(
      config, splits.info, start=fitting(start, splits.info),
      stop=stop_of(tokenizer), pad=tokenizer.pad)
  parents = (parent(start),) if start else ()
  return Setup(session, splits, tokenizer, parents)


def run(config, workdir, setup=setup):
  """Trains, or resumes, or returns at once what a finished run found.

  Args:
    config: `configs.common_language.pretrain_lm()` and the like.
    workdir: of the run.
    setup: `(config, workdir) -> Setup`.

  Returns:
    Test metrics of the last checkpoint.
  """
  plain = json.loads(config.to_json())
  workdir = checkpoint.open_workdir(workdir, plain)
  done = pretrain.finished(workdir)
  if done:
    return done['metrics']
  made = setup(config, workdir)
  session, splits = made.session, made.splits
  measure = language_measure.Measure(config, session, splits, made.tokenizer)
  card = dict(kind='run', status='running', method=config.experiment,
              parents=list(made.parents), model=plain['model'],
              data=dataclasses.asdict(splits.info),
              tokenizer=dict(name=made.tokenizer.name,
                             digest=made.tokenizer.digest),
              config=checkpoint.config_hash(plain),
              code=checkpoint.code_version())
  pretrain.open_card(workdir, card)
  stream = made.stream or open_stream(config, splits.train, session.mesh)
  steps, every = config.loop.steps, config.mixture.every
  with checkpoint.Run(workdir, keep=config.loop.keep,
                      config=card['config']) as saver:
    state = train.resume(saver, session.init(), stream)
    with train.Writer(workdir, resumed_at=int(state.step)) as writer:
      while (step := int(state.step)) < steps:
        if made.remix and step % every == 0:
          shares = made.remix(train.to_items(state)[0], step, stream.shares)
          stream.set_shares(shares)
          writer.write(step, 'mixture', shares)
        state = train.fit(
            session.step, state, stream, session.settings,
            steps=min(steps, (step // every + 1) * every) if made.remix
            else steps,
            put=train.putter(session.mesh), log_every=config.loop.log_every,
            save_every=config.loop.save_every,
            evaluate=len(splits.validation) and (
                lambda s: measure.likelihood(train.to_items(s)[0],
                                             splits.validation)),
            run=saver, writer=writer, name=config.model.name)
      saver.wait()
      model, _ = train.to_items(state)
      metrics = measure.likelihood(model, splits.test)
      metrics['parameters'] = sum(v.size for v in model['params'].values())
      if config.evaluate.responses:
        metrics |= measure.answers(model)
      if config.evaluate.samples:
        metrics |= _report(workdir, measure, made, model)
      if made.judges:
        metrics |= _behind(measure, made, metrics)
      metrics |= _ends(workdir, 'accepted')
      if config.export:
        _export(config, session, made.tokenizer, model, workdir)
      writer.write(steps, 'test', metrics)
  train.curves(workdir)
  checkpoint.write_json(workdir / 'card.json', card | dict(
      status='finished', step=steps, metrics=metrics,
      digest=checkpoint.digest(model)))
  return metrics


def _report(workdir, measure, made, model):
  """Writes report.md, texts before and after; returns what judges say."""
  before, _ = train.to_items(made.session.init())
  old, _ = measure.samples(before)
  new, metrics = measure.samples(model, made.judges)
  say = language_measure.to_markdown
  checkpoint.write_atomic(
      workdir / 'report.md', 'What stands after | is drawn.\n\n'
      + say('Before', old) + '\n' + say('After', new))
  return metrics


def _export(config, session, tokenizer, model, workdir):
  """The model as a Hugging Face directory, the tokenizer's files with it."""
  folder = None if tokenizer.name == 'characters' else tokenizer.name
  params = train.quantize(model['params'], config.train.bits)
  models.save_pretrained(models.join(session.net, params, model['stats']),
                         workdir / 'hf', folder)


def _behind(measure, made, ours):
  """How far the first teacher is ahead: perplexity ratios of the domains."""
  _, score, teacher = made.judges[0]
  arrays = made.splits.test
  ratio = language_measure.mean_ratio(ours, language_measure.likelihood(
      score, teacher, arrays, measure.config.evaluate.batch_size),
                                      list(arrays.domains))
  return dict(ratio_mean=float(ratio.mean()), ratio_worst=float(ratio.max()))


def _ends(workdir, name):
  """A metric of training in its first and its last row, if it is there."""
  rows = [r[name] for r in train.read_metrics(workdir / 'metrics.jsonl')
          if name in r]
  return {f'{name}_first': rows[0], f'{name}_last': rows[-1]} if rows else {}


def _only_labels(config):
  """Refuses whom this protocol does not know."""
  for key in ('teachers', 'modules', 'members'):
    if config[key]:
      raise core.UserError(f'config.{key} is for the experiment distill_lm.')
  if config.mixture.every or config.cache.top_k or (
      config.sampling.source != 'data'):
    raise core.UserError('mixture.every, cache.top_k and sampling.source are '
                         'for the experiment distill_lm.')


def abstract(config):
  """`(info, tokenizer)`; no text is read."""
  return data.abstract_text(config.data), data.tokenizer(config.data.tokenizer)


def load(config):
  """`(splits, tokenizer)`."""
  return data.load_text(config.data), data.tokenizer(config.data.tokenizer)


def stop_of(tokenizer) -> int:
  return -1 if tokenizer.eos is None else tokenizer.eos


def parent(trained) -> dict[str, str]:
  return dict(source=trained.source, digest=trained.digest)


def fitting(trained, info):
  """`(params, stats)` of a start that fits the data, or None."""
  if trained is None:
    return None
  train.check_vocabulary(trained.source, trained.info, info)
  return trained.params, trained.stats


def open_stream(config, arrays, mesh, lookup=None):
  """The batches of a config that this process loads."""
  given = dict(batch_size=config.batch.size, seed=config.seed,
               rows=train.rows(mesh, config.batch.size), lookup=lookup)
  if len(arrays.domains) > 1:
    return data.mixed_stream(arrays, shares=arrays.domains, **given)
  return data.stream(arrays, **given)


def describe(config, session, batch):
  return train.describe(config.model.name, session.abstract, session.step.lower(
      session.abstract, batch, session.settings), config.loop.steps)
