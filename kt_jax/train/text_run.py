"""What is particular to a training run on text: data, mixtures, metrics."""
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from kt_jax import checkpoint
from kt_jax import core
from kt_jax import data
from kt_jax import models
from kt_jax import procedures
from kt_jax.train import evaluate_lm
from kt_jax.train import image_run
from kt_jax.train import loop
from kt_jax.train import mesh as meshes
from kt_jax.train import pool
from kt_jax.train import specs
from kt_jax.train.evaluate_lm import likelihood
from kt_jax.train.evaluate_lm import stop_of
from kt_jax.train.graph import quantize
from kt_jax.train.pretrained import Trained
from kt_jax.train.session import Session
from kt_jax.train.tokens import make_score
from kt_jax.train.writer import read_metrics


class TextRun:
  """Rows of tokens, and a student and its teachers measured on them."""
  best = ''  # the last checkpoint

  def __init__(self, spec: specs.Training, splits: data.Splits,
               teachers: Mapping[str, Trained]):
    self.spec, self.splits = spec, splits
    self.tokenizer = data.tokenizer(spec.text.tokenizer)
    self.frozen = {n: t for n, t in teachers.items()
                   if spec.teachers[n].kind == 'frozen'}
    self.own_tokenizer = {n: t for n, t in self.frozen.items()
                          if spec.teachers[n].tokenizer}
    # `(name, score, model)` of teachers that judge texts.
    self.judges = [(n, make_score(t.net), dict(params=t.params, stats=t.stats))
                   for n, t in self.frozen.items()
                   if n not in self.own_tokenizer]
    self.validates = len(splits.validation) > 0
    check_prompts(spec, splits.train)

  @staticmethod
  def refuse(spec: specs.Training, info: data.Info) -> None:
    """Refuses settings that contradict one another."""
    image_run.check_cache(spec)
    if spec.cache.views > 1:
      raise core.UserError('cache.views of text is 0 (no cache) or 1.')
    if spec.mixture.every and (len(spec.text.domains) < 2 or not any(
        t.kind == 'frozen' and not t.tokenizer
        for t in spec.teachers.values())):
      raise core.UserError('mixture.every moves the shares of domains by how '
                           'far the student is behind a frozen teacher: name '
                           'two domains at least, and a teacher.')
    if spec.evaluate.responses and not spec.text.prompt:
      raise core.UserError('evaluate.responses needs prompts: set data.prompt.')
    if spec.bilevel.module and not info.sizes['validation']:
      raise core.UserError('bilevel needs held-out rows: set validation of the '
                           'domains.')
    _check_tokenizers(spec)

  # What `make_session` needs.

  def session_kw(self) -> dict[str, Any]:
    spec, held_out = self.spec, None
    if spec.bilevel.module:
      held_out = {k: v for k, v in self.splits.validation.batch(
          slice(None)).items() if k in ('tokens', 'segments', 'targets')}
    return self._tokens(spec) | dict(
        held_out=held_out, cached=cached_shapes(spec, self.frozen),
        prompts={t.module: self.tokenizer.encode(spec.prompt_text)
                 for t in spec.teachers.values() if t.kind == 'prompted'})

  @staticmethod
  def _tokens(spec) -> dict[str, int]:
    tokenizer = data.tokenizer(spec.text.tokenizer)
    return dict(stop=stop_of(tokenizer), pad=tokenizer.pad)

  @classmethod
  def abstract_kw(cls, spec: specs.Training, info: data.Info, teachers
                 ) -> dict[str, Any]:
    """As `session_kw`, shapes alone."""
    rows = info.sizes['validation']
    shape = lambda dtype: jax.ShapeDtypeStruct(
        (rows, *info.input_shape), dtype)
    frozen = {n: t for n, t in teachers.items()
              if spec.teachers[n].kind == 'frozen'}
    return cls._tokens(spec) | dict(
        held_out=dict(tokens=shape(np.int32), segments=shape(np.int32),
                      targets=shape(np.bool_)),
        cached=cached_shapes(spec, frozen))

  @staticmethod
  def check(spec: specs.Training, session: Session, info: data.Info, teachers):
    """`refuse` refuses all that there is to refuse."""

  # The run.

  def card(self) -> dict[str, Any]:
    return dict(tokenizer=dict(name=self.tokenizer.name,
                               digest=self.tokenizer.digest))

  def stream(self, session: Session):
    """Batches, with what teachers read or output joined to them."""
    spec, arrays = self.spec, self.splits.train
    lookup = None
    if spec.cache.views:
      lookup = data.attach_cached({
          n: image_run.write_cache(spec, n, t, self.splits)
          for n, t in self.frozen.items()})
    elif self.own_tokenizer:
      lookup = self._retokenized()
    kw = dict(batch_size=spec.batch.size, seed=spec.seed, lookup=lookup,
              rows=meshes.rows(session.mesh, spec.batch.size))
    if len(arrays.domains) > 1:
      return data.mixed_stream(arrays, shares=arrays.domains, **kw)
    return data.stream(arrays, **kw)

  def _retokenized(self):
    """Function that joins to a batch the tokens of other tokenizers."""
    tables = {name: data.retokenize(
        self.splits.train, self.tokenizer,
        data.tokenizer(self.spec.teachers[name].tokenizer),
        t.info.input_shape[0]) for name, t in self.own_tokenizer.items()}
    return lambda batch: batch | {
        f'retokenized/{name}/{array}': values[batch['index']]
        for name, table in tables.items()
        for array, values in table._asdict().items()}

  def until(self, session, state, stream, writer, step) -> int:
    """Step at which the loop returns; with a mixture, its next change."""
    steps, mixture = self.spec.loop.steps, self.spec.mixture
    if not mixture.every:
      return steps
    if step % mixture.every == 0:
      shares = self._shares(session, loop.to_items(state)[0], step,
                            stream.shares)
      stream.set_shares(shares)
      writer.write(step, 'mixture', shares)
    return min(steps, (step // mixture.every + 1) * mixture.every)

  def _shares(self, session, model, step, shares) -> dict[str, float]:
    """`procedures.domain_shares` of the held-out text."""
    mixture = self.spec.mixture
    rows = evaluate_lm.first_rows(self.splits.validation, mixture.rows)
    names, (_, score, teacher) = list(rows.domains), self.judges[0]
    of = lambda score, model: likelihood(
        score, model, rows, self.spec.evaluate.batch_size)
    ratios = evaluate_lm.mean_ratio(of(session.predict, model),
                                    of(score, teacher), names)
    return dict(zip(names, procedures.domain_shares(
        ratios.tolist(), [shares[n] for n in names] if step else None,
        smoothing=mixture.smoothing, limit=mixture.limit).tolist()))

  def _likelihood(self, session, model, arrays) -> dict[str, float]:
    parts = session.mesh.shape['data']
    size = -(-self.spec.evaluate.batch_size // parts) * parts
    return likelihood(session.predict, model, arrays, size,
                      meshes.make_shard_batch(session.mesh))

  def validate(self, session: Session, model) -> dict[str, float]:
    return self._likelihood(session, model, self.splits.validation)

  def test(self, session: Session, model, state, workdir) -> dict[str, float]:
    """Test metrics of the student. Writes report.md and the export."""
    evaluation = self.spec.evaluate
    metrics = self._likelihood(session, model, self.splits.test)
    metrics['parameters'] = sum(v.size for v in model['params'].values())
    if evaluation.responses:
      rows = evaluate_lm.first_rows(self.splits.test, evaluation.responses)
      generator = self._generator(session)
      metrics |= generator.exact(
          generator([(model['params'], model['stats'])], rows), rows)
    if evaluation.samples:
      metrics |= self._report(session, model, workdir)
    if self.judges:
      metrics |= self._behind(metrics)
    metrics |= _ends(workdir, 'accepted')
    if self.spec.export:
      folder = None if self.tokenizer.name == 'characters' else (
          self.tokenizer.name)
      params = quantize(model['params'], self.spec.train.bits)
      decoder = models.join(session.net, params, model['stats'])
      assert isinstance(decoder, models.Decoder)
      models.save_pretrained(decoder, workdir / 'hf', folder)
    return metrics

  def _generator(self, session, **kw) -> evaluate_lm.Generator:
    length = self.splits.info.input_shape[0]
    return evaluate_lm.Generator(
        [session.net], self.tokenizer,
        prompt=self.spec.text.prompt or max(1, length // 4), length=length,
        batch_size=self.spec.evaluate.batch_size, bits=self.spec.train.bits,
        **kw)

  def _samples(self, session, model, judges=()):
    """Texts that a model samples, and their likelihood under `judges`.

    Returns:
      Prompts and responses; `sample_NAME_nll`, nats per token of the responses,
      of each judge, and of the model itself, an estimate of its entropy.
    """
    rows = evaluate_lm.first_rows(self.splits.test, self.spec.evaluate.samples)
    generator = self._generator(session, choose=models.sampler(
        temperature=self.spec.evaluate.temperature))
    new = generator([(model['params'], model['stats'])], rows)
    sampled = generator.rows(new, rows)
    nll = lambda score, m: likelihood(
        score, m, sampled, self.spec.evaluate.batch_size)['nll']
    metrics = {f'sample_{name}_nll': nll(score, m) for name, score, m in (
        ('own', session.predict, model), *judges)} if len(sampled) else {}
    return generator.texts(new, rows), metrics

  def _report(self, session, model, workdir) -> dict[str, float]:
    """Writes report.md, texts before and after; what judges make of them."""
    before, _ = loop.to_items(session.init())
    old, _ = self._samples(session, before)
    new, metrics = self._samples(session, model, self.judges)
    checkpoint.write_atomic(
        workdir / 'report.md', 'Text after the bar was sampled from the model.'
        '\n\n' + evaluate_lm.to_markdown('Before', old) + '\n'
        + evaluate_lm.to_markdown('After', new))
    return metrics

  def _behind(self, metrics) -> dict[str, float]:
    """Perplexity ratios to the first teacher, over domains."""
    _, score, teacher = self.judges[0]
    arrays = self.splits.test
    ratio = evaluate_lm.mean_ratio(metrics, likelihood(
        score, teacher, arrays, self.spec.evaluate.batch_size),
                                   list(arrays.domains))
    return dict(ratio_mean=float(ratio.mean()), ratio_worst=float(ratio.max()))


def _ends(workdir, name) -> dict[str, float]:
  """A metric of training in its first and its last row, if it is there."""
  rows = [r[name] for r in read_metrics(workdir / 'metrics.jsonl')
          if name in r]
  return {f'{name}_first': rows[0], f'{name}_last': rows[-1]} if rows else {}


def cached_shapes(spec: specs.Training, teachers: Mapping[str, Trained]):
  """Teacher -> array -> shape of what its cache holds of a row."""
  return {name: data.Layout(
      dict(logits=(spec.text.length, t.info.classes)), spec.cache.dtype,
      image_run.kept(spec, name, t)).shapes()
          for name, t in teachers.items() if spec.cache.views}


def _check_tokenizers(spec: specs.Training) -> None:
  """Refuses teachers of the pool whose tokens differ where none are named."""
  for name, teacher in spec.teachers.items():
    if not isinstance(teacher.init_from, str):
      continue
    entry = spec.pool.get(teacher.init_from)
    if entry is None or entry.checkpoint:
      continue
    theirs = pool.training_of(spec, teacher.init_from).text.tokenizer
    if theirs != (teacher.tokenizer or spec.text.tokenizer):
      raise core.UserError(
          f'config.teachers.{name}: {teacher.init_from} of the pool has the '
          f'tokenizer {theirs!r}; set tokenizer={theirs!r}.')


def check_prompts(spec: specs.Training, rows: data.TextArrays) -> None:
  """Refuses rows whose prompts could not be continued."""
  if spec.sampling.source != 'data' and (
      rows.segments.max() > 1 or rows.targets[:, :spec.text.prompt].any()):
    raise core.UserError(
        f'sampling.source {spec.sampling.source!r} continues prompts, but '
        'some rows hold documents that begin anywhere: use pairs or continuous '
        'text.')
