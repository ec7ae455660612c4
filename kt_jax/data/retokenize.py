"""Rows of one tokenizer in the tokens of another.

Axes: N rows, S positions, R positions of the other tokenizer.
"""
import codecs
from typing import NamedTuple

import numpy as np

from kt_jax.core import UserError
from kt_jax.data.text_arrays import TextArrays
from kt_jax.data.token_alignment import match_ends
from kt_jax.data.tokenizer import Tokenizer


class Retokenized(NamedTuple):
  """The text of `TextArrays` as another tokenizer writes it.

  Attributes:
    tokens: int32 `[N, R]`.
    segments: int32 `[N, R]`, 0 for padding; numbers as in the rows.
    places: int32 `[N, S]`, for each token of the rows the position of the token
      that ends with the same character; -1 where none does. What follows there
      follows the same text.
  """
  tokens: np.ndarray
  segments: np.ndarray
  places: np.ndarray


def retokenize(arrays: TextArrays, ours: Tokenizer, theirs: Tokenizer,
               length: int) -> Retokenized:
  """Writes rows again, so that a model of another tokenizer can read them.

  Args:
    arrays: rows of tokens of `ours`.
    ours: tokenizer of the rows.
    theirs: the other one.
    length: the most tokens that a row may have, the context of a model; R is
      what the longest has.

  Returns:
    `Retokenized`. Begin and end tokens stand where the rows have them, if
    `theirs` has such. A text that begins or ends within a character, and one
    that `ours` does not give back as it was, has no places.

  Raises:
    UserError: a row has more tokens than `length`, or no token anywhere has a
      place.
  """
  rows = [_row(tokens, segments, ours, theirs) for tokens, segments in zip(
      arrays.tokens, arrays.segments)]
  longest = max((len(tokens) for tokens, _, _ in rows), default=0)
  if longest > length:
    raise UserError(f'Rows have up to {longest} tokens of {theirs.name}, the '
                    f'context of its model is {length}: set a smaller '
                    'data.length.')
  out = Retokenized(np.full((len(rows), longest), theirs.pad, np.int32),
                    np.zeros((len(rows), longest), np.int32),
                    np.stack([places for *_, places in rows])
                    if rows else np.zeros(arrays.tokens.shape, np.int32))
  for row, (tokens, segments, _) in enumerate(rows):
    out.tokens[row, :len(tokens)] = tokens
    out.segments[row, :len(tokens)] = segments
  if rows and out.places.max() < 0:
    raise UserError(f'No token of {theirs.name} ends where one of {ours.name} '
                    'does: they do not write the same text.')
  return out


def _row(tokens, segments, ours, theirs):
  """`(tokens, segments, places)` of one row."""
  found, numbers, places = [], [], np.full(len(tokens), -1, np.int32)
  for segment in range(1, segments.max(initial=0) + 1):
    where = np.flatnonzero(segments == segment)
    ids = tokens[where].tolist()
    text, ends = _read(ids, ours)
    first = len(found)
    if ids[0] == ours.bos and theirs.bos is not None:
      places[where[0]] = len(found)
      found.append(theirs.bos)
    at = len(found)
    found += theirs.encode(text)
    matched = match_ends(ends, theirs.ends(text))
    places[where] = np.where(matched < 0, places[where], at + matched)
    if ids[-1] == ours.eos and theirs.eos is not None:
      found.append(theirs.eos)
    numbers += [segment] * (len(found) - first)
  return found, numbers, places


def _read(ids, tokenizer):
  """The text of tokens, and how many characters there are after each of them;
  None for special tokens and within a character."""
  text, pieces = tokenizer.decode(ids), [tokenizer.pieces[i] for i in ids]
  try:
    whole = b''.join(pieces).decode()
  except UnicodeDecodeError:
    return text, [None] * len(ids)
  if not whole.endswith(text):
    return text, [None] * len(ids)
  skipped = len(whole) - len(text)  # the space before the first word
  decoder, ends, count = codecs.getincrementaldecoder('utf-8')(), [], -skipped
  for piece in pieces:
    count += len(decoder.decode(piece))
    within, _ = decoder.getstate()
    ends.append(count if piece and not within else None)
  return text, ends
