"""Embeddings with the rows of one vocabulary, read from the files."""
from collections.abc import Mapping
import functools
import re
import threading

from jax import numpy as jnp
import numpy as np

from kt_jax import checkpoint
from kt_jax import core

ZERO, MEAN, REST = -1, -2, -3  # rows of no model; of all; of no token

_BLOCK = 2 ** 20
_NAMES = re.compile(
    r'(.*\.)?(embed_tokens|wte|word_embeddings|tok_embeddings|embed_in|'
    r'embed_out|lm_head(\.(decoder|linear))?|vocab_projector|'
    r'cls\.predictions(\.decoder)?)\.(weight|bias)|'
    r'(model\.|transformer\.)?(shared|output|output_layer)\.weight|'
    r'(backbone\.)?embeddings\.weight')


def is_vocabulary(name: str) -> bool:
  """Whether a tensor of this name has one row for each token."""
  return _NAMES.fullmatch(name) is not None


class RowsTensor(checkpoint.Tensor):
  """Rows gathered from several tensors, when they are read."""

  def __init__(self, name, tensors, owner, row, present, dtype):
    """Describes the rows.

    Args:
      name: of the tensor.
      tensors: list of M `[rows_m, ...]`.
      owner: `[V]` int, index in `tensors`, or ZERO, MEAN, REST.
      row: `[V]` int, index in that tensor.
      present: `[M, V]` int, each tensor's row of a token or -1; for MEAN.
      dtype: of the result.
    """
    super().__init__(name, (len(owner),) + tensors[0].shape[1:], dtype)
    self._tensors, self._owner, self._row = tensors, owner, row
    self._present, self._lock = present, threading.Lock()
    self._width = self.size // max(1, len(owner))

  def read(self, start, out):
    if not len(out):
      return
    width, stop = self._width, start + len(out)
    first, last = start // width, -(-stop // width)
    owner, row = self._owner[first:last], self._row[first:last]
    breaks = np.flatnonzero((np.diff(owner) != 0) | (np.diff(row) != 1) |
                            (owner[1:] < 0)) + 1
    for low, high in zip([0, *breaks], [*breaks, len(owner)]):
      begin = max(start, (first + low) * width)
      end = min(stop, (first + high) * width)
      within = begin - (first + low) * width
      self._run(int(owner[low]), int(row[low]), first + low, within,
                out[begin - start:end - start])

  def _run(self, owner, row, token, within, out):
    if owner >= 0:
      source = self._tensors[owner]
      values = out if source.dtype == out.dtype else np.empty(
          len(out), source.dtype)
      source.read(row * self._width + within, values)
      if values is not out:
        out[:] = values
    elif owner == ZERO:
      out[:] = 0
    else:
      values = self._mean(token) if owner == MEAN else self._rest
      out[:] = values[within:within + len(out)]

  def _mean(self, token) -> np.ndarray:
    """Of the models that have the token."""
    total, count = np.zeros(self._width), 0
    for source, rows in zip(self._tensors, self._present):
      if rows[token] >= 0:
        values = np.empty(self._width, source.dtype)
        source.read(int(rows[token]) * self._width, values)
        total, count = total + values.astype(np.float64), count + 1
    return total / count

  @functools.cached_property
  def _total(self) -> np.ndarray:
    """Mean over the rows of all tokens."""
    total, tokens = np.zeros(self._width), np.flatnonzero(self._owner != REST)
    step = max(1, _BLOCK // self._width)
    for low in range(0, len(self._owner), step):
      part = self._owner[low:low + step] != REST
      if part.any():
        # Up to the last row of a token: those behind it need this mean.
        rows = np.empty((len(part), self._width), self.dtype)
        for at in np.flatnonzero(np.diff(part, prepend=False) & part):
          length = int(np.argmin(np.append(part[at:], False)))
          self.read((low + at) * self._width, rows[at:at + length].reshape(-1))
        total += rows[part].astype(np.float64).sum(0)
    return total / max(1, len(tokens))

  @property
  def _rest(self) -> np.ndarray:
    with self._lock:
      return self._total


def align_rows(name: str, tensors: Mapping[str, checkpoint.Tensor],
               ids: Mapping[str, np.ndarray], used: np.ndarray,
               tokens: Mapping[int, tuple], base: str | None,
               ) -> dict[str, checkpoint.Tensor]:
  """Every model's tensor with the rows of the common vocabulary.

  A row that a model has stays. One that it lacks is, in this order: that of
  `tokens`; the row of the only model that has the token; the base's; the mean
  of those that have it; zero. Rows of no token (padding, unused ids) are the
  mean of the model's other rows.

  Args:
    name: of the tensor, for messages.
    tensors: model -> `[rows, ...]`.
    ids: model -> `[V]` int, its id of each token of the result, or -1.
    used: `[V]` bool, the rows that belong to a token.
    tokens: row -> `(force, model or None, id)`: origin of the row where a model
      lacks it or, with `force`, everywhere; None for zero, '' for the rules.
    base: the base model where it is one of the inputs.

  Returns:
    Model -> tensor `[V, ...]`, all of the dtype that contains them all.

  Raises:
    UserError: widths that differ, a row that the named model lacks.

  Departures: means are in float64 and rounded once.
  """
  names, parts = list(tensors), list(tensors.values())
  if len({t.shape[1:] for t in parts}) > 1 or not all(t.shape for t in parts):
    raise core.UserError(f'{name}: the models disagree beyond the vocabulary: '
                         f'{[t.shape for t in parts]}.')
  dtype = functools.reduce(jnp.promote_types, (t.dtype for t in parts))
  present = np.stack([np.where(ids[m] < t.shape[0], ids[m], -1)
                      for m, t in tensors.items()])
  has = present >= 0
  owner = np.where(has.any(0), MEAN, ZERO)
  if base in names:
    owner[has[names.index(base)]] = names.index(base)
  alone = has.sum(0) == 1
  owner[alone] = has.argmax(0)[alone]
  row = np.take_along_axis(present, np.maximum(owner, 0)[None], 0)[0]
  force = np.zeros(len(owner), bool)
  for at, (forced, model, number) in tokens.items():
    force[at] = forced
    if model is None:
      owner[at] = ZERO
    elif model:
      if model not in names:
        raise core.UserError(f'{name}: a token is to come from {model}, which '
                             'has no such tensor among the inputs here.')
      limit = tensors[model].shape[0]
      number = present[names.index(model), at] if number is None else number
      if not 0 <= number < limit:
        raise core.UserError(f'{name}: {model} has no row for token id '
                             f'{at if number < 0 else number} ({limit} rows).')
      owner[at], row[at] = names.index(model), number
  owner[~used] = REST
  result: dict[str, checkpoint.Tensor] = {}
  for m, model in enumerate(names):
    own = has[m] & ~force & used
    result[model] = RowsTensor(
        f'{model}: {name}', parts, np.where(own, m, owner),
        np.where(own, present[m], row), present, dtype)
  return result
