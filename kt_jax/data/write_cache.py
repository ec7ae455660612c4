"""Writes the outputs of a teacher for every example, for `read_cache`."""
from collections.abc import Callable, Mapping
import json
import logging
import os
import pathlib
import shutil
import tempfile
from typing import Any

import numpy as np
import tqdm

from kt_jax.core import UserError
from kt_jax.data.arrays import Arrays
from kt_jax.data.cache import lock
from kt_jax.data.records import Damaged
from kt_jax.data.records import LARGEST
from kt_jax.data.records import Layout
from kt_jax.data.records import Records
from kt_jax.data.records import Writer
from kt_jax.data.stream import batches_for_eval
from kt_jax.data.teacher_cache import FILE
from kt_jax.data.teacher_cache import FORMAT
from kt_jax.data.teacher_cache import full_key
from kt_jax.data.teacher_cache import META
from kt_jax.data.teacher_cache import open_cache
from kt_jax.data.teacher_cache import same_key
from kt_jax.data.teacher_cache import TeacherCache
from kt_jax.data.text_arrays import TextArrays
from kt_jax.data.views import views as views_of


def write_cache(
    folder, outputs: Callable[[Mapping[str, Any]], Mapping[str, Any]],
    arrays: Arrays | TextArrays, *, key: Mapping[str, Any], views: int = 1,
    batch_size: int = 256, top_k: int = 0, dtype: str = 'float16',
    seed: int = 0, augment=(), name: str = 'teacher') -> TeacherCache:
  """Writes the outputs of a teacher for every example, unless they are there.

  The folder appears whole or not at all; processes that want the same one wait
  for the one that writes.

  Args:
    folder: of this cache alone.
    outputs: batch of b = `batch_size` examples (`images` uint8 `[b, H, W, C]`,
      or `tokens` and `segments` `[b, S]`) -> name -> array `[b, ...]`;
      'logits' are `[b, K]` or `[b, S, V]`.
    arrays: the examples; text has one view.
    key: what the outputs depend on, as JSON: digest of the teacher, fingerprint
      of the data. All settings below that change a number join it.
    views: of each example, as `stream(views=...)` makes them.
    batch_size: of `outputs`.
    top_k: how many of the largest logits are kept; 0: all.
    dtype: of what is kept, float16 or float32.
    seed: of the views, the stream's `view_seed`.
    augment: of the views.
    name: of the teacher, for messages.

  Returns:
    The cache.

  Raises:
    UserError: the folder holds something else; a value is not finite or does
      not fit the dtype; it cannot be written.
  """
  folder = pathlib.Path(folder).absolute()
  if dtype not in LARGEST:
    raise UserError(
        f'dtype must be one of {", ".join(LARGEST)}, got {dtype!r}.')
  if not isinstance(views, int) or isinstance(views, bool) or views < 1:
    raise UserError(f'views must be an integer from 1 on, got {views!r}.')
  text = isinstance(arrays, TextArrays)
  if text and views > 1:
    raise UserError(f'views must be 1 for text, got {views!r}.')
  full = full_key(key, views=views, top_k=top_k, dtype=dtype, seed=seed,
                  augment=augment)
  folder.parent.mkdir(parents=True, exist_ok=True)
  with lock(folder.parent / f'.{folder.name}.lock') as alone:
    if folder.exists() and any(folder.iterdir()):
      try:
        same_key(folder, full)
        return open_cache(folder)
      except Damaged:
        logging.getLogger('kt_jax').warning(
            '%s is damaged; writing it again.', folder)
        shutil.rmtree(folder)
    if alone:  # what a killed process has left
      for stale in folder.parent.glob(f'.{folder.name}.part-*'):
        shutil.rmtree(stale, ignore_errors=True)
    part = pathlib.Path(tempfile.mkdtemp(
        dir=folder.parent, prefix=f'.{folder.name}.part-'))
    try:
      batches = batches_for_eval(arrays, batch_size) if text else (
          batch for view in range(views) for batch in views_of(
              arrays, view, batch_size=batch_size, seed=seed, augment=augment))
      layout = _write(part / FILE, outputs, batches, len(arrays) * views,
                      top_k, dtype, name)
      content = dict(
          format=FORMAT, key=full, examples=len(arrays), views=views,
          layout=layout.to_json(), bytes=(part / FILE).stat().st_size,
          digest=Records.digest(part / FILE))
      (part / META).write_text(json.dumps(content, indent=1, sort_keys=True))
      os.replace(part, folder)
    except OSError as e:
      raise UserError(f'Cannot write the outputs of {name} to {folder}: {e}'
                      ) from e
    finally:
      shutil.rmtree(part, ignore_errors=True)
  return open_cache(folder)


def _write(path, outputs, batches, total: int, top_k: int, dtype: str,
           name: str) -> Layout:
  """Writes the records of all batches; the first says what they look like."""
  layout: Layout | None = None
  writer: Writer | None = None
  with tqdm.tqdm(total=total, delay=5, unit=' examples',
                 desc=f'outputs of {name}', disable=None) as bar:
    for batch in batches:
      values = {n: np.asarray(v) for n, v in outputs(batch).items()}
      values = {n: _finite(v, n, batch, dtype, name) for n, v in values.items()}
      if layout is None:
        classes = values['logits'].shape[-1] if 'logits' in values else 0
        if not 0 <= top_k < max(classes, 1):
          raise UserError(f'top_k must be from 0 (all) to {classes - 1}, one '
                          f'less than the classes of {name}, got {top_k!r}.')
        layout = Layout({n: v.shape[1:] for n, v in values.items()}, dtype,
                        top_k)
        writer = Writer(path, total * layout.dtype.itemsize)
      assert writer is not None
      records = layout.pack(values)
      writer.write(records)
      bar.update(len(records))
  assert layout is not None and writer is not None  # there are examples
  writer.close()
  return layout


def _finite(value, array: str, batch, dtype: str, name: str) -> np.ndarray:
  """The valid rows of `value` in float32; refuses what `dtype` cannot hold."""
  valid = batch['where']
  if value.shape[:1] != valid.shape or array == 'logits' and (
      value.ndim != (3 if 'tokens' in batch else 2)):
    raise UserError(f'{name}: {array} of {len(valid)} examples has shape '
                    f'{value.shape}; the first axis counts examples, and '
                    'logits are [b, K] of images, [b, S, V] of tokens.')
  value = value[valid].astype(np.float32)
  bad = ~(np.abs(value) <= LARGEST[dtype])  # NaN too
  if bad.any():
    at = tuple(np.argwhere(bad)[0])
    what = (f"does not fit {dtype}: set dtype='float32'"
            if np.isfinite(value[at]) else 'is not finite')
    raise UserError(
        f'{name}: {array} of example {batch["ids"][valid][at[0]]}, view '
        f'{batch["view"][0] if "view" in batch else 0}, is {value[at]}, which '
        f'{what}.')
  return value
