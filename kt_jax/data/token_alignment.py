"""Which token of one tokenizer is which of another.

Axes: V tokens of the student's vocabulary, n tokens of a text.
"""
from collections.abc import Sequence

import numpy as np

from kt_jax.data.tokenizer import Tokenizer


def align_vocabularies(student: Tokenizer, teacher: Tokenizer) -> np.ndarray:
  """The teacher's id of each token of the student.

  Tokens are the same if they write the same bytes, however their vocabulary
  marks the beginning of a word or spells a byte. Special ones are if they have
  the same part (`pad`, `bos`, `eos`), else if they have the same string.

  Args:
    student: has V tokens.
    teacher: has any number.

  Returns:
    int32 `[V]`; -1 where the teacher has no such token. Where several of the
    teacher's are alike, the plain one goes before a spelled byte, then the
    lower id.
  """
  def key(x: Tokenizer, i: int):
    return x.pieces[i] or x.vocabulary[i]  # special ones have no bytes
  def rank(i: int):  # spelled bytes are longer than what they write
    return len(teacher.vocabulary[i]), i
  ids = {key(teacher, i): i
         for i in sorted(range(teacher.size), key=rank, reverse=True)}
  found = np.array([ids.get(key(student, i) or None, -1)
                    for i in range(student.size)], np.int32)
  for role in ('pad', 'bos', 'eos'):  # one id may have several parts
    mine, theirs = getattr(student, role), getattr(teacher, role)
    if None not in (mine, theirs) and not (
        student.pieces[mine] or teacher.pieces[theirs]):
      found[mine] = theirs
  return found


def align_positions(text: str, a: Tokenizer, b: Tokenizer) -> np.ndarray:
  """The token of `b` that ends where each token of `a` ends.

  Args:
    text: what both encode.
    a: makes n tokens of it.
    b: makes any number of them.

  Returns:
    int32 `[n]` positions among the tokens of `b`; -1 where none ends there. Of
    several tokens that share a character, only the last one ends it.
  """
  return match_ends(a.ends(text), b.ends(text))


def match_ends(ends: Sequence[int | None], others: Sequence[int | None]
              ) -> np.ndarray:
  """`align_positions` of what `Tokenizer.ends` says; None ends nothing."""
  last = {end: i for i, end in enumerate(ends)}
  other = {end: i for i, end in enumerate(others)}
  return np.array([other.get(end, -1) if end and last[end] == i else -1
                   for i, end in enumerate(ends)], np.int32)
