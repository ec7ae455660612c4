"""Problems of a merge, collected before it runs."""
import re
from typing import NamedTuple

from kt_jax import core

LEVELS = ('error', 'warning', 'note')
_LONGEST = 1000  # characters of a message


def one_line(text: object) -> str:
  """A message that is safe to print, whatever names it contains."""
  text = ''.join(c if c.isprintable() else repr(c)[1:-1] for c in str(text))
  half = _LONGEST // 2
  return text if len(text) <= _LONGEST else f'{text[:half]} ... {text[-half:]}'


class Problem(NamedTuple):
  level: str  # of LEVELS
  text: str  # one line
  count: int = 1  # how often; other layers have the same

  def __str__(self):
    more = f' ({self.count} of the kind)' if self.count > 1 else ''
    return one_line(f'{self.level}: {self.text}{more}')


class Problems:
  """Those that differ in the number of a layer only are counted as one."""

  def __init__(self):
    self._by_kind = {}

  def add(self, level: str, text: str) -> None:
    kind = level, re.sub(r'(?<=[./])\d+(?=[./])', '*', text)
    first = self._by_kind.get(kind, Problem(level, text, 0))
    self._by_kind[kind] = first._replace(count=first.count + 1)

  def errors(self) -> bool:
    return any(level == 'error' for level, _ in self._by_kind)

  def list(self) -> tuple[Problem, ...]:
    """Errors first, each level in order of discovery."""
    return tuple(sorted(self._by_kind.values(),
                        key=lambda p: LEVELS.index(p.level)))


def refuse(problems: tuple[Problem, ...]) -> None:
  """Raises the first error among them, if there is one."""
  errors = [p for p in problems if p.level == 'error']
  if errors:
    more = (f' And {len(errors) - 1} more errors; --check lists them.'
            if len(errors) > 1 else '')
    count = f' ({errors[0].count} of the kind)' * (errors[0].count > 1)
    raise core.UserError(errors[0].text + count + more)
