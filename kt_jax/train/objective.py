"""The sum of losses that a config names."""
from collections.abc import Callable, Mapping
import inspect
from typing import Any

import jax
from jax import numpy as jnp

from kt_jax import core
from kt_jax import losses

Sums = dict[str, tuple[jax.Array, jax.Array]]  # term -> (sum, count)


# What a term may say besides; `train.stage` reads it.
BETWEEN = ('teacher', 'taps', 'teacher_taps', 'module', 'trains', 'each')


def resolve_terms(terms: Mapping[str, Mapping[str, Any]]
                 ) -> dict[str, Callable[..., jax.Array]]:
  """Term -> its loss: a public name of `kt_jax.losses` or `module:function`.

  Raises:
    UserError: no terms, or a loss, setting or parameter that does not exist.
  """
  if not terms:
    raise core.UserError('config.terms is empty: name at least one loss.')
  functions = {}
  for name, term in terms.items():
    fn = core.resolve(losses, term['loss'], f'loss (config.terms.{name})')
    takes = inspect.signature(fn).parameters
    for group in ('kw', 'rename'):
      for setting in term.get(group, {}):
        if setting not in takes:
          raise core.UserError(core.nearest(
              f'parameter of {term["loss"]} (config.terms.{name}.{group})',
              setting, takes))
    functions[name] = fn
  return functions


def make_objective(terms: Mapping[str, Mapping[str, Any]]
                  ) -> Callable[[Mapping[str, Any]], Sums]:
  """`pool of named arrays -> {term: (sum, count)}` from `config.terms`.

  A term is `dict(loss, weight, warmup, kw, rename)`: `kw` the loss's settings,
  `rename` a map from a parameter of the loss to the array that stands in for it
  (self-distillation is `kd` with `teacher_logits` renamed to `initial_logits`).
  A term stops the gradient of everything but the student's arrays.

  Raises:
    UserError: as `resolve_terms`; or a term has what only a stage reads.
  """
  functions = resolve_terms(terms)
  for name, term in terms.items():
    for key in (*BETWEEN, 'learner'):
      if term.get(key) not in (None, '', (), [], 'student'):
        raise core.UserError(f'config.terms.{name}.{key} has no meaning here: '
                             'it is for the experiment distill.')

  def objective(pool):
    sums = {}
    for name, term in terms.items():
      rename = dict(term.get('rename', {}))
      for source in rename.values():
        if source not in pool:
          raise core.UserError(core.nearest(
              f'array (config.terms.{name}.rename)', source, pool))
      seen = dict(pool) | {to: pool[source] for to, source in rename.items()}
      seen = {k: v if k.startswith('student') else jax.lax.stop_gradient(v)
              for k, v in seen.items()}
      values = core.bind(functions[name], seen, **term.get('kw', {}))
      sums[name] = core.masked_sum(values, pool.get('where'))
    return sums
  return objective


def warmed(terms, weights: Mapping[str, jax.Array], step) -> dict[str, Any]:
  """`weights` times each term's linear warm-up at update `step` (from 0)."""
  return {name: weights[name] * jnp.minimum(
      1.0, (step + 1) / max(1, term.get('warmup', 0)))
          for name, term in terms.items()}
