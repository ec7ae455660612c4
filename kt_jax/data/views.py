"""Fixed augmentations of every example, in order."""
from collections.abc import Iterator
import numbers

import numpy as np

from kt_jax.core import UserError
from kt_jax.data import augment as augment_lib
from kt_jax.data.arrays import Arrays
from kt_jax.data.stream import batches_for_eval


def views(arrays: Arrays, view: int, *, batch_size: int, seed: int,
          augment=()) -> Iterator[dict[str, np.ndarray]]:
  """The examples as `stream(arrays, views=K)` shows them in epochs view + i K.

  Args:
    arrays: the examples.
    view: >= 0.
    batch_size: of every batch; the last is filled up with zeros. Examples do
      not depend on it.
    seed: `view_seed` of the stream.
    augment: that of the stream.

  Returns:
    Batches as those of `batches_for_eval`, and 'view' int32 `[b]`.

  Raises:
    UserError: no examples or a number out of range, at the call.
  """
  for name, value in [('view', view), ('seed', seed)]:
    if not isinstance(value, numbers.Integral) or isinstance(value, bool) or (
        int(value) < 0):
      raise UserError(f'{name} must be an integer >= 0, got {value!r}.')
  chosen = augment_lib.parse_augment(augment)

  def with_view(batch):
    batch['view'] = np.full(len(batch['ids']), view, np.int32)
    valid = batch['where']
    batch['images'][valid] = augment_lib.by_example(
        chosen, seed, batch['images'][valid], batch['ids'][valid],
        batch['view'][valid])
    return batch

  return map(with_view, batches_for_eval(arrays, batch_size))


def augmented(arrays: Arrays, augment, seed: int) -> Arrays:
  """A copy of a split with each image augmented once.

  For test sets that differ from the training set, such as shifted digits. An
  image depends on (seed, its id) only.

  Args:
    arrays: the examples, which must fit in memory.
    augment: name -> settings, as in `stream`.
    seed: of the augmentation.
  """
  batches = views(arrays, 0, batch_size=256, seed=seed, augment=augment)
  images = np.concatenate([x['images'][x['where']] for x in batches])
  return Arrays(images, arrays.labels, arrays.ids)
