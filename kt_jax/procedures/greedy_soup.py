"""Greedy soup: averages models while a held-out score does not fall."""
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from kt_jax import core
from kt_jax import merge


class Soup(NamedTuple):
  """The result of `greedy_soup`.

  Attributes:
    params: the mean of the members.
    members: indices of the averaged models, in the order of their addition.
    score: of `params`, held out.
    history: per candidate, in order, `(index, score with it, whether it was
      added)`.
  """
  params: Any
  members: tuple[int, ...]
  score: float
  history: tuple[tuple[int, float, bool], ...]


def greedy_soup(models: Sequence[Any], score: Callable[[Any], float], *,
                scores: Sequence[float] | None = None) -> Soup:
  """Adds models to a mean, best first, if the held-out score does not fall.

    M <- {best};   in falling order of score:
    M <- M + {m} if score(mean(M + {m})) >= score(mean(M))

  By construction the score is at least that of the best single model, on the
  data of the score. The uniform soup, of all models, is
  `over_tree(linear, models[0], models, [1 / T] * T)`.

  Args:
    models: T pytrees of one structure, or a sequence that loads them.
    score: pytree -> number, higher is better, on held-out data; called T - 1
      times, and T times more without `scores`.
    scores: `[T]` scores of the single models, computed if None.

  Returns:
    A `Soup`. With one member it is that model bit for bit.

  Raises:
    UserError: no models, or a score that is not a number.

  Departures: models of equal score keep their order. A mean is computed from
    all its members, with one rounding.

  References: wortsman2022soups, Recipe 1.
  """
  count = len(models)
  if not count:
    raise core.UserError('greedy_soup: models is empty; give at least one.')
  if scores is None:
    scores = [score(models[i]) for i in range(count)]
  singles = np.asarray(scores, np.float64)
  if singles.shape != (count,) or np.isnan(singles).any():
    raise core.UserError('greedy_soup: scores must be one number for each of '
                         f'{count} models, got {singles.tolist()}.')
  first, *others = np.argsort(-singles, kind='stable').tolist()
  members, params, best = [first], models[first], float(singles[first])
  history = [(first, best, True)]
  for index in others:
    larger = members + [index]
    mean = merge.over_tree(merge.linear, models[first],
                           [models[i] for i in larger],
                           [1 / len(larger)] * len(larger))
    value = float(score(mean))
    history.append((index, value, value >= best))
    if value >= best:
      members, params, best = larger, mean, value
  return Soup(params, tuple(members), best, tuple(history))
