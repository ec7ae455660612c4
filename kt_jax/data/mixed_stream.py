"""Batches whose rows are drawn from domains by shares that may change."""
from collections.abc import Mapping
import math
from typing import Any

import grain
import numpy as np

from kt_jax.core import nearest
from kt_jax.core import UserError
from kt_jax.data.stream import check_batches
from kt_jax.data.stream import ENDLESS
from kt_jax.data.stream import gather
from kt_jax.data.stream import iterate
from kt_jax.data.stream import THREADS
from kt_jax.data.text_arrays import TextArrays

_DRAWS = 3  # keeps these draws apart from the orders of `stream`


class MixedBatches:
  """Grain's random access source of batches at fixed shares."""

  def __init__(self, arrays: TextArrays, batch_size: int, seed: int,
               rows: slice, shares: np.ndarray):
    self._arrays, self._batch_size = arrays, batch_size
    self._seed, self._rows = seed, rows
    self._members = [np.flatnonzero(arrays.domain == k)
                     for k in range(len(shares))]
    self._drawn = np.flatnonzero(shares)  # a domain of share 0 never is
    self._ends = np.cumsum(shares[self._drawn]) / shares.sum()

  def __len__(self) -> int:
    return ENDLESS

  def __repr__(self) -> str:
    return f'MixedBatches({len(self._arrays)} by {self._batch_size})'

  def __getitem__(self, step: int) -> dict[str, np.ndarray]:
    bits = np.random.Philox(np.random.SeedSequence((self._seed, step, _DRAWS)))
    raw = bits.random_raw(2 * self._batch_size).reshape(2, -1)[:, self._rows]
    domain, at = (raw >> 11) * 2.0**-53  # uniform, below 1
    # The last end may be an ulp below 1.
    chosen = self._drawn[np.searchsorted(self._ends[:-1], domain, 'right')]
    index = np.array([self._members[k][int(x * len(self._members[k]))]
                      for k, x in zip(chosen, at)], np.int64)
    return gather(self._arrays, index)


class MixedStream:
  """What `mixed_stream` returns: an iterator whose shares can be changed."""

  def __init__(self, arrays: TextArrays, batch_size: int, seed: int,
               rows: slice, shares: Mapping[str, float], start: int,
               threads: int, lookup=None):
    self._arrays, self._threads, self._lookup = arrays, threads, lookup
    self._settings, self._iterator = (batch_size, seed, rows), None
    self._go(start, shares)

  def _go(self, step: int, shares: Mapping[str, float]) -> None:
    """From batch `step` on, at these shares; drops the batches that wait."""
    shares, values = _checked(self._arrays, shares)
    self.close()
    self._shares = shares
    batches = MixedBatches(self._arrays, *self._settings, values)
    dataset = grain.MapDataset.source(batches)
    if self._lookup is not None:
      dataset = dataset.map(self._lookup)
    self._iterator = iterate(dataset, step, self._threads)

  @property
  def shares(self) -> dict[str, float]:
    """Those of the next batch."""
    return dict(self._shares)

  def set_shares(self, shares: Mapping[str, float]) -> None:
    """Changes the shares from the next batch on.

    Args:
      shares: as those of `mixed_stream`.
    """
    self._go(self._iterator.get_state()['next_index'], shares)

  def get_state(self) -> dict[str, Any]:
    """The number of the next batch and the shares; fit for JSON."""
    return {**self._iterator.get_state(), 'shares': self.shares}

  def set_state(self, state: Mapping[str, Any]) -> None:
    """Goes where `get_state` was called, at once."""
    self._go(state['next_index'], state['shares'])

  def __iter__(self) -> 'MixedStream':
    return self

  def __next__(self) -> dict[str, np.ndarray]:
    return next(self._iterator)

  def close(self) -> None:
    """Stops the threads."""
    if self._iterator is not None:
      self._iterator.close()


def mixed_stream(arrays: TextArrays, *, batch_size: int, seed: int,
                 rows: slice = slice(None),
                 shares: Mapping[str, float] | None = None, start: int = 0,
                 threads: int = THREADS, lookup=None) -> MixedStream:
  """Endless batches; batch i depends on (seed, i) and its shares alone.

  Each row draws its domain by the shares, then one of its rows, all alike and
  with replacement.

  Args:
    arrays: rows of several domains.
    batch_size: of the global batch.
    seed: of the draws.
    rows: the slice of the global batch that this process takes.
    shares: domain -> weight, at least 0; they need not sum to 1, and a domain
      that is not named has none. None: `arrays.domains`.
    start: step of the first batch.
    threads: that gather ahead; 0 for none.
    lookup: changes batches in the reading threads, as that of `stream`.

  Returns:
    An iterator of batches as those of `stream`, with `get_state()`,
    `set_state()`, `close()` and `set_shares()`, which counts from the next
    batch on.

  Raises:
    UserError: no examples, a number out of range, or shares of domains that
      are not there or have no rows.
  """
  check_batches(arrays, batch_size, rows, seed=seed, start=start,
                threads=threads)
  return MixedStream(arrays, batch_size, seed, rows,
                     arrays.domains if shares is None else shares, start,
                     threads, lookup)


def _checked(arrays: TextArrays, shares):
  """The shares as plain numbers, and as `[T]` in the order of the domains."""
  if not isinstance(shares, Mapping) and not hasattr(shares, 'to_dict'):
    raise UserError(f'shares must be a mapping of domains, got {shares!r}.')
  known, plain = list(arrays.domains), {}
  values = np.zeros(len(known))
  for name, share in shares.items():
    if name not in known:
      raise UserError(nearest('domain', name, known))
    try:
      plain[name] = value = float(share)
    except (TypeError, ValueError) as e:
      raise UserError(f'shares.{name} must be a number, got {share!r}.') from e
    if not 0 <= value < math.inf:
      raise UserError(f'shares.{name} must be from 0 on, got {value}.')
    if value and not np.any(arrays.domain == known.index(name)):
      raise UserError(f'shares.{name}={value}, but the domain has no rows.')
    values[known.index(name)] = value
  if not 0 < values.sum() < math.inf:
    raise UserError(f'shares must not all be 0, got {plain}.')
  return plain, values
