"""Permutations that align the activations of two networks."""
from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy import optimize

from kt_jax import core
from kt_jax.align import spec as specs


def activation_matching(features_a: Mapping[str, Any],
                        features_b: Mapping[str, Any], spec: specs.Spec
                       ) -> dict[str, np.ndarray]:
  """Reorders A's units so that their activations resemble B's.

    max over p of  sum_j corr(a_{p[j]}, b_j)   for each group separately

  Args:
    features_a: name of each group -> `[N, ..., units]`, activations of A; for
      networks of kt_jax, the tap of `models.apply` at the group's name. Units
      that are blocks (heads) are laid out in the last axis as in the spec.
    features_b: the same of B, on the same inputs in the same order.
    spec: path of every leaf -> an entry for each axis (see `kt_jax.align`).

  Returns:
    Name of each group -> `[units]` int, the argument of `permute` for A.

  Raises:
    UserError: features of other groups than the spec's, or of two shapes.

  Departures: correlations, as in later work; the paper matches inner products,
  which units of large activations dominate. Constant units have correlation 0
  with all. The correlation of blocks is over all their entries.

  References: ainsworth2022rebasin, Sec. 3.1.
  """
  groups = specs.group_names(spec)
  specs.check_names('features_a', features_a, groups)
  specs.check_names('features_b', features_b, groups)
  orders = {}
  for name, entry in groups.items():
    a, b = (_standardized(specs.feature_units(name, entry, features[name]))
            for features in (features_a, features_b))
    if a.shape != b.shape:
      raise core.UserError(
          f'activation_matching: group {name!r} has [units, samples] {a.shape} '
          f'in features_a, {b.shape} in features_b.')
    orders[name] = optimize.linear_sum_assignment(b @ a.T, maximize=True)[1]
  return orders


def _standardized(x: np.ndarray) -> np.ndarray:
  """Rows of mean 0 and length 1; constant rows become 0."""
  largest = np.abs(x).max(1, keepdims=True)
  x = x - x.mean(1, keepdims=True)
  length = np.linalg.norm(x, axis=1, keepdims=True)
  # A constant row differs from its mean by rounding.
  flat = length <= 1e-12 * largest * np.sqrt(x.shape[1])
  return np.where(flat, 0, x / np.where(flat, 1, length))
