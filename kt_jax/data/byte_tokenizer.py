"""A tokenizer of bytes: any text."""
import hashlib

import numpy as np

from kt_jax.core import UserError
from kt_jax.data.tokenizer import Tokenizer

SPECIAL = ('<pad>', '<bos>', '<eos>')


def byte_tokenizer() -> Tokenizer:
  """One id a byte of UTF-8; 0 pads, 1 begins and 2 ends a text."""
  first = len(SPECIAL)
  vocabulary = SPECIAL + tuple(
      chr(i) if chr(i).isascii() and chr(i).isprintable() else f'<0x{i:02X}>'
      for i in range(256))

  def to_bytes(text: str) -> np.ndarray:
    try:
      return np.frombuffer(text.encode(), np.uint8).astype(np.int32)
    except UnicodeEncodeError as e:
      raise UserError(f'No bytes for {ascii(text[e.start])} at position '
                      f'{e.start}: half of a pair, which is no character.'
                     ) from e

  def decode(tokens) -> str:
    tokens = np.asarray(tokens, np.int64).reshape(-1)
    if tokens.size and not (0 <= tokens.min()
                            and tokens.max() < len(vocabulary)):
      raise UserError(f'Ids of bytes are from 0 to {len(vocabulary) - 1}, '
                      f'got {tokens.min()} to {tokens.max()}.')
    raw = (tokens[tokens >= first] - first).astype(np.uint8).tobytes()
    return raw.decode(errors='replace')

  return Tokenizer(
      'bytes', vocabulary,
      pieces=(b'',) * first + tuple(bytes([i]) for i in range(256)), pad=0,
      bos=1, eos=2, encode=lambda text: (to_bytes(text) + first).tolist(),
      decode=decode,
      # Bytes that go on with a character begin with 10.
      ends=lambda text: np.cumsum(to_bytes(text) >> 6 != 2).tolist(),
      digest=hashlib.blake2b(repr(vocabulary).encode(),
                             digest_size=16).hexdigest())
