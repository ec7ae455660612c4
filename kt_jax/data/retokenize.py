"""Rows of tokens of one tokenizer in tokens of another.

Axes: N rows, S positions, R positions of the target tokenizer.
"""
import codecs
from typing import NamedTuple

import numpy as np

from kt_jax.core import UserError
from kt_jax.data.text_arrays import TextArrays
from kt_jax.data.token_alignment import match_ends
from kt_jax.data.tokenizer import Tokenizer


class Retokenized(NamedTuple):
  """The text of `TextArrays` in tokens of another tokenizer.

  Attributes:
    tokens: int32 `[N, R]`.
    segments: int32 `[N, R]`, 0 for padding; numbers as in the rows.
    places: int32 `[N, S]`, for each token of the rows the position of the token
      that ends with the same character, after the same text; -1 without one.
  """
  tokens: np.ndarray
  segments: np.ndarray
  places: np.ndarray


def retokenize(arrays: TextArrays, source: Tokenizer, target: Tokenizer,
               length: int) -> Retokenized:
  """Encodes rows for a model of another tokenizer.

  Args:
    arrays: rows of tokens of `source`.
    source: tokenizer of the rows.
    target: the other tokenizer.
    length: the largest number of tokens in a row, the context of a model; R is
      the largest number that occurs.

  Returns:
    `Retokenized`. Begin and end tokens are where the rows have them, if
    `target` has such tokens. A text that begins or ends within a character, or
    that `source` does not decode to the same bytes, has no places.

  Raises:
    UserError: a row has more tokens than `length`, or no token anywhere has a
      place.
  """
  rows = [_row(tokens, segments, source, target) for tokens, segments in zip(
      arrays.tokens, arrays.segments)]
  longest = max((len(tokens) for tokens, _, _ in rows), default=0)
  if longest > length:
    raise UserError(f'Rows have up to {longest} tokens of {target.name}, the '
                    f'context of its model is {length}: set a smaller '
                    'data.length.')
  out = Retokenized(np.full((len(rows), longest), target.pad, np.int32),
                    np.zeros((len(rows), longest), np.int32),
                    np.stack([places for *_, places in rows])
                    if rows else np.zeros(arrays.tokens.shape, np.int32))
  for row, (tokens, segments, _) in enumerate(rows):
    out.tokens[row, :len(tokens)] = tokens
    out.segments[row, :len(tokens)] = segments
  if rows and out.places.max() < 0:
    raise UserError(f'No token of {target.name} ends where a token of '
                    f'{source.name} does: they do not write the same text.')
  return out


def _row(tokens, segments, source, target):
  """`(tokens, segments, places)` of one row."""
  encoded, numbers, places = [], [], np.full(len(tokens), -1, np.int32)
  for segment in range(1, segments.max(initial=0) + 1):
    where = np.flatnonzero(segments == segment)
    ids = tokens[where].tolist()
    text, ends = _read(ids, source)
    first = len(encoded)
    if ids[0] == source.bos and target.bos is not None:
      places[where[0]] = len(encoded)
      encoded.append(target.bos)
    at = len(encoded)
    encoded += target.encode(text)
    matched = match_ends(ends, target.ends(text))
    places[where] = np.where(matched < 0, places[where], at + matched)
    if ids[-1] == source.eos and target.eos is not None:
      encoded.append(target.eos)
    numbers += [segment] * (len(encoded) - first)
  return encoded, numbers, places


def _read(ids, tokenizer):
  """The text of tokens, and the number of characters up to each token's end;
  None for special tokens and within a character."""
  text, pieces = tokenizer.decode(ids), [tokenizer.pieces[i] for i in ids]
  try:
    decoded = b''.join(pieces).decode()
  except UnicodeDecodeError:
    return text, [None] * len(ids)
  if not decoded.endswith(text):
    return text, [None] * len(ids)
  skipped = len(decoded) - len(text)  # the space before the first word
  decoder, ends, count = codecs.getincrementaldecoder('utf-8')(), [], -skipped
  for piece in pieces:
    count += len(decoder.decode(piece))
    within, _ = decoder.getstate()
    ends.append(count if piece and not within else None)
  return text, ends
