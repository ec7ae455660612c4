"""Metrics of language models: likelihood, exact answers, sampled texts."""
import collections
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from kt_jax import data
from kt_jax import models
from kt_jax.train.graph import quantize


def likelihood(score, model: Mapping[str, Any], arrays: data.TextArrays,
               batch_size: int, shard_batch=lambda x: x) -> dict[str, float]:
  """`nll` (nats per token), `perplexity` and `token_accuracy`; by domain, too.

  Args:
    score: `train.make_score(net)`.
    model: has `params` and `stats`.
    arrays: rows of tokens.
    batch_size: rows.
    shard_batch: host batch -> device arrays.
  """
  parts, domains = [], []
  for batch in data.batches_for_eval(arrays, batch_size):
    parts.append(score(model['params'], model['stats'], shard_batch(
        {k: batch[k] for k in ('tokens', 'segments', 'targets')})))
    domains.append(np.where(batch['where'], batch['domain'], -1))
  parts = jax.device_get(parts)
  rows = {k: np.concatenate([p[k] for p in parts]).astype(np.float64)
          for k in parts[0]}
  domains = np.concatenate(domains)

  def of(chosen, prefix=''):
    nll, right, count = (rows[k][chosen].sum() for k in (
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

  def __init__(self, nets, tokenizer: data.Tokenizer, *, prompt: int,
               length: int, choose: Callable[..., Any] | None = None,
               batch_size: int = 64, bits: int = 0):
    self._prompt, self._batch_size = prompt, batch_size
    self._tokenizer = tokenizer

    @jax.jit
    def generate(arrays, tokens, segments, key):
      decoders = [models.DecodeModel(net, quantize(params, bits), stats)
                  for net, (params, stats) in zip(nets, arrays)]
      return models.generate(
          decoders, tokens[:, :prompt], where=segments[:, :prompt] > 0,
          steps=length - prompt, key=key, choose=choose,
          stop=stop_of(tokenizer), pad=tokenizer.pad)
    self._generate = generate

  def __call__(self, arrays, rows: data.TextArrays, seed: int = 0
              ) -> models.Generated:
    """Responses `[N, R]` to all rows, as numpy arrays.

    Args:
      arrays: `(params, stats)` of each net.
      rows: begin with a prompt.
      seed: of what is sampled.
    """
    parts, count = [], 0
    for number, batch in enumerate(data.batches_for_eval(
        rows, self._batch_size)):
      key = jax.random.fold_in(jax.random.key(seed), number)
      parts.append(jax.device_get(self._generate(
          list(arrays), batch['tokens'], batch['segments'], key)))
      count += int(batch['where'].sum())
    return jax.tree.map(lambda *x: np.concatenate(x)[:count], *parts)

  def exact(self, new: models.Generated, rows: data.TextArrays
           ) -> dict[str, float]:
    """`exact`, the share of responses that are right to the last token.

    The mean over domains, and each domain's, too.
    """
    gold, targets = (x[:, self._prompt:] for x in (rows.tokens, rows.targets))
    right = np.all((new.tokens == gold) | ~targets, 1) & (
        new.where.sum(1) == targets.sum(1))
    names = list(rows.domains)
    by_domain = collections.defaultdict(list)
    for domain, ok in zip(rows.domain, right):
      by_domain[names[domain]].append(ok)
    means = {name: float(np.mean(ok)) for name, ok in by_domain.items()}
    metrics = dict(exact=float(np.mean(list(means.values()))))
    if len(names) > 1:
      metrics |= {f'{name}_exact': value for name, value in means.items()}
    return metrics

  def texts(self, new: models.Generated, rows: data.TextArrays
           ) -> list[tuple[str, str]]:
    """Prompts and responses."""
    decode = self._tokenizer.decode
    return [(decode(row[:self._prompt][segments[:self._prompt] > 0].tolist()),
             decode(tokens[where].tolist()))
            for row, segments, tokens, where in zip(
                rows.tokens, rows.segments, new.tokens, new.where)]

  def rows(self, new: models.Generated, rows: data.TextArrays
          ) -> data.TextArrays:
    """The rows with these responses in place of their own."""
    join = lambda old, tail: np.concatenate(
        [old[:, :self._prompt], tail.astype(old.dtype)], 1)
    return data.TextArrays(
        join(rows.tokens, new.tokens), join(rows.segments, new.where),
        join(np.zeros_like(rows.targets), new.where), rows.ids,
        rows.domain, rows.domains)

  def judged(self, new: models.Generated, rows: data.TextArrays, judge
            ) -> dict[str, float]:
    """Means of `judge(response, right response)`, a dict of numbers."""
    decode, values = self._tokenizer.decode, collections.defaultdict(list)
    for tokens, where, gold, targets in zip(
        new.tokens, new.where, rows.tokens, rows.targets):
      for name, value in judge(decode(tokens[where].tolist()),
                               decode(gold[targets].tolist())).items():
        values[name].append(value)
    return {name: float(np.mean(x)) for name, x in values.items()}


def stop_of(tokenizer: data.Tokenizer) -> int:
  """The end token; -1 if there is none."""
  return -1 if tokenizer.eos is None else tokenizer.eos


def first_rows(arrays: data.TextArrays, count: int) -> data.TextArrays:
  """The first `count` rows of each domain."""
  return arrays.take(np.concatenate([
      np.flatnonzero(arrays.domain == number)[:count]
      for number in range(len(arrays.domains))]))


def recall_and_style(response: str, right: str) -> dict[str, float]:
  """Whether the letters are right, and whether case and punctuation are.

  `recall` ignores case and everything but letters; `style` ignores which
  letters they are.
  """
  letters = lambda x: ''.join(filter(str.isalpha, x)).lower()
  form = lambda x: ''.join(
      ('A' if y.isupper() else 'a') if y.isalpha() else y for y in x)
  return dict(recall=float(letters(response) == letters(right)),
              style=float(form(response) == form(right)))


def to_markdown(title: str, texts, count: int = 4) -> str:
  """Some texts, with a bar between the prompt and what follows."""
  lines = [f'## {title}', '']
  for prompt, response in texts[:count]:
    lines += ['```', f'{prompt}|{response}', '```', '']
  return '\n'.join(lines)


def mean_ratio(student: dict[str, float], teacher: dict[str, float], names
              ) -> np.ndarray:
  """Perplexity of a student over its teacher's, per domain."""
  key = lambda name: f'{name}_nll' if len(names) > 1 else 'nll'
  return np.exp([student[key(n)] - teacher[key(n)] for n in names])
