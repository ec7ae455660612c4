"""What a loss on a large vocabulary takes, from hidden states and heads.

`losses.linear_head` beside the loss on logits of all tokens at once: memory, as
the compiler reports it, and time, over the four matrix products that both need.
"""
import dataclasses
import inspect
from typing import Any

import jax
from jax import numpy as jnp
import numpy as np

from experiments.bench import turns
from kt_jax import core
from kt_jax import losses
from kt_jax.launch import report

PRODUCTS = 'four products'
MEMORY, TIME = 5, 1.3  # limits: plain over ours, ours over the products


@dataclasses.dataclass(frozen=True)
class Settings:
  repeats: int = 3  # turns


@dataclasses.dataclass(frozen=True)
class Workload:
  tokens: int  # of which the memory is reported
  timed_tokens: int
  width: int  # of hidden states
  vocabulary: int
  chunk: int  # tokens of which logits are held at a time
  losses: tuple[str, ...]
  timed: tuple[str, ...]


def check(settings, workloads):
  """Refuses losses that are none."""
  del settings
  for work in workloads.values():
    for name in (*work.losses, *work.timed):
      core.resolve(losses, name, 'loss')
  return []


def measure(settings, workloads):
  raw, table, metrics = {}, '', {}
  for name, work in workloads.items():
    memory = {loss: temporaries(loss, work) for loss in work.losses}
    cases = _cases(work)
    times = turns.in_turns(name, cases, dict.fromkeys(cases, 1),
                                 settings.repeats)
    raw[name] = dict(ms=times, gigabytes=memory)
    rows = [['loss', 'temporaries GB', 'on logits', 'ratio', 'at least',
             'ms', f'over {PRODUCTS}', 'quartiles', 'at most']]
    for loss in work.losses:
      ours, plain = memory[loss]
      metrics[f'{name}_{loss}_memory_ratio'] = plain / ours
      cells = [''] * 4
      if loss in times:
        ratio = np.divide(times[loss], times[PRODUCTS])
        metrics[f'{name}_{loss}_time_ratio'] = float(np.median(ratio))
        cells = [f'{np.median(times[loss]):.0f}', f'{np.median(ratio):.2f}',
                 turns.quartiles(ratio, '.2f'), f'{TIME}']
      rows.append([loss, f'{ours:.3g}', f'{plain:.3g}', f'{plain / ours:.1f}',
                   f'{MEMORY}', *cells])
    table += (
        f'{name}: width {work.width}, vocabulary {work.vocabulary}, float32, '
        f'value and gradient; memory of {work.tokens} tokens, time of '
        f'{work.timed_tokens}, {work.chunk} at a time; {PRODUCTS}: '
        f'{np.median(times[PRODUCTS]):.0f} ms; {settings.repeats} turns\n\n'
        + report.table(rows, bars=True) + '\n\n')
  table += ('Temporaries: beside arguments and results. Medians over turns; '
            'ratios are taken within a turn.\n')
  return raw, table, metrics


def temporaries(loss, work) -> tuple[float, float]:
  """Gigabytes of the loss by chunks, and of the loss on logits."""
  shapes = jax.eval_shape(lambda: arrays(work, work.tokens))
  def of(fn):
    program = jax.jit(gradient(fn(loss, work.chunk))).lower(*shapes).compile()
    memory: Any = program.memory_analysis()
    return memory.temp_size_in_bytes / 1e9
  return of(by_chunks), of(plain)


def arrays(work, tokens):
  """Hidden states and heads of student and teacher, and labels."""
  keys = jax.random.split(jax.random.key(0), 4)
  hidden, head = (tokens, work.width), (work.width, work.vocabulary)
  draw = lambda key, shape: jax.random.normal(key, shape)
  return (draw(keys[0], hidden), draw(keys[1], head) / work.width**0.5,
          draw(keys[2], hidden), draw(keys[3], head) / work.width**0.5,
          jnp.arange(tokens) % work.vocabulary)


def by_chunks(loss, chunk):
  def mean(*inputs):
    total, count = losses.linear_head(getattr(losses, loss), *inputs,
                                      chunk=chunk)
    return total / count
  return mean


def plain(loss, chunk):
  del chunk
  def mean(hidden, head, teacher_hidden, teacher_head, labels):
    pool = dict(student_logits=hidden @ head, labels=labels)
    if 'teacher_logits' in inspect.signature(getattr(losses, loss)).parameters:
      pool['teacher_logits'] = teacher_hidden @ teacher_head
    return core.masked_mean(core.bind(getattr(losses, loss), pool))
  return mean


def gradient(mean):
  return jax.value_and_grad(mean, (0, 1))


def _cases(work):
  """Case -> `run(count)`, milliseconds per call."""
  inputs = arrays(work, work.timed_tokens)
  hidden, head, other, other_head, _ = inputs
  logits = jnp.ones((work.timed_tokens, work.vocabulary))
  forms = ('nw,wv->nv', 'nw,wv->nv', 'nv,wv->nw', 'nv,nw->wv')
  factors = ((hidden, head), (other, other_head), (logits, head),
             (logits, hidden))
  # One program each: together they would hold two sets of logits.
  programs = [jax.jit(lambda a, b, form=form: jnp.einsum(form, a, b))
              for form in forms]
  def products():
    for program, pair in zip(programs, factors):
      jax.block_until_ready(program(*pair))
  return {PRODUCTS: turns.timed(products)} | {
      loss: turns.timed(jax.jit(gradient(by_chunks(loss, work.chunk))),
                              *inputs) for loss in work.timed}
