"""Tokenizers from `tokenizer.json`, read by the library `tokenizers`."""
import hashlib
import json
import pathlib
import re
from typing import Any

import numpy as np

from kt_jax.core import UserError
from kt_jax.data.tokenizer import Tokenizer

LARGEST = 1 << 22  # ids; a damaged file may have any number
_BYTE = re.compile(r'<0x([0-9A-Fa-f]{2})>')


def tokenizer_json(folder: pathlib.Path) -> Tokenizer:
  """The tokenizer of a folder; see `data.tokenizer`."""
  tokenizers = _library()
  path = folder / 'tokenizer.json'
  text = _text(path)
  if text is None:
    raise UserError(f'{folder} has no tokenizer.json.')
  raw = _guarded(path, lambda: tokenizers.Tokenizer.from_str(text))
  # Without truncation, padding and special tokens: `load_text` lays rows out.
  # Some post-processors also remove the space before a word from its offsets.
  raw.no_truncation()
  raw.no_padding()
  raw.post_processor = None
  config = _json(folder / 'config.json')
  ids = raw.get_vocab(with_added_tokens=True)
  vocab_size = config.get('vocab_size', 0)
  size = max([i + 1 for i in ids.values()] + [
      vocab_size if _is_int(vocab_size) else 0])
  if not 1 <= size <= LARGEST:
    raise UserError(f'{path} has {size} ids; it must be 1 to {LARGEST}.')
  vocabulary = [''] * size
  for token, i in ids.items():
    vocabulary[i] = token
  special = _special(folder, ids, config, size)
  pieces = _pieces(vocabulary, _kind(json.loads(text)),
                   raw.get_added_tokens_decoder(), special)
  if special['pad'] is None:  # padding is masked, so that any id serves
    special['pad'] = special['eos'] or 0
  digest = hashlib.blake2b(text.encode(), digest_size=16)
  digest.update(json.dumps([size, special]).encode())

  def encoded(text: str):
    try:
      return _guarded(path, lambda: raw.encode(text, add_special_tokens=False))
    except UserError as e:
      raise UserError(f'{ascii(text[:40])} cannot be encoded: {e}') from e

  def decode(ids) -> str:
    ids = np.asarray(ids, np.int64).reshape(-1)
    if ids.size and not (0 <= ids.min() and ids.max() < size):
      raise UserError(f'Ids of {folder} are from 0 to {size - 1}, got '
                      f'{ids.min()} to {ids.max()}.')
    return _guarded(path, lambda: raw.decode(ids.tolist(),
                                             skip_special_tokens=True))

  return Tokenizer(
      str(folder), tuple(vocabulary), pieces, **special,
      digest=digest.hexdigest(), decode=decode,
      encode=lambda text: encoded(text).ids,
      ends=lambda text: [stop for _, stop in encoded(text).offsets])


def _library():
  try:
    import tokenizers  # an optional extra
  except ImportError as e:
    raise UserError('A tokenizer.json is read by the library tokenizers: '
                    'pip install kt_jax[language]') from e
  return tokenizers


def _guarded(path, call):
  try:
    return call()
  except (KeyboardInterrupt, SystemExit, MemoryError):
    raise
  except BaseException as e:  # a panic of the library is not an Exception
    line = (str(e).strip().splitlines() or [type(e).__name__])[0]
    raise UserError(f'{path}: {line}') from e


def _text(path: pathlib.Path) -> str | None:
  try:
    return path.read_text(encoding='utf-8')
  except FileNotFoundError:
    return None
  except (OSError, ValueError) as e:
    raise UserError(f'{path} cannot be read: {e}') from e


def _json(path: pathlib.Path) -> dict[str, Any]:
  """The object of a file beside `tokenizer.json`; empty if there is none."""
  text = _text(path)
  try:
    values = json.loads(text) if text is not None else {}
  except (ValueError, RecursionError) as e:
    raise UserError(f'{path} is not JSON: {e}') from e
  if not isinstance(values, dict):
    raise UserError(f'{path} must be an object, got {type(values).__name__}.')
  return values


def _is_int(value) -> bool:
  return isinstance(value, int) and not isinstance(value, bool)


def _special(folder, ids, config, size) -> dict[str, Any]:
  """The ids of `pad`, `bos` and `eos`, or None."""
  named = _json(folder / 'tokenizer_config.json')
  special = {}
  for role in ('pad', 'bos', 'eos'):
    token = named.get(f'{role}_token')
    token = token.get('content') if isinstance(token, dict) else token
    i = ids.get(token) if isinstance(token, str) else None
    if i is None:  # of several end tokens the first is written
      i = config.get(f'{role}_token_id')
      i = i[0] if isinstance(i, list) and i else i
      if i is not None and not (_is_int(i) and 0 <= i < size):
        raise UserError(f'{folder / "config.json"}: {role}_token_id must be an '
                        f'id from 0 to {size - 1}, got {i!r}.')
    special[role] = i
  return special


def _kind(spec) -> str:
  """The encoding of bytes in the strings of the vocabulary."""
  used = json.dumps([spec.get('pre_tokenizer'), spec.get('decoder')])
  if '"ByteLevel"' in used:
    return 'bytes'
  return 'words' if '"WordPiece"' in used else 'text'


def _pieces(vocabulary, kind: str, added, special) -> tuple[bytes, ...]:
  # Byte-level vocabularies write a byte as the Latin-1 character of its number,
  # and invisible ones as the characters from 256 on.
  shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
  hidden = [b for b in range(256) if b not in shown]
  of = {chr(b): b for b in shown} | {
      chr(256 + k): b for k, b in enumerate(hidden)}

  def piece(token: str) -> bytes:
    if kind == 'bytes' and all(c in of for c in token):
      return bytes(of[c] for c in token)
    if kind == 'words':
      return (token[2:] if token.startswith('##') else f' {token}').encode()
    if _BYTE.fullmatch(token):
      return bytes([int(token[3:5], 16)])
    return token.replace('\u2581', ' ').encode()

  pieces = [piece(token) if token else b'' for token in vocabulary]
  for i, token in added.items():
    if i < len(pieces):
      pieces[i] = b'' if token.special else token.content.encode()
  for i in special.values():
    if i is not None:
      pieces[i] = b''
  return tuple(pieces)
