"""A row of the table of losses_contract_test.py."""
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

Arrays = dict[str, Any]
# Arrays without an axis of examples.
SHARED = ('key', 'student_head', 'teacher_head')


class Case(NamedTuple):
  """One way to call a loss."""
  loss: str
  # (r, lead) -> arrays by parameter name, or lists of them; examples lead. More
  # than the loss reads is fine; a 'key' is a seed.
  arrays: Callable[[np.random.Generator, tuple[int, ...]], Arrays]
  settings: dict[str, Any] = {}
  zero_at_equality: bool = True  # value (of relations: the mean) and gradient
  equal: Callable[[Arrays], Arrays] | None = None  # default: all as student_*
  batch: str = 'free'  # leading axes; 'example': one axis of them; 'relation'
  scale: tuple[float, ...] = (1.0, 1e3)  # at these it must be finite
  teachers: int = 0  # stacked on a leading axis; 0: one, without that axis
  soft: bool = False  # labels as probabilities
  fixed: tuple[str, ...] = ()  # arrays that are not scaled: probabilities, ...
  shared: tuple[str, ...] = SHARED
  unmasked: str = ''  # reason why a free loss has no classes masked by -inf

  def first(self, name: str) -> int:
    """The axis of `name` that counts the (first axis of) examples."""
    return int(name == 'teacher_logits' and self.teachers > 0)
