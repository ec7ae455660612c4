"""A tokenizer of characters: newline and printable ASCII."""
import hashlib

import numpy as np

from kt_jax.core import UserError
from kt_jax.data.tokenizer import Tokenizer

SPECIAL = ('<pad>', '<bos>', '<eos>')
LETTERS = '\n' + ''.join(map(chr, range(32, 127)))


def characters() -> Tokenizer:
  """One id a character; 0 pads, 1 begins and 2 ends a text."""
  first, vocabulary = len(SPECIAL), (*SPECIAL, *LETTERS)
  ids = np.full(128, -1, np.int32)
  ids[[ord(c) for c in LETTERS]] = first + np.arange(len(LETTERS))

  def encode(text: str) -> list[int]:
    codes = np.frombuffer(text.encode('utf-32-le', 'surrogatepass'), '<u4')
    found = np.where(codes < 128, ids[np.minimum(codes, 127)], -1)
    bad = np.flatnonzero(found < 0)
    if bad.size:
      raise UserError(
          f'The tokenizer of characters does not know {ascii(text[bad[0]])} at '
          f'position {bad[0]}: it has newline and printable ASCII '
          f"({bad.size} of {len(text)} are others). 'bytes' takes any text.")
    return found.tolist()

  def decode(tokens) -> str:
    tokens = np.asarray(tokens, np.int64).reshape(-1)
    if tokens.size and not (0 <= tokens.min()
                            and tokens.max() < len(vocabulary)):
      raise UserError(f'Ids of characters are from 0 to {len(vocabulary) - 1}, '
                      f'got {tokens.min()} to {tokens.max()}.')
    return ''.join(vocabulary[i] for i in tokens if i >= first)

  return Tokenizer(
      'characters', vocabulary,
      pieces=(b'',) * first + tuple(map(str.encode, LETTERS)), pad=0, bos=1,
      eos=2, encode=encode, decode=decode,
      ends=lambda text: list(range(1, len(text) + 1)),
      digest=hashlib.blake2b(repr(vocabulary).encode(),
                             digest_size=16).hexdigest())
