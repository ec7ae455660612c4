"""Training sets with rare classes and wrong labels.

Letters: N examples, K classes, n_k examples of class k.
"""
import numpy as np

from kt_jax.core import UserError
from kt_jax.data.arrays import permutation


def long_tailed(total: int, classes: int, ratio: float) -> np.ndarray:
  """Examples `[K]` of each class, from `total` in equal shares.

    n_k = n / K * ratio^(-k / (K - 1)), rounded down, at least 1
  """
  share = np.arange(classes) / max(classes - 1, 1)
  # An integer may come out an ulp too small.
  counts = np.floor(total / classes * float(ratio)**-share + 1e-9)
  return np.maximum(counts, 1).astype(np.int64)


def shared(labels: np.ndarray, shares, seed: int) -> np.ndarray:
  """Ascending positions of the share of each class, rounded down."""
  chosen = []
  for k, share in enumerate(shares):
    where = np.flatnonzero(labels == k)
    count = int(len(where) * float(share) + 1e-9)
    chosen.append(where[permutation(len(where), seed, k, 1)[:count]])
  return np.sort(np.concatenate(chosen))


def imbalanced(labels: np.ndarray, counts: np.ndarray,
               seed: int) -> np.ndarray:
  """Ascending positions of `counts[k]` examples of each class k.

  Classes of about equal size differ by a few examples: where one lacks some,
  the first classes with more than their count fill up, so that the total holds.

  Raises:
    UserError: a class lacks more than a tenth of its count.
  """
  available = np.bincount(labels, minlength=len(counts))
  short = np.flatnonzero(available < 0.9 * counts - 1)
  if short.size:
    k = short[0]
    raise UserError(f'data.imbalance needs {counts[k]} examples of class {k}, '
                    f'there are {available[k]}: it is for sets with classes of '
                    'about equal size.')
  taken = np.minimum(available, counts)
  lack = counts.sum() - taken.sum()
  for k in range(len(counts)):
    more = min(lack, available[k] - taken[k])
    taken[k], lack = taken[k] + more, lack - more
  chosen = []
  for k, count in enumerate(taken):
    where = np.flatnonzero(labels == k)
    chosen.append(where[permutation(len(where), seed, k, 1)[:count]])
  return np.sort(np.concatenate(chosen))


def mislabeled(labels: np.ndarray, classes: int, share: float,
               seed: int) -> np.ndarray:
  """Labels with a share, to one example, replaced by another, uniform class."""
  bits = np.random.Philox(np.random.SeedSequence((seed, 2)))
  chosen = permutation(len(labels), seed, 2, 0)[:round(share * len(labels))]
  turn = bits.random_raw(len(labels)) % np.uint64(max(classes - 1, 1)) + 1
  labels = labels.copy()
  labels[chosen] = (labels[chosen] + turn[chosen].astype(np.int64)) % classes
  return labels
