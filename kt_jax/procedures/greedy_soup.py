"""Greedy soup: averages models as long as a held-out score does not fall."""
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from kt_jax import core
from kt_jax import merge


class Soup(NamedTuple):
  """What `greedy_soup` made.

  Attributes:
    params: the mean of the members.
    members: indices into the models, in the order in which they came in.
    score: of `params`, held out.
    history: for each model tried, in order, `(model, score with it, kept)`.
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

  The score can only rise from that of the best single model, by construction:
  on the data that it reads. The uniform soup, in which all models take part, is
  `over_tree(linear, models[0], models, [1 / T] * T)`.

  Args:
    models: T pytrees of one structure, or what makes them when indexed.
    score: pytree -> number, higher is better, on held-out data; called T - 1
      times, and T times more without `scores`.
    scores: those of the models alone, if they are known.

  Returns:
    A `Soup`. With one member it is that model bit for bit.

  Raises:
    UserError: no models, or a score that is not a number.

  Departures: models of equal score keep their order. A mean is made anew from
    its members, in one rounding.

  References: wortsman2022soups, Recipe 1.
  """
  count = len(models)
  if not count:
    raise core.UserError('greedy_soup: models is empty; give at least one.')
  if scores is None:
    scores = [score(models[i]) for i in range(count)]
  scores = np.asarray(scores, np.float64)
  if scores.shape != (count,) or np.isnan(scores).any():
    raise core.UserError('greedy_soup: scores must be one number for each of '
                         f'{count} models, got {scores.tolist()}.')
  first, *others = np.argsort(-scores, kind='stable').tolist()
  members, params, best = [first], models[first], float(scores[first])
  history = [(first, best, True)]
  for index in others:
    tried = members + [index]
    mean = merge.over_tree(merge.linear, models[first],
                           [models[i] for i in tried], [1 / len(tried)] *
                           len(tried))
    value = float(score(mean))
    history.append((index, value, value >= best))
    if value >= best:
      members, params, best = tried, mean, value
  return Soup(params, tuple(members), best, tuple(history))
