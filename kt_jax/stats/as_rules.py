"""Statistics of several models as rules of `merge.over_tree`."""
from collections.abc import Sequence
import re
from typing import Any

from jax import numpy as jnp

from kt_jax import core


def as_rules(name: str, statistics: Sequence[Any]
            ) -> list[tuple[str, dict[str, Any]]]:
  """Rules that pass to each leaf of a merge the statistics at its path.

  `over_tree(merge.fisher, base, models, weight, rules=as_rules('fisher',
  [fisher(...) for each model]))`; 'grams' likewise for `merge.regmean`.

  Args:
    name: parameter of the merge operator.
    statistics: of each of T models, in the models' order: trees with the same
      paths; leaves of the merge may be missing in all of them.

  Returns:
    `(regex, settings)` pairs, the last of them for all other leaves; the
    settings of a leaf are `{name: [T, ...]}`.

  Raises:
    UserError: no statistics, or statistics of different leaves.
  """
  if not statistics:
    raise core.UserError('as_rules: statistics of at least one model are '
                         'needed.')
  first, *others = map(core.flatten, statistics)
  for number, other in enumerate(others, 1):
    for path in sorted(first.keys() ^ other.keys()):
      raise core.UserError(f'as_rules: statistics[0] and statistics[{number}] '
                           f'do not both have leaf {path!r}.')
  stacked = {path: jnp.stack([leaf, *(other[path] for other in others)])
             for path, leaf in first.items()}
  return [*((f'^{re.escape(path)}$', {name: leaf})
            for path, leaf in stacked.items()), ('', {})]
