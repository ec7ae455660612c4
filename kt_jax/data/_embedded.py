"""Tokenizers without files: characters and bytes."""
import hashlib

import numpy as np

from kt_jax.core import UserError
from kt_jax.data.tokenizer import Tokenizer

SPECIAL = ('<pad>', '<bos>', '<eos>')
LETTERS = '\n' + ''.join(map(chr, range(32, 127)))


def characters() -> Tokenizer:
  """Newline and printable ASCII, one id per character."""
  ids = np.full(128, -1, np.int32)
  ids[[ord(c) for c in LETTERS]] = np.arange(len(LETTERS))

  def encode(text: str) -> np.ndarray:
    codes = np.frombuffer(text.encode('utf-32-le', 'surrogatepass'), '<u4')
    tokens = np.where(codes < 128, ids[np.minimum(codes, 127)], -1)
    bad = np.flatnonzero(tokens < 0)
    if bad.size:
      raise UserError(
          f'The tokenizer of characters does not know {ascii(text[bad[0]])} at '
          f'position {bad[0]}: it has newline and printable ASCII '
          f"({bad.size} of {len(text)} are others). 'bytes' takes any text.")
    return tokens
  return _tokenizer('characters', LETTERS, [c.encode() for c in LETTERS],
                    encode, lambda text: np.arange(1, len(text) + 1))


def of_bytes() -> Tokenizer:
  """Any text, one id per byte of its UTF-8."""
  def encode(text: str) -> np.ndarray:
    try:
      return np.frombuffer(text.encode(), np.uint8).astype(np.int32)
    except UnicodeEncodeError as e:
      raise UserError(f'No bytes for {ascii(text[e.start])} at position '
                      f'{e.start}: half of a surrogate pair.') from e
  shown = [chr(i) if 32 <= i < 127 else f'<0x{i:02X}>' for i in range(256)]
  # Bytes that continue a character begin with 10.
  return _tokenizer('bytes', shown, [bytes([i]) for i in range(256)], encode,
                    lambda text: np.cumsum(encode(text) >> 6 != 2))


def _tokenizer(name, shown, pieces, encode, ends) -> Tokenizer:
  """A tokenizer of pieces; 0 pads, 1 begins and 2 ends a text.

  Args:
    name: of the tokenizer.
    shown: string of each piece.
    pieces: bytes of each piece.
    encode: text -> numbers of pieces.
    ends: text -> characters up to the end of each of its pieces.
  """
  first, vocabulary = len(SPECIAL), (*SPECIAL, *shown)
  pieces = (b'',) * first + tuple(pieces)

  def decode(tokens) -> str:
    tokens = np.asarray(tokens, np.int64).reshape(-1)
    if tokens.size and not (0 <= tokens.min()
                            and tokens.max() < len(vocabulary)):
      raise UserError(f'Ids of {name} are from 0 to {len(vocabulary) - 1}, '
                      f'got {tokens.min()} to {tokens.max()}.')
    return b''.join(pieces[i] for i in tokens).decode(errors='replace')

  return Tokenizer(
      name, vocabulary, pieces, pad=0, bos=1, eos=2, decode=decode,
      encode=lambda text: (encode(text) + first).tolist(),
      ends=lambda text: ends(text).tolist(),
      digest=hashlib.blake2b(repr(vocabulary).encode(),
                             digest_size=16).hexdigest())
