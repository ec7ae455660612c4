"""Estimates from few measurements, their errors, and when a claim holds.

Letters: n measurements d_i; G groups g of measurements that share something,
such as a student. Groups are any labels, one a measurement.
"""
import math
from typing import NamedTuple

import numpy as np


class Estimate(NamedTuple):
  """A number from n measurements."""
  value: float
  se: float  # NaN for n < 2
  n: int


NONE = Estimate(math.nan, math.nan, 0)


def verdict(value, se, n, words=('holds', 'undecided', 'fails')) -> str:
  """`words[0]` if value > 2 se, `words[2]` if value < -2 se, else `words[1]`.

  NaN decides nothing, nor do two measurements that happen to agree: 'n<3'.
  """
  if n < 3:
    return 'n<3' if n else 'not run'
  return words[0 if value > 2 * se else 2 if value < -2 * se else 1]


def standard_error(u, groups=None) -> float:
  """Of the sum of residuals u_i; the larger of

    over measurements   sqrt(n / (n - 1) sum_i u_i^2)
    clustered by group  sqrt(G / (G - 1) sum_g (sum_{i in g} u_i)^2), if G > 3
  """
  u, n = np.asarray(u), len(u)
  if n < 2:
    return math.nan
  index = np.unique(range(n) if groups is None else groups,
                    return_inverse=True)[1]
  sums = np.bincount(index, weights=u)
  g = len(sums)
  return max(math.sqrt(n / (n - 1) * np.sum(u**2)),
             math.sqrt(g / (g - 1) * np.sum(sums**2)) if g > 3 else 0.)


def mean(d, groups=None) -> Estimate:
  """Of d_i, or of paired differences; u_i = (d_i - mean d) / n."""
  if not len(d):
    return NONE
  d = np.asarray(d, float)
  with np.errstate(invalid='ignore'):  # of a metric that went to infinity
    u = d - d[0]  # or the mean of equal numbers could be off by an ulp
    u = (u - u.mean()) / len(d)
    return Estimate(float(d.mean()), standard_error(u, groups), len(d))


def welch(a, b) -> Estimate:
  """mean a - mean b of two (d, groups), which may share groups.

    s.e. = sqrt(var a / n_a + var b / n_b), variances with n - 1

  or that clustered over both sides, if larger.
  """
  (x, groups_x), (y, groups_y) = a, b
  if min(len(x), len(y)) < 2:
    return NONE
  u = np.concatenate([(x - x.mean()) / len(x), (y.mean() - y) / len(y)])
  return Estimate(
      float(x.mean() - y.mean()),
      max(math.hypot(mean(x).se, mean(y).se),
          standard_error(u, [*groups_x, *groups_y])), len(u))


def bootstrap(statistic, groups, draws: int = 1000) -> Estimate:
  """`statistic(index, groups)` of any kind, `index` into the measurements.

  Its error is the larger standard deviation of two: over draws with
  replacement of measurements and, if G > 3, of groups. Seeded.
  """
  groups = np.unique(groups, return_inverse=True)[1]
  rng, n = np.random.default_rng(0), len(groups)
  if not n:
    return NONE
  members = [np.flatnonzero(groups == g) for g in range(groups.max() + 1)]
  def measurements():
    index = rng.integers(n, size=n)
    return statistic(index, groups[index])
  def whole_groups():  # one drawn twice counts as two
    drawn = [members[j] for j in rng.integers(len(members), size=len(members))]
    return statistic(np.concatenate(drawn),
                     np.repeat(np.arange(len(drawn)), list(map(len, drawn))))
  ways = [measurements, whole_groups] if len(members) > 3 else [measurements]
  se = max(float(np.std([way() for _ in range(draws)])) for way in ways)
  return Estimate(float(statistic(np.arange(n), groups)),
                  se if n > 1 else math.nan, n)


def wilson(successes: int, n: int) -> tuple[float, float]:
  """95% Wilson interval of a share, in [0, 1]."""
  from scipy import stats  # slow to import
  interval = stats.binomtest(successes, n).proportion_ci(method='wilson')
  return float(interval.low), float(interval.high)


def success_rate(d, groups) -> float:
  """Median over groups of the share of d_i > 0, percent."""
  _, index, n = np.unique(groups, return_inverse=True, return_counts=True)
  return 100 * float(np.median(np.bincount(index, np.asarray(d) > 0) / n))


def worst_quartile(d) -> float:
  """Mean of the lowest quarter, rounded up."""
  return float(np.mean(np.sort(d)[:math.ceil(len(d) / 4)]))
