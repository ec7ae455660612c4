"""Tokens per second of `models.generate`, and of the matrix products in it."""
import dataclasses

import jax
from jax import numpy as jnp
import numpy as np

from experiments.bench import turns
from kt_jax import models
from kt_jax import train
from kt_jax.launch import report

GENERATE, PRODUCTS = 'generate', 'products'


@dataclasses.dataclass(frozen=True)
class Settings:
  repeats: int = 5  # turns


@dataclasses.dataclass(frozen=True)
class Workload:
  vocabulary: int
  prompt: int  # tokens
  new: int  # tokens
  batch_sizes: tuple[int, ...]  # rows
  model: train.Model


def check(settings, workloads):
  """Refuses sizes that no decoder has."""
  del settings
  for work in workloads.values():
    models.abstract(_builder(work))
  return []


def measure(settings, workloads):
  raw, table, metrics = {}, '', {}
  for name, work in workloads.items():
    net, params, stats = models.init(_builder(work))
    kw = ' '.join(f'{k} {v}' for k, v in work.model.kw.items())
    rows = [['rows', 'tokens/s', 'of the products', 'ms per step',
             'over the products', 'quartiles']]
    for size in work.batch_sizes:
      cases = {case: turns.timed(jax.jit(fn), params, _prompts(work, size))
              for case, fn in functions(net, stats, work).items()}
      times = raw[f'{name}_{size}'] = turns.in_turns(
          f'{name}, {size} rows', cases, dict.fromkeys(cases, 1),
          settings.repeats)
      middle = {case: float(np.median(ms)) for case, ms in times.items()}
      rate = {case: 1e3 * size * work.new / ms for case, ms in middle.items()}
      ratio = np.divide(times[GENERATE], times[PRODUCTS])
      metrics |= {f'{name}_{size}_tokens_per_s': rate[GENERATE],
                  f'{name}_{size}_ratio': float(np.median(ratio))}
      rows.append([f'{size}', f'{rate[GENERATE]:,.0f}',
                   f'{rate[PRODUCTS]:,.0f}',
                   f'{middle[GENERATE] / work.new:.2f}',
                   f'{np.median(ratio):.2f}',
                   turns.quartiles(ratio, '.2f')])
    table += (f'{name}: {kw} vocabulary {work.vocabulary}, float32; '
              f'{work.new} new tokens after {work.prompt}, greedy, '
              f'{settings.repeats} turns\n\n' + report.table(rows, bars=True)
              + '\n\n')
  table += ('The products are of weights alone, those of the prompt at once '
            'and those of new tokens one after another. Medians over turns; '
            'ratios are taken within a turn.\n')
  return raw, table, metrics


def functions(net, stats, work):
  """Case -> function of parameters and prompts."""
  def generate(params, prompts):
    return models.generate(models.DecodeModel(net, params, stats), prompts,
                           steps=work.new).tokens

  def products(params, prompts):
    """Each result is read by the next one, so that none is left out."""
    embedding = params['embed/embedding']
    width = embedding.shape[1]
    fit = lambda y, n: y[:, :n] if y.shape[1] >= n else jnp.pad(
        y, [(0, 0), (0, n - y.shape[1])])

    def blocks(x):
      for name in params:
        if name.endswith('/kernel'):
          y = fit(x, params[name].shape[0]) @ params[name]
          # A part of it: adding all up would cost as much as small products.
          x = x + 1e-9 * fit(y, width)
      return x

    def step(_, carry):
      x, tokens = carry
      tokens = jnp.argmax(x @ embedding.T, -1)
      return blocks(x + embedding[tokens]), tokens
    rows, count = prompts.shape
    x = blocks(embedding[prompts.reshape(-1)]).reshape(rows, count, -1)[:, -1]
    return jax.lax.fori_loop(0, work.new, step, (x, prompts[:, 0]))
  return {GENERATE: generate, PRODUCTS: products}


def _builder(work):
  return models.builder(
      work.model.name, classes=work.vocabulary,
      input_shape=(work.prompt + work.new,), **work.model.kw)


def _prompts(work, rows):
  return jax.random.randint(jax.random.key(0), (rows, work.prompt), 0,
                            work.vocabulary)
