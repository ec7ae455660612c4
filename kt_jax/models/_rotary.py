"""Rotary positions (su2021roformer) and their published scalings.

Axes: B rows, S positions, H heads, D width of a head.
"""
from collections.abc import Mapping
import math
from typing import Any

import jax
from jax import numpy as jnp
import numpy as np

from kt_jax import core

# Scaling -> required settings, and optional ones with their defaults.
_SETTINGS = {
    'linear': (('factor',), {}),
    'llama3': (('factor', 'original_context'),
               dict(low=1.0, high=4.0)),
    'yarn': (('factor', 'original_context'),
             dict(fast=32.0, slow=1.0, attention=0.0, truncate=True)),
}


def frequencies(width: int, base: float,
                scaling: Mapping[str, Any] | None = None
               ) -> tuple[np.ndarray, float]:
  """Angle per position of each pair of a head, and the factor on queries.

  Args:
    width: D, even.
    base: theta; pair i turns by base^(-2 i / D).
    scaling: None, or its `name` and settings. 'linear' divides all angles by
      `factor`. 'llama3' divides those of wave lengths beyond
      `original_context / low`, keeps those below `original_context / high`
      and blends between. 'yarn' does so between the pairs that turn `slow` and
      `fast` times within `original_context` (whole ones with `truncate`), and
      multiplies queries and keys by `attention` (0: 0.1 ln factor + 1).

  Returns:
    float32 `[D / 2]` and the factor on rotated queries and keys.

  Raises:
    UserError: no such scaling or setting.

  References: chen2023interpolation (linear), grattafiori2024llama3,
    peng2023yarn, Sec. 3.
  """
  freq = base ** (-np.arange(0, width, 2, dtype=np.float64) / width)
  if not scaling:
    return freq.astype(np.float32), 1.0
  settings = dict(scaling)
  name = settings.pop('name', None)
  if name not in _SETTINGS:
    raise core.UserError(core.nearest('scaling of rotary positions', name,
                                      _SETTINGS))
  required, optional = _SETTINGS[name]
  for setting in settings:
    if setting not in (*required, *optional):
      raise core.UserError(core.nearest(
          f'setting of scaling {name}', setting, (*required, *optional)))
  missing = [n for n in required if n not in settings]
  if missing:
    raise core.UserError(f'scaling {name} lacks {", ".join(missing)}.')
  s = optional | settings
  slowed = freq / s['factor']
  if name == 'linear':
    return slowed.astype(np.float32), 1.0
  turns = s['original_context'] * freq / (2 * np.pi)
  if name == 'llama3':
    keep = np.clip((turns - s['low']) / (s['high'] - s['low']), 0, 1)
    return (keep * freq + (1 - keep) * slowed).astype(np.float32), 1.0
  # The (fractional) number of the pair that turns that many times.
  pair = lambda count: (width * math.log(
      s['original_context'] / (count * 2 * math.pi))) / (2 * math.log(base))
  first, last = pair(s['fast']), pair(s['slow'])
  if s['truncate']:
    first, last = math.floor(first), math.ceil(last)
  first, last = max(first, 0), min(last, width - 1)
  keep = 1 - np.clip((np.arange(width // 2) - first)
                     / (max(last - first, 1e-3)), 0, 1)
  attention = s['attention'] or 0.1 * math.log(s['factor']) + 1
  return (keep * freq + (1 - keep) * slowed).astype(np.float32), attention


def rotate(x: jax.Array, positions: jax.Array, freq: np.ndarray,
           factor: float = 1.0) -> jax.Array:
  """Rotates the two halves of each head, pair by pair.

  Args:
    x: `[B, S, H, D]`; entry i is paired with entry i + D / 2.
    positions: `[B, S]`.
    freq: `[D / 2]`, from `frequencies`.
    factor: on the result, from `frequencies`.
  """
  angles = positions[..., None].astype(jnp.float32) * freq
  cos, sin = (factor * f(angles)[:, :, None] for f in (jnp.cos, jnp.sin))
  a, b = jnp.split(x.astype(jnp.float32), 2, -1)
  return jnp.concatenate([a * cos - b * sin, b * cos + a * sin],
                         -1).astype(x.dtype)
