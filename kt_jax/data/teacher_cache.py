"""On-disk cache of teacher outputs, per example and augmented view.

A folder holds `outputs.array_record`, one record a (view, example) with every
array of it side by side, and `meta.json`: what the records depend on (the key),
their layout and a digest. Logits may be cut to their largest `top_k`.

Axes: b examples, K classes, k of them kept.
"""
from collections.abc import Callable, Mapping
import json
import math
import pathlib
from typing import Any

import jax
from jax import numpy as jnp
import numpy as np

from kt_jax.core import UserError
from kt_jax.data.records import Damaged
from kt_jax.data.records import Layout
from kt_jax.data.records import Records

FILE, META, FORMAT = 'outputs.array_record', 'meta.json', 1


class TeacherCache:
  """The arrays of a folder; safe to read from many threads.

  Attributes:
    key: what the outputs depend on.
    examples: N.
    views: of each example.
    names: of the arrays.
  """

  def __init__(self, folder: pathlib.Path, meta: dict[str, Any]):
    self.key, self.examples = meta['key'], meta['examples']
    self.views = meta['views']
    self._layout = Layout.from_json(meta['layout'])
    self.names = self._layout.names
    self._records = Records(folder / FILE, self._layout.dtype,
                            self.examples * self.views, meta['bytes'],
                            meta['digest'])

  def lookup(self, index, view) -> dict[str, np.ndarray]:
    """The arrays of some examples.

    Args:
      index: `[b]` integers, positions in the split that was written.
      view: `[b]` integers, or one for all.

    Returns:
      name -> float32 `[b, ...]`. Logits of which only some were kept come with
      `logits/class` and `logits/rest`, which `fill_logits` takes.

    Raises:
      UserError: a position or view that is not there, or a damaged file.
    """
    index, view = np.broadcast_arrays(np.asarray(index, np.int64), view)
    if index.size and not (0 <= index.min() and index.max() < self.examples
                           and 0 <= view.min() and view.max() < self.views):
      raise UserError(
          f'The cached outputs are of {self.examples} examples in {self.views} '
          f'view(s); index {index.min()} to {index.max()}, view {view.min()} '
          f'to {view.max()} were asked for.')
    return self._layout.unpack(self._records[view * self.examples + index])


def fill_logits(logits: jax.Array, classes: jax.Array, rest: jax.Array,
                count: int) -> jax.Array:
  """Logits `[..., K]` of which the k largest were kept.

  The probability of the others together is spread evenly over them, so that
  those of the kept ones are right.

  Args:
    logits: `[..., k]`.
    classes: `[..., k]` int32, distinct.
    rest: `[...]` log of the sum of the exponentials of the others.
    count: K > k.
  """
  others = rest - math.log(count - logits.shape[-1])
  whole = jnp.broadcast_to(others[..., None], (*rest.shape, count))
  return jnp.put_along_axis(whole, classes, logits, -1, inplace=False)


def attach_cached(caches: Mapping[str, TeacherCache]) -> Callable[[dict], dict]:
  """A `lookup` for `stream`: adds 'cached/<teacher>/<array>' to its batches.

  A cache of one view serves every view of the stream: its teacher always sees
  an example in the same way. Other caches want a stream with as many views.

  Args:
    caches: name of the teacher -> what `read_cache` returns.
  """
  def lookup(batch):
    outputs = {}
    for teacher, cache in caches.items():
      view = batch.get('view', 0) if cache.views > 1 else 0
      if cache.views > 1 and 'view' not in batch:
        raise UserError(f'The cache of {teacher} has {cache.views} views, the '
                        'stream none: give it as many.')
      for name, value in cache.lookup(batch['index'], view).items():
        outputs[f'cached/{teacher}/{name}'] = value
    return batch | outputs
  return lookup


def read_cache(folder, key: Mapping[str, Any]) -> TeacherCache:
  """Opens what `write_cache` wrote.

  Args:
    folder: of the cache.
    key: `full_key(...)`, all that the outputs must have been made from.

  Raises:
    UserError: there is none, it was made from something else, or is damaged.
  """
  folder = pathlib.Path(folder).absolute()
  same_key(folder, plain(key))
  return open_cache(folder)


def full_key(key: Mapping[str, Any], *, views: int = 1, top_k: int = 0,
             dtype: str = 'float16', seed: int = 0, augment=()
             ) -> dict[str, Any]:
  """`key` and the settings of `write_cache`, as plain JSON values."""
  if not hasattr(augment, 'items'):
    augment = dict.fromkeys(augment, {})
  return plain(dict(key) | dict(views=views, top_k=top_k, dtype=dtype,
                                 seed=seed, augment=augment))


def _meta(folder: pathlib.Path) -> dict[str, Any]:
  try:
    meta = json.loads((folder / META).read_text())
    if meta['format'] != FORMAT or not isinstance(meta['key'], dict):
      raise ValueError(meta['format'])
    return meta
  except FileNotFoundError as e:
    raise UserError(f'There are no cached outputs at {folder}.') from e
  except (OSError, ValueError, KeyError, TypeError) as e:
    raise Damaged(folder / META) from e


def same_key(folder: pathlib.Path, key: Mapping[str, Any]) -> None:
  """Refuses a folder that was made from something else than `key`."""
  was = _meta(folder)['key']
  differ = [k for k in sorted({*was, *key})
            if was.get(k, 'absent') != key.get(k, 'absent')]
  if differ:
    shown = '; '.join(f'{k} was {was.get(k, "absent")!r}, now '
                      f'{key.get(k, "absent")!r}' for k in differ[:3])
    raise UserError(f'{folder} holds outputs that were made from something '
                    f'else ({shown}). Name another folder or delete it.')


def open_cache(folder: pathlib.Path) -> TeacherCache:
  """The cache in a folder, whatever it was made from."""
  try:
    return TeacherCache(folder, _meta(folder))
  except (KeyError, TypeError) as e:
    raise Damaged(folder / META) from e


def plain(value) -> dict[str, Any]:
  """A mapping as JSON gives it back."""
  return json.loads(json.dumps(
      dict(value.items()), default=lambda x: dict(x.items())))
