"""Rows of tokens.

Axes: N rows, S positions. Segment 0 is padding; 1, 2, ... are the texts of a
row. `targets` marks the tokens to predict, each from the position before it.
"""
from collections.abc import Mapping
import dataclasses

import numpy as np

from kt_jax.core import UserError


@dataclasses.dataclass(frozen=True)
class TextArrays:
  """Rows of tokens of one split.

  Attributes:
    tokens: int32 `[N, S]`.
    segments: int32 `[N, S]`, 0 for padding.
    targets: bool `[N, S]`, the tokens to predict.
    ids: int64 `[N]`: domain times 2^32 plus the number of the row in the split
      of the domain.
    domain: int32 `[N]`, position in `domains`.
    domains: name -> share in the config, for `mixed_stream`.
  """
  tokens: np.ndarray
  segments: np.ndarray
  targets: np.ndarray
  ids: np.ndarray
  domain: np.ndarray
  domains: Mapping[str, float]

  def __post_init__(self):
    shape = np.shape(self.tokens)
    if len(shape) != 2:
      raise UserError(f'tokens must be [N, S], got {shape}.')
    for name, expected, dtype in [
        ('tokens', shape, np.int32), ('segments', shape, np.int32),
        ('targets', shape, np.bool_), ('ids', shape[:1], np.int64),
        ('domain', shape[:1], np.int32)]:
      value = getattr(self, name)
      if value.shape != expected or value.dtype != dtype:
        raise UserError(f'{name} must be {np.dtype(dtype)} {expected}, got '
                        f'{value.dtype} {value.shape}.')
    if self.domain.size and not (
        0 <= self.domain.min() and self.domain.max() < len(self.domains)):
      raise UserError(f'domain must be from 0 to {len(self.domains) - 1}.')

  def __len__(self) -> int:
    return len(self.ids)

  def take(self, index: np.ndarray) -> 'TextArrays':
    """The rows at `index`, in that order."""
    return TextArrays(**self.batch(np.asarray(index, np.int64)),
                      domains=self.domains)

  def batch(self, index: np.ndarray | slice) -> dict[str, np.ndarray]:
    """The arrays of the rows at `index`."""
    return {name: getattr(self, name)[index] for name in (
        'tokens', 'segments', 'targets', 'ids', 'domain')}
