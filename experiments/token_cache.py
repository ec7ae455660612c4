"""What frozen decoders say of the training text, on disk.

Of each position the likeliest tokens are kept; what the others have together
follows from them (`train.from_likeliest`).
"""
import hashlib
import json
import os
import pathlib
import shutil
import tempfile

import jax
from jax import numpy as jnp
import numpy as np
import tqdm

from kt_jax import checkpoint
from kt_jax import core
from kt_jax import data
from kt_jax import models

_ARRAYS = dict(tokens=np.int32, log_probs=np.float32)


def sizes(config, teachers) -> dict[str, int]:
  """Teacher -> tokens that are kept of it; empty without a cache.

  Raises:
    UserError: more than the vocabulary has, or fewer than none.
  """
  top_k, found = config.cache.top_k, {}
  for name, t in teachers.items() if top_k else ():
    if not 0 < top_k < t.info.classes:
      raise core.UserError(f'cache.top_k must be from 0 to less than the '
                           f'{t.info.classes} tokens of {name}, got {top_k}.')
    found[name] = top_k
  return found


def lookup(config, teachers, splits):
  """Function that joins what teachers say to a batch, by its `index`."""
  held = {name: _open(config, name, t, splits)
          for name, t in teachers.items()}

  def join(batch):
    return batch | {f'cached/{name}/{array}': np.asarray(
        values[batch['index']], np.float32)
                    for name, arrays in held.items()
                    for array, values in arrays.items()}
  return join


def _open(config, name, trained, splits):
  """Arrays `[N, S, k]` of a teacher, written if they are not there."""
  key = dict(teacher=trained.digest, model=trained.model,
             data=splits.info.fingerprint, top_k=config.cache.top_k)
  home = pathlib.Path(config.cache.folder or data.cache_dir() / 'tokens')
  folder = home / f'{name}-{checkpoint.config_hash(key)}'
  home.mkdir(parents=True, exist_ok=True)
  with data.lock(home / f'.{folder.name}.lock'):
    if not _whole(folder):
      shutil.rmtree(folder, ignore_errors=True)
      part = pathlib.Path(tempfile.mkdtemp(dir=home, prefix='.part-'))
      try:
        _write(part, config, name, trained, splits.train)
        os.replace(part, folder)
      finally:
        shutil.rmtree(part, ignore_errors=True)
  return {array: np.load(folder / f'{array}.npy', mmap_mode='r')
          for array in _ARRAYS}


def _whole(folder) -> bool:
  """Whether the files are those that were written."""
  try:
    said = json.loads((folder / 'digests.json').read_text())
    return said == _digests(folder)
  except (OSError, ValueError):
    return False


def _write(folder, config, name, trained, arrays):
  top_k, shape = config.cache.top_k, (len(arrays), arrays.tokens.shape[1])
  files = {array: np.lib.format.open_memmap(
      folder / f'{array}.npy', 'w+', dtype, (*shape, top_k))
           for array, dtype in _ARRAYS.items()}

  @jax.jit
  def likeliest(tokens, segments):
    logits = models.call(trained.net, trained.params, trained.stats,
                         lambda m: m(tokens, segments))[0]
    said, which = jax.lax.top_k(jax.nn.log_softmax(
        logits.astype(jnp.float32)), top_k)
    return dict(tokens=which, log_probs=said)

  at = 0
  for batch in tqdm.tqdm(
      data.batches_for_eval(arrays, config.evaluate.batch_size), delay=5,
      desc=f'outputs of {name}', disable=None):
    count = int(batch['where'].sum())
    found = likeliest(batch['tokens'], batch['segments'])
    for array, values in found.items():
      files[array][at:at + count] = np.asarray(values)[:count]
    at += count
  for array in files.values():
    array.flush()
  (folder / 'digests.json').write_text(json.dumps(_digests(folder)))


def _digests(folder) -> dict[str, str]:
  found = {}
  for array in _ARRAYS:
    with open(folder / f'{array}.npy', 'rb') as file:
      found[array] = hashlib.file_digest(file, 'blake2b').hexdigest()
  return found
