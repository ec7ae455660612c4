"""Batches with rows drawn from domains by shares that may change."""
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

_DRAWS = 3  # separates these draws from the orders of `stream`


class MixedBatches:
  """Grain's random access source of batches at fixed shares."""

  def __init__(self, arrays: TextArrays, batch_size: int, seed: int,
               rows: slice, shares: np.ndarray):
    self._arrays, self._batch_size = arrays, batch_size
    self._seed, self._rows = seed, rows
    self._members = [np.flatnonzero(arrays.domain == k)
                     for k in range(len(shares))]
    self._positive = np.flatnonzero(shares)  # domains that are drawn from
    self._ends = np.cumsum(shares[self._positive]) / shares.sum()

  def __len__(self) -> int:
    return ENDLESS

  def __repr__(self) -> str:
    return f'MixedBatches({len(self._arrays)} by {self._batch_size})'

  def __getitem__(self, step: int) -> dict[str, np.ndarray]:
    bits = np.random.Philox(np.random.SeedSequence((self._seed, step, _DRAWS)))
    raw = bits.random_raw(2 * self._batch_size).reshape(2, -1)[:, self._rows]
    domain, at = (raw >> 11) * 2.0**-53  # uniform, below 1
    # The last end may be an ulp below 1.
    chosen = self._positive[np.searchsorted(self._ends[:-1], domain, 'right')]
    index = np.array([self._members[k][int(x * len(self._members[k]))]
                      for k, x in zip(chosen, at)], np.int64)
    return gather(self._arrays, index)


class MixedStream:
  """An iterator of batches with shares that can be changed."""

  def __init__(self, arrays: TextArrays, batch_size: int, seed: int,
               rows: slice, shares: Mapping[str, float], start: int,
               threads: int, lookup=None):
    self._arrays, self._threads, self._lookup = arrays, threads, lookup
    self._settings = batch_size, seed, rows
    self._iterator = self._iterate(start, shares)

  def _iterate(self, step: int, shares: Mapping[str, float]) -> Any:
    """Batches from `step` on, at these shares."""
    self._shares, values = _check_shares(self._arrays, shares)
    batches: Any = MixedBatches(self._arrays, *self._settings, values)
    dataset = grain.MapDataset.source(batches)
    if self._lookup is not None:
      dataset = dataset.map(self._lookup)
    return iterate(dataset, step, self._threads)

  def _go(self, step: int, shares: Mapping[str, float]) -> None:
    """Continues at batch `step` with these shares; drops prefetched batches."""
    iterator = self._iterate(step, shares)
    self.close()
    self._iterator = iterator

  @property
  def shares(self) -> dict[str, float]:
    """Shares of the next batch."""
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
    """Continues where `get_state` was called, at once."""
    self._go(state['next_index'], state['shares'])

  def __iter__(self) -> 'MixedStream':
    return self

  def __next__(self) -> dict[str, np.ndarray]:
    return next(self._iterator)

  def close(self) -> None:
    """Stops the threads."""
    self._iterator.close()


def mixed_stream(arrays: TextArrays, *, batch_size: int, seed: int,
                 rows: slice = slice(None),
                 shares: Mapping[str, float] | None = None, start: int = 0,
                 threads: int = THREADS, lookup=None) -> MixedStream:
  """Endless batches; batch i depends on (seed, i) and its shares only.

  Each row draws its domain by the shares, then one of the domain's rows,
  uniformly and with replacement.

  Args:
    arrays: rows of several domains.
    batch_size: of the global batch.
    seed: of the draws.
    rows: the slice of the global batch that this process takes.
    shares: domain -> weight >= 0; they need not sum to 1, and absent domains
      have weight 0. None: `arrays.domains`.
    start: step of the first batch.
    threads: that prefetch; 0 for none.
    lookup: changes batches in the reading threads, as in `stream`.

  Returns:
    An iterator of batches as those of `stream`, with `get_state()`,
    `set_state()`, `close()` and `set_shares()`, which takes effect at the next
    batch.

  Raises:
    UserError: no examples, a number out of range, or shares of domains that
      do not exist or have no rows.
  """
  check_batches(arrays, batch_size, rows, seed=seed, start=start,
                threads=threads)
  return MixedStream(arrays, batch_size, seed, rows,
                     arrays.domains if shares is None else shares, start,
                     threads, lookup)


def _check_shares(arrays: TextArrays, shares):
  """The shares as plain numbers, and as `[T]` in the order of the domains."""
  if not isinstance(shares, Mapping) and not hasattr(shares, 'to_dict'):
    raise UserError(f'shares must be a mapping of domains, got {shares!r}.')
  domains, plain = list(arrays.domains), {}
  values = np.zeros(len(domains))
  for name, share in shares.items():
    if name not in domains:
      raise UserError(nearest('domain', name, domains))
    try:
      plain[name] = value = float(share)
    except (TypeError, ValueError) as e:
      raise UserError(f'shares.{name} must be a number, got {share!r}.') from e
    if not 0 <= value < math.inf:
      raise UserError(f'shares.{name} must be >= 0, got {value}.')
    if value and not np.any(arrays.domain == domains.index(name)):
      raise UserError(f'shares.{name}={value}, but the domain has no rows.')
    values[domains.index(name)] = value
  if not 0 < values.sum() < math.inf:
    raise UserError(f'shares must not all be 0, got {plain}.')
  return plain, values
