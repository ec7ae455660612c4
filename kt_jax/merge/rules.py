"""Settings of a leaf: rules by its path, gradients by its depth."""
from collections.abc import Iterable, Sequence
import re
from typing import Any, NamedTuple

import numpy as np

Rules = Sequence[tuple[str, dict[str, Any] | None]]


class Gradient(NamedTuple):
  """A setting that changes over depth, from the first layer to the last.

  `Gradient((0.0, 0.5, 1.0))` is 0 in the first layer, 0.5 in the middle one, 1
  in the last, and linear in between; the values may be arrays (weights `[T]`).
  """
  values: Sequence[Any]

  def at(self, depth: float) -> Any:
    """The value at `depth` in [0, 1]."""
    position = depth * (len(self.values) - 1)
    low = min(int(position), len(self.values) - 1)
    high = min(low + 1, len(self.values) - 1)
    share = position - low
    if not share:
      return self.values[low]
    return (1 - share) * np.asarray(self.values[low]) + share * np.asarray(
        self.values[high])


def layer_of(path: str) -> int | None:
  """The layer of a leaf: the first number in its path, None without one."""
  match = re.search(r'(?:^|[/.])(\d+)(?=[/.]|$)', path)
  return int(match[1]) if match else None


def depths(paths: Iterable[str]) -> dict[str, float]:
  """Path -> depth in [0, 1]; 0 for leaves of no layer, such as embeddings."""
  layers = {path: layer_of(path) for path in paths}
  last = max((n for n in layers.values() if n is not None), default=0)
  return {path: n / last if n and last else 0.0 for path, n in layers.items()}


def settings_of(rules: Rules, path: str, depth: float,
                common: dict[str, Any]) -> dict[str, Any] | None:
  """`common` updated by the first rule that matches `path`; None to copy.

  Raises:
    ValueError: no rule matches.
  """
  for pattern, own in rules:
    if re.search(pattern, path):
      return None if own is None else {
          name: value.at(depth) if isinstance(value, Gradient) else value
          for name, value in (common | own).items()}
  raise ValueError(f'rules: none matches leaf {path!r}; end with (\'\', {{}}) '
                   'for all others.')
