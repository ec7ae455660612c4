"""What a language model is measured by: likelihood, answers, texts."""
import collections
from typing import Any, NamedTuple

import jax
import numpy as np

from kt_jax import data
from kt_jax import models
from kt_jax import train


def likelihood(score, model, arrays, batch_size, put=lambda x: x
              ) -> dict[str, float]:
  """`nll` (nats a token), `perplexity` and `token_accuracy`; by domain, too.

  Args:
    score: `session.predict`: sums of a row.
    model: has `params` and `stats`.
    arrays: `data.TextArrays`.
    batch_size: rows.
    put: host batch -> device arrays.
  """
  found, domains = [], []
  for batch in data.batches_for_eval(arrays, batch_size):
    found.append(score(model['params'], model['stats'], put(
        {k: batch[k] for k in ('tokens', 'segments', 'targets')})))
    domains.append(np.where(batch['where'], batch['domain'], -1))
  found = jax.device_get(found)
  rows = {k: np.concatenate([f[k] for f in found]).astype(np.float64)
          for k in found[0]}
  domains = np.concatenate(domains)

  def of(rows_in, prefix=''):
    nll, right, count = (rows[k][rows_in].sum() for k in (
        'nll', 'right', 'count'))
    count = max(count, 1)
    return {f'{prefix}nll': float(nll / count),
            f'{prefix}perplexity': float(np.exp(min(nll / count, 700.0))),
            f'{prefix}token_accuracy': float(right / count)}
  metrics = of(domains >= 0)
  if len(arrays.domains) > 1:
    for number, name in enumerate(arrays.domains):
      if (domains == number).any():
        metrics |= of(domains == number, f'{name}_')
  return metrics


class Generator:
  """Answers to the prompts of rows, by a compiled `models.generate`."""

  def __init__(self, nets, tokenizer, *, prompt: int, length: int,
               choose: models.SampleFn | None = None, batch_size: int = 64,
               bits: int = 0):
    self._prompt, self._batch_size = prompt, batch_size
    self._tokenizer = tokenizer
    stop = -1 if tokenizer.eos is None else tokenizer.eos

    @jax.jit
    def generate(arrays, tokens, segments, key):
      members = [models.DecodeModel(net, train.quantize(params, bits), stats)
                 for net, (params, stats) in zip(nets, arrays)]
      return models.generate(
          members, tokens[:, :prompt], where=segments[:, :prompt] > 0,
          steps=length - prompt, key=key, choose=choose, stop=stop,
          pad=tokenizer.pad)
    self._generate = generate

  def __call__(self, members, arrays: data.TextArrays, seed: int = 0
              ) -> models.Generated:
    """Responses `[N, R]` to all rows of `arrays`, as numpy arrays.

    Args:
      members: `(params, stats)` of each net.
      arrays: rows that begin with a prompt.
      seed: of the draws.
    """
    parts, count = [], 0
    for number, batch in enumerate(data.batches_for_eval(
        arrays, self._batch_size)):
      key = jax.random.fold_in(jax.random.key(seed), number)
      parts.append(jax.device_get(self._generate(
          list(members), batch['tokens'], batch['segments'], key)))
      count += int(batch['where'].sum())
    return jax.tree.map(lambda *x: np.concatenate(x)[:count], *parts)

  def exact(self, new: models.Generated, arrays: data.TextArrays
           ) -> dict[str, float]:
    """`exact`, the share of responses that are right to the last token.

    The mean over domains, and each domain's, too.
    """
    gold, targets = (x[:, self._prompt:] for x in (
        arrays.tokens, arrays.targets))
    right = np.all((new.tokens == gold) | ~targets, 1) & (
        new.where.sum(1) == targets.sum(1))
    names = list(arrays.domains)
    by = collections.defaultdict(list)
    for domain, ok in zip(arrays.domain, right):
      by[names[domain]].append(ok)
    each = {name: float(np.mean(ok)) for name, ok in by.items()}
    metrics = dict(exact=float(np.mean(list(each.values()))))
    if len(names) > 1:
      metrics |= {f'{name}_exact': value for name, value in each.items()}
    return metrics

  def texts(self, new: models.Generated, arrays: data.TextArrays
           ) -> list[tuple[str, str]]:
    """Prompts and responses."""
    decode = self._tokenizer.decode
    return [(decode(row[:self._prompt][seen[:self._prompt] > 0].tolist()),
             decode(tokens[where].tolist()))
            for row, seen, tokens, where in zip(
                arrays.tokens, arrays.segments, new.tokens, new.where)]

  def rows(self, new: models.Generated, arrays: data.TextArrays
          ) -> data.TextArrays:
    """The rows with these responses in place of their own."""
    join = lambda old, tail: np.concatenate(
        [old[:, :self._prompt], tail.astype(old.dtype)], 1)
    return data.TextArrays(
        join(arrays.tokens, new.tokens), join(arrays.segments, new.where),
        join(np.zeros_like(arrays.targets), new.where), arrays.ids,
        arrays.domain, arrays.domains)


  def judged(self, new: models.Generated, arrays: data.TextArrays, judge
            ) -> dict[str, float]:
    """Means of what `judge(response, right response)` says."""
    decode, said = self._tokenizer.decode, collections.defaultdict(list)
    for tokens, where, gold, targets in zip(
        new.tokens, new.where, arrays.tokens, arrays.targets):
      for name, value in judge(decode(tokens[where].tolist()),
                               decode(gold[targets].tolist())).items():
        said[name].append(value)
    return {name: float(np.mean(values)) for name, values in said.items()}


def first_rows(arrays: data.TextArrays, count: int) -> data.TextArrays:
  """The first `count` rows of each domain."""
  return arrays.take(np.concatenate([
      np.flatnonzero(arrays.domain == number)[:count]
      for number in range(len(arrays.domains))]))


class Measure(NamedTuple):
  """What `pretrain_lm` and `distill_lm` say of a model."""
  config: Any
  session: train.Session
  splits: data.Splits
  tokenizer: data.Tokenizer

  def likelihood(self, model, arrays):
    size = self.config.evaluate.batch_size
    parts = self.session.mesh.shape['data']
    return likelihood(self.session.predict, model, arrays,
                      -(-size // parts) * parts,
                      train.putter(self.session.mesh))

  def generator(self, **kw) -> Generator:
    length = self.splits.info.input_shape[0]
    prompt = self.config.data.prompt or max(1, length // 4)
    return Generator([self.session.net], self.tokenizer, prompt=prompt,
                     length=length, batch_size=self.config.evaluate.batch_size,
                     bits=self.config.train.bits, **kw)

  def answers(self, model) -> dict[str, float]:
    """Greedy answers to prompts of the test set."""
    rows = first_rows(self.splits.test, self.config.evaluate.responses)
    generator = self.generator()
    return generator.exact(generator([(model['params'], model['stats'])], rows),
                           rows)

  def samples(self, model, judges=()) -> tuple[list, dict[str, float]]:
    """Texts that a model draws, and what `judges` say of them.

    Args:
      model: has `params` and `stats`.
      judges: `(name, score, model)`s.

    Returns:
      Prompts and responses; `NAME_nll`, nats a token of the responses, of
      each judge, and `own_nll`, which estimates the model's entropy.
    """
    rows = first_rows(self.splits.test, self.config.evaluate.samples)
    generator = self.generator(choose=models.sampler(
        temperature=self.config.evaluate.temperature))
    new = generator([(model['params'], model['stats'])], rows)
    drawn = generator.rows(new, rows)
    say = lambda score, m: likelihood(
        score, m, drawn, self.config.evaluate.batch_size)['nll']
    one = self.session.predict
    metrics = {f'sample_{name}_nll': say(score, m) for name, score, m in (
        ('own', one, model), *judges)} if len(drawn) else {}
    return generator.texts(new, rows), metrics


def recall_and_style(response: str, right: str) -> dict[str, float]:
  """Whether the letters are right, and whether what is no letter is.

  Capitals are style: `recall` does not look at them.
  """
  letters = lambda x: ''.join(filter(str.isalpha, x)).lower()
  form = lambda x: ''.join(
      ('A' if y.isupper() else 'a') if y.isalpha() else y for y in x)
  return dict(recall=float(letters(response) == letters(right)),
              style=float(form(response) == form(right)))


def to_markdown(title: str, texts, count: int = 4) -> str:
  """Some texts, the prompt set off from what follows it."""
  lines = [f'## {title}', '']
  for prompt, response in texts[:count]:
    lines += ['```', f'{prompt}|{response}', '```', '']
  return '\n'.join(lines)


def mean_ratio(ours: dict[str, float], theirs: dict[str, float], names
              ) -> np.ndarray:
  """Perplexity of a student over its teacher's, for each domain."""
  key = lambda name: f'{name}_nll' if len(names) > 1 else 'nll'
  return np.exp([ours[key(n)] - theirs[key(n)] for n in names])
