"""Layout of texts and pairs in rows of tokens.

Axes: N rows, S positions, of which the first P are of the prompt; L tokens of a
text. `segments` and `targets` are those of `TextArrays`.
"""
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

OPEN = 1024  # rows that may still be filled up, so that time is linear


class Layout(NamedTuple):
  """`tokens`, `segments` and `targets` of `TextArrays`, `[N, S]` each."""
  tokens: np.ndarray
  segments: np.ndarray
  targets: np.ndarray


def empty(rows: int, length: int, pad: int) -> Layout:
  shape = (rows, length)
  return Layout(np.full(shape, pad, np.int32), np.zeros(shape, np.int32),
                np.zeros(shape, bool))


def windows(tokens: Sequence[int], length: int, prompt: int,
            pad: int) -> Layout:
  """Continuous text in rows that overlap, each token a target once.

  A row shares its first max(P, 1) tokens with the end of the row before it,
  where they are targets; here they are context only. The last row is padded.

  Args:
    tokens: `[L]`, more than max(P, 1).
    length: S.
    prompt: P, below S.
    pad: id of padding.
  """
  shared = max(prompt, 1)
  step, text = length - shared, np.asarray(tokens, np.int32)
  rows = max(-(-(len(text) - shared) // step), 0)
  out = empty(rows, length, pad)
  where = np.arange(rows)[:, None] * step + np.arange(length)
  real = where < len(text)
  out.tokens[real] = text[where[real]]
  out.segments[real] = 1
  out.targets[real] = np.broadcast_to(np.arange(length) >= shared,
                                      real.shape)[real]
  return out


def documents(texts: Sequence[Sequence[int]], length: int, pad: int,
              pack: bool) -> Layout:
  """Whole documents in rows; all their tokens but the first are targets.

  Each is placed in the first of the last `OPEN` rows with enough room.

  Args:
    texts: ids of each document, at most S.
    length: S.
    pad: id of padding.
    pack: whether rows have several documents; otherwise one.
  """
  room, places = np.full(len(texts), length), []
  rows = 0
  for text in texts:
    first = max(rows - OPEN, 0) if pack else rows
    fits = room[first:rows] >= len(text)
    row = first + int(fits.argmax()) if fits.any() else rows
    rows = max(rows, row + 1)
    places.append((row, length - room[row]))
    room[row] -= len(text)
  out, segments = empty(rows, length, pad), [0] * rows
  for text, (row, start) in zip(texts, places):
    where = slice(start, start + len(text))
    segments[row] += 1
    out.tokens[row, where] = text
    out.segments[row, where] = segments[row]
    out.targets[row, start + 1:where.stop] = True
  return out


def pairs(prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]],
          length: int, prompt: int, pad: int) -> Layout:
  """A prompt that ends at P and a response that begins there, in each row.

  Args:
    prompts: ids of each, at most P.
    responses: ids of each, at most S - P; the targets.
    length: S.
    prompt: P.
    pad: id of padding.
  """
  out = empty(len(prompts), length, pad)
  for row, (before, after) in enumerate(zip(prompts, responses)):
    text = slice(prompt - len(before), prompt + len(after))
    out.tokens[row, text] = [*before, *after]
    out.segments[row, text] = 1
    out.targets[row, prompt:text.stop] = True
  return out
