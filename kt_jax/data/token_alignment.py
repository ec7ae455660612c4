"""Correspondence of the tokens of two tokenizers.

Axes: V tokens of the student's vocabulary, n tokens of a text.
"""
from collections.abc import Sequence

import numpy as np

from kt_jax.data.tokenizer import Tokenizer


def align_vocabularies(student: Tokenizer, teacher: Tokenizer) -> np.ndarray:
  """The teacher's id of each token of the student.

  Tokens are the same if they write the same bytes, however their vocabulary
  marks the beginning of a word or spells a byte. Special tokens are the same if
  they have the same role (`pad`, `bos`, `eos`), else if they have the same
  string.

  Args:
    student: has V tokens.
    teacher: has any number of tokens.

  Returns:
    int32 `[V]`; -1 where the teacher has no such token. Of several such tokens,
    a plain one precedes a spelled byte, then the lower id precedes.
  """
  def key(x: Tokenizer, i: int):
    return x.pieces[i] or x.vocabulary[i]  # special tokens have no bytes

  def rank(i: int):  # spelled bytes are longer than the byte
    return len(teacher.vocabulary[i]), i
  ids = {key(teacher, i): i
         for i in sorted(range(teacher.size), key=rank, reverse=True)}
  ids.pop('', None)  # unused ids
  teacher_ids = np.array([ids.get(key(student, i), -1)
                          for i in range(student.size)], np.int32)
  for role in ('pad', 'bos', 'eos'):  # one id may have several roles
    a, b = getattr(student, role), getattr(teacher, role)
    if a is not None and b is not None and not (
        student.pieces[a] or teacher.pieces[b]):
      teacher_ids[a] = b
  return teacher_ids


def align_positions(text: str, a: Tokenizer, b: Tokenizer) -> np.ndarray:
  """The token of `b` that ends where each token of `a` ends.

  Args:
    text: encoded by both.
    a: encodes it in n tokens.
    b: encodes it in any number of tokens.

  Returns:
    int32 `[n]` positions among the tokens of `b`; -1 where none ends there. Of
    several tokens that share a character, only the last ends it.
  """
  return match_ends(a.ends(text), b.ends(text))


def match_ends(ends: Sequence[int | None], others: Sequence[int | None]
              ) -> np.ndarray:
  """`align_positions` from results of `Tokenizer.ends`; None matches none."""
  last = {end: i for i, end in enumerate(ends)}
  other = {end: i for i, end in enumerate(others)}
  return np.array([other.get(end, -1) if end and last[end] == i else -1
                   for i, end in enumerate(ends)], np.int32)
