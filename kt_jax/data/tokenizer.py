"""Tokenizers by name: text to ids and back."""
from collections.abc import Callable
import dataclasses
import pathlib

from kt_jax.core import nearest
from kt_jax.core import UserError


@dataclasses.dataclass(frozen=True, eq=False)
class Tokenizer:
  """A vocabulary, with functions from text to ids and back.

  Attributes:
    name: argument of `tokenizer`.
    vocabulary: the string of each id; '' for an unused id.
    pieces: the UTF-8 bytes of each token, comparable between vocabularies of
      different kinds; b'' for special and unused ids.
    pad: id of padding.
    bos: id that begins a text; None if there is none.
    eos: id that ends a text; None if there is none.
    digest: hex digest of all that the ids depend on.
    encode: text -> ids, without special ones.
    decode: ids -> text, special ones left out.
    ends: text -> number of characters up to the end of each of its tokens.
  """
  name: str
  vocabulary: tuple[str, ...]
  pieces: tuple[bytes, ...]
  pad: int
  bos: int | None
  eos: int | None
  digest: str
  encode: Callable[[str], list[int]]
  decode: Callable[[list[int]], str]
  ends: Callable[[str], list[int]]

  @property
  def size(self) -> int:
    """Number of ids, the classes of a model."""
    return len(self.vocabulary)


def tokenizer(name: str) -> Tokenizer:
  """A tokenizer.

  Args:
    name: 'characters' (newline and printable ASCII) or 'bytes' (any text),
      which are embedded; or a folder with `tokenizer.json`, read by the library
      `tokenizers`. There, special ids are those of `tokenizer_config.json`,
      else of `config.json`; where the latter has a `vocab_size` beyond the last
      token, that is the size.

  Raises:
    UserError: no such tokenizer or folder, a damaged file, no library.
  """
  # Both modules import the type above.
  from kt_jax.data import _embedded as embedded
  from kt_jax.data._tokenizer_json import tokenizer_json
  if not isinstance(name, str) or not name:
    raise UserError("tokenizer must be 'characters', 'bytes' or a folder with "
                    f'tokenizer.json, got {name!r}.')
  builtin = dict(characters=embedded.characters, bytes=embedded.of_bytes)
  if name in builtin:
    return builtin[name]()
  folder = pathlib.Path(name).expanduser()
  if not folder.is_dir():
    raise UserError(nearest('tokenizer', name, builtin)
                    + ' Or name a folder with tokenizer.json.')
  return tokenizer_json(folder)
