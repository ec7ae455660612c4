"""Tokenizers by name: text to ids and back."""
from collections.abc import Callable
import dataclasses
import pathlib

from kt_jax.core import nearest
from kt_jax.core import UserError


@dataclasses.dataclass(frozen=True, eq=False)
class Tokenizer:
  """What is known of a tokenizer, and how to use it.

  Attributes:
    name: as it was asked for.
    vocabulary: the string of each id; '' for an id that no token has.
    pieces: the UTF-8 bytes that each token writes, so that vocabularies of
      different kinds compare; b'' for special and unused ones.
    pad: fills up rows; it is never read.
    bos: begins a text; None if there is none.
    eos: ends a text; None if there is none.
    digest: hex digest of all that its ids depend on.
    encode: text -> ids, without special ones.
    decode: ids -> text, special ones left out.
    ends: text -> for each of its tokens the number of characters up to where
      it ends.
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
    """How many ids there are: the classes of a model."""
    return len(self.vocabulary)


def tokenizer(name: str) -> Tokenizer:
  """A tokenizer.

  Args:
    name: 'characters' (newline and printable ASCII) or 'bytes' (any text),
      which are embedded; or a folder with `tokenizer.json`, read by the library `tokenizers`. There,
      special ids are those that `tokenizer_config.json` names, else those of
      `config.json`; where the latter has a `vocab_size` beyond the last token,
      that is the size.

  Raises:
    UserError: no such tokenizer or folder, a damaged file, no library.
  """
  # Both modules need the type above.
  from kt_jax.data import _embedded as embedded
  from kt_jax.data._tokenizer_json import tokenizer_json
  if not isinstance(name, str) or not name:
    raise UserError("tokenizer must be 'characters', 'bytes' or a folder with "
                    f'tokenizer.json, got {name!r}.')
  ours = dict(characters=embedded.characters, bytes=embedded.of_bytes)
  if name in ours:
    return ours[name]()
  folder = pathlib.Path(name).expanduser()
  if not folder.is_dir():
    raise UserError(nearest('tokenizer', name, ours)
                    + ' Or name a folder with tokenizer.json.')
  return tokenizer_json(folder)
