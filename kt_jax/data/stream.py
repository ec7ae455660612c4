"""Batches as a function of (seed, step) only, through Grain.

Element i of the Grain source is the i-th global batch. Its state is one
integer, so a run that resumes at step 1e6 replays nothing.
"""
from collections.abc import Callable, Iterator
import functools
import numbers
import os
from typing import Any

from absl import flags
import grain
import numpy as np

from kt_jax.core import UserError
from kt_jax.data import augment as augment_lib
from kt_jax.data.arrays import Arrays
from kt_jax.data.arrays import permutation
from kt_jax.data.text_arrays import TextArrays

LARGEST_BATCH = 1 << 20
ENDLESS = 1 << 48  # batches; Grain needs a length
AHEAD = 2  # prefetched batches per reading thread
THREADS = min(4, os.cpu_count() or 1)


class Batches:
  """Grain's random access source of global batches, or of some rows of each.

  The index stream is the concatenation of one permutation of the examples for
  each epoch, keyed by (seed, epoch); a batch may begin in one and end in the
  next.
  """

  def __init__(self, arrays: Arrays | TextArrays, batch_size: int, seed: int,
               rows: slice, views: int = 0):
    self._arrays, self._batch_size = arrays, batch_size
    self._rows, self._views = np.arange(batch_size)[rows], views
    n = len(arrays)
    # Threads may work on both sides of the end of an epoch.
    self._permutation = functools.lru_cache(maxsize=2)(
        lambda epoch: permutation(n, seed, epoch))

  def __len__(self) -> int:
    return ENDLESS

  def __repr__(self) -> str:
    return f'Batches({len(self._arrays)} by {self._batch_size})'

  def indices(self, step: int) -> tuple[np.ndarray, np.ndarray]:
    """`(index, epoch)` of the examples in the rows of batch `step`."""
    epochs, at = np.divmod(step * self._batch_size + self._rows,
                           len(self._arrays))
    index = np.empty(len(at), np.int64)
    for epoch in np.unique(epochs):
      rows = epochs == epoch
      index[rows] = self._permutation(int(epoch))[at[rows]]
    return index, epochs

  def __getitem__(self, step: int) -> dict[str, np.ndarray]:
    index, epochs = self.indices(step)
    batch = gather(self._arrays, index)
    if self._views:
      batch['view'] = (epochs % self._views).astype(np.int32)
    return batch


def gather(arrays: Arrays | TextArrays,
           index: np.ndarray) -> dict[str, np.ndarray]:
  """The batch of the examples at `index`."""
  return arrays.batch(index) | {'index': index.astype(np.int32)}


def stream(arrays: Arrays | TextArrays, *, batch_size: int, seed: int,
           augment=(), start: int = 0, rows: slice = slice(None),
           views: int = 0, view_seed: int = 0,
           lookup: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]
           | None = None,
           threads: int = THREADS) -> grain.DatasetIterator:
  """Endless batches of numpy arrays; batch i depends on (seed, i) only.

  Args:
    arrays: the examples, images or text.
    batch_size: of the global batch.
    seed: of order and augmentation.
    augment: name -> settings of `data.augment`; applied in its `ORDER`.
    start: step of the first batch.
    rows: the slice of the global batch for this process. The slices of several
      processes, joined, are the batch of a single process.
    views: 0: augmentation differs in every batch. K > 0: it depends on
      `view_seed`, the id of the example and the epoch modulo K only, so that
      there are K views of each example, and outputs of a teacher can be cached
      for runs of every seed.
    view_seed: of the views.
    lookup: changes batches after augmentation, in the reading threads, such as
      the result of `attach_cached`.
    threads: that prefetch; 0 for none. Batches do not depend on them.

  Returns:
    An iterator of {'images': uint8 `[b, H, W, C]`, 'labels': int32 `[b]`,
    'ids': int64 `[b]`, 'index': int32 `[b]`, positions in `arrays`}, and with
    `views` 'view': int32 `[b]`; of text, of the arrays of `TextArrays` and
    'index'. `get_state()` is a small dict fit for JSON, `set_state()` continues
    there at once, `close()` stops the threads.

  Raises:
    UserError: no examples, or a number out of range.
  """
  check_batches(arrays, batch_size, rows, seed=seed, start=start,
                threads=threads, views=views, view_seed=view_seed)
  batches: Any = Batches(arrays, batch_size, seed, rows, views)
  dataset = grain.MapDataset.source(batches)
  chosen = augment_lib.parse_augment(augment)
  if chosen and not isinstance(arrays, Arrays):
    raise UserError('augment is for images.')
  if views and chosen:
    dataset = dataset.map(lambda batch: batch | {
        'images': augment_lib.by_example(
            chosen, view_seed, batch['images'], batch['ids'], batch['view'])})
  else:
    for name, augmentation in chosen:
      dataset = dataset.random_map(
          augment_lib.Transform(augmentation, batch_size, rows),
          seed=augment_lib.seed_of(name, seed))
  if lookup is not None:
    dataset = dataset.map(lookup)
  return iterate(dataset, start, threads)


def iterate(dataset: grain.MapDataset, start: int,
            threads: int) -> grain.DatasetIterator:
  """Batches of a data set of batches, from number `start` on."""
  iterator = iter(dataset.to_iter_dataset(grain.ReadOptions(
      num_threads=threads, prefetch_buffer_size=AHEAD * threads)))
  if start:
    iterator.set_state({'next_index': start})
  return iterator


def batches_for_eval(arrays: Arrays | TextArrays,
                     batch_size: int) -> Iterator[dict[str, np.ndarray]]:
  """Every example once and in order, in batches of one shape.

  Args:
    arrays: the examples.
    batch_size: of every batch; the last is filled up with zeros.

  Returns:
    Batches as those of `stream`, without 'view' and with 'where' bool `[b]`,
    True for examples.

  Raises:
    UserError: no examples or a batch size out of range, at the call.
  """
  check_batch_size(batch_size)
  if not len(arrays):
    raise UserError('There are no examples to evaluate on.')

  def batches():
    for first in range(0, len(arrays), batch_size):
      batch = gather(arrays, np.arange(
          first, min(first + batch_size, len(arrays))))
      batch['where'] = np.ones(len(batch['ids']), bool)
      lack = batch_size - len(batch['ids'])
      yield {k: np.pad(v, [(0, lack)] + [(0, 0)] * (v.ndim - 1))
             for k, v in batch.items()}

  return batches()


def check_batches(arrays, batch_size: int, rows: slice, **integers) -> None:
  """Checks the arguments of a stream, and marks the flags of Grain as parsed.
  """
  check_batch_size(batch_size)
  for name, value in integers.items():
    if not _is_int(value) or not 0 <= value < ENDLESS:
      raise UserError(f'{name} must be an integer >= 0, got {value!r}.')
  if not len(arrays):
    raise UserError('There are no examples to make batches of.')
  if not isinstance(rows, slice) or not range(batch_size)[rows]:
    raise UserError(f'rows must be a nonempty slice of the {batch_size} rows '
                    f'of a batch, got {rows!r}.')
  if not flags.FLAGS.is_parsed():  # Grain reads flags, also in notebooks
    flags.FLAGS.mark_as_parsed()


def check_batch_size(batch_size: int) -> None:
  """Checks the number of examples in a batch."""
  if not _is_int(batch_size) or not 1 <= batch_size <= LARGEST_BATCH:
    raise UserError(f'batch_size must be an integer from 1 to {LARGEST_BATCH}, '
                    f'got {batch_size!r}.')


def _is_int(value) -> bool:
  return isinstance(value, numbers.Integral) and not isinstance(value, bool)
