"""Encoding of texts and pairs in rows of tokens."""
from collections.abc import Callable, Sequence
import dataclasses

import numpy as np

from kt_jax.core import UserError
from kt_jax.data import _text_layout as text_layout
from kt_jax.data._text_layout import Layout
from kt_jax.data.tokenizer import Tokenizer


def document(prompt: str, response: str) -> str:
  """A pair as text."""
  return f'{prompt}{response}\n'


@dataclasses.dataclass(frozen=True)
class Encoder:
  """Encodes examples in rows; the settings are those of a `Text` spec."""
  tokenizer: Tokenizer
  length: int
  prompt: int
  start: bool
  end: bool
  pack: bool
  drop: bool

  def rows(self, content, choose: Callable[[int], np.ndarray],
           as_text: bool = False) -> tuple[Layout, np.ndarray]:
    """Rows of the chosen examples of a content.

    Args:
      content: as in `_text_sources`.
      choose: from the number of examples to ascending positions.
      as_text: whether pairs become documents.

    Returns:
      `(layout, numbers)`: rows, and the numbers of their windows or pairs;
      documents, which may share a row, are numbered by row.

    Raises:
      UserError: a character that the tokenizer does not know, an example that
        is too long, or one without a token to predict.
    """
    if as_text:
      if isinstance(content, str) or any(isinstance(x, str) for x in content):
        raise UserError('as_text is for pairs, got text.')
      content = [document(*pair) for pair in content]
    pad, length = self.tokenizer.pad, self.length
    if isinstance(content, str):
      layout = text_layout.windows(self.tokenizer.encode(content), length,
                                   self.prompt, pad)
      index = choose(len(layout.tokens))
      return Layout(*(x[index] for x in layout)), index
    encoded = [self._numbered(i, x) for i, x in enumerate(content)]
    encoded = self._fitting(encoded)
    index = choose(len(encoded))
    chosen = [encoded[i] for i in index]
    if content and isinstance(content[0], str):
      layout = text_layout.documents([x for (x,) in chosen], length, pad,
                                     self.pack)
      return layout, np.arange(len(layout.tokens))
    prompts, responses = zip(*chosen) if chosen else ((), ())
    return text_layout.pairs(prompts, responses, length, self.prompt,
                             pad), index

  def keep(self, example: str | tuple[str, str]) -> bool:
    """False for examples to drop; errors are raised in `rows`."""
    return not self.drop or self._fits(self._example(example))

  def _numbered(self, number: int, example):
    try:
      encoded = self._example(example)
    except UserError as e:
      raise UserError(f'example {number + 1}: {e}') from e
    if len(encoded) == 2 and not encoded[0]:
      raise UserError(f'example {number + 1} has an empty prompt, from which '
                      'nothing can be predicted. Set data.start=True.')
    if not encoded[-1] or len(encoded) == 1 and len(encoded[0]) < 2:
      raise UserError(f'example {number + 1} ({ascii(example)[:60]}) has no '
                      'token to predict.')
    return encoded

  def _example(self, x) -> tuple[list[int], ...]:
    """`(document,)` or `(prompt, response)`, special tokens added."""
    parts = [x] if isinstance(x, str) else list(x)
    ids = [self.tokenizer.encode(part) for part in parts]
    if self.start:
      ids[0] = [self._special('bos', 'start'), *ids[0]]
    if self.end:
      ids[-1] = [*ids[-1], self._special('eos', 'end')]
    return tuple(ids)

  def _special(self, role: str, key: str) -> int:
    token = getattr(self.tokenizer, role)
    if token is None:
      raise UserError(f'The tokenizer {self.tokenizer.name} has no {role} '
                      f'token. Set data.{key}=False.')
    return token

  def _limits(self, parts: int) -> list[tuple[str, int]]:
    if parts == 1:
      return [('documents', self.length)]
    return [('prompts', self.prompt), ('responses', self.length - self.prompt)]

  def _fits(self, encoded) -> bool:
    return all(len(x) <= limit for x, (_, limit) in zip(
        encoded, self._limits(len(encoded))))

  def _fitting(self, encoded: Sequence) -> list:
    """The examples that fit; without `drop` the others are an error."""
    if self.drop:
      return [x for x in encoded if self._fits(x)]
    for part, (plural, limit) in enumerate(
        self._limits(len(encoded[0])) if encoded else ()):
      sizes = np.array([len(x[part]) for x in encoded])
      if sizes.max() > limit:
        raise UserError(
            f'{(sizes > limit).sum()} of {len(sizes)} {plural} have more than '
            f'{limit} tokens, the longest {sizes.max()}. Change data.length='
            f'{self.length} or data.prompt={self.prompt}, or set data.too_long='
            "'drop'.")
    return list(encoded)
