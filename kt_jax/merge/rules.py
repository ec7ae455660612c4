"""Which settings a leaf has: rules by its path, gradients by its depth."""
from collections.abc import Iterable, Sequence
import re
from typing import Any, NamedTuple

import numpy as np

Rules = Sequence[tuple[str, dict[str, Any] | None]]


class Gradient(NamedTuple):
  """A setting that changes over depth, from the first layer to the last.

  `Gradient((0.0, 0.5, 1.0))` is 0 in the first layer, 0.5 in the middle one, 1
  in the last, and linear between; the values may be arrays (weights `[T]`).
  """
  values: Sequence[Any]

  def at(self, depth: float) -> Any:
    """The value at `depth` in [0, 1]."""
    place = depth * (len(self.values) - 1)
    low = min(int(place), len(self.values) - 1)
    high = min(low + 1, len(self.values) - 1)
    share = place - low
    if not share:
      return self.values[low]
    return (1 - share) * np.asarray(self.values[low]) + share * np.asarray(
        self.values[high])


def layer(path: str) -> int | None:
  """The layer that a leaf is of: the first number in its path, if any."""
  found = re.search(r'(?:^|[/.])(\d+)(?=[/.]|$)', path)
  return int(found[1]) if found else None


def depths(paths: Iterable[str]) -> dict[str, float]:
  """Path -> depth in [0, 1]; 0 for what is of no layer, as embeddings."""
  layers = {path: layer(path) for path in paths}
  last = max((n for n in layers.values() if n is not None), default=0)
  return {path: n / last if n and last else 0.0 for path, n in layers.items()}


def settings_of(rules: Rules, path: str, depth: float,
                common: dict[str, Any]) -> dict[str, Any] | None:
  """`common` with what the first rule found in `path` says; None to copy.

  Raises:
    ValueError: no rule matches.
  """
  for pattern, chosen in rules:
    if re.search(pattern, path):
      return None if chosen is None else {
          name: value.at(depth) if isinstance(value, Gradient) else value
          for name, value in (common | chosen).items()}
  raise ValueError(f'rules: none matches leaf {path!r}; end with (\'\', {{}}) '
                   'for all others.')
