"""Rotary positions in Hugging Face's configs, as settings of ours and back."""
from collections.abc import Mapping
import math
from typing import Any

from kt_jax import core
from kt_jax.models import _hf as hf

# Setting of ours -> key of theirs, by scaling.
_KEYS = {
    'linear': dict(factor='factor'),
    'llama3': dict(
        factor='factor', original_context='original_max_position_embeddings',
        low='low_freq_factor', high='high_freq_factor'),
    'yarn': dict(
        factor='factor', original_context='original_max_position_embeddings',
        fast='beta_fast', slow='beta_slow', attention='attention_factor',
        truncate='truncate'),
}
_MOST = 2 ** 24


def from_config(config: hf.Config, context: int
               ) -> tuple[float, dict[str, Any] | None]:
  """`(rope_base, rope_scaling)`.

  Files of transformers 5 have both in `rope_parameters`; older ones have
  `rope_theta`, and `rope_scaling` with its `type` or `rope_type`.
  """
  scaling = 'rope_scaling' if config.values.get('rope_scaling') else (
      'rope_parameters')
  given = config.get(
      scaling, None, lambda v: v is None or isinstance(v, dict)
      and not any(isinstance(x, dict) for x in v.values()),
      'null or an object of numbers, the same for all layers') or {}
  part = hf.Config(f'{config.path}: {scaling}', given)
  number = lambda key, default, least: part.number(key, default, least, 1e9)
  for place in (config, part):
    place.get('partial_rotary_factor', 1,
              lambda v: v is None or hf.is_number(v) and v == 1, '1')
  base = (part if 'rope_theta' in given else config).number(
      'rope_theta', 10000.0, 1.001, 1e9)
  kind = 'rope_type' if 'rope_type' in given else 'type'
  name = part.choice(kind, 'default', ['default', *_KEYS])
  if name == 'default':
    return float(base), None
  found = dict(name=name)
  if name == 'yarn':
    found['original_context'] = original = _original(config, part, context)
    found['factor'] = factor = context / original if (
        given.get('factor') is None) else number('factor', None, 1e-3)
    found |= dict(
        fast=number('beta_fast', 32, 1e-3), slow=number('beta_slow', 1, 1e-3),
        attention=_attention(part, factor),
        truncate=part.flag('truncate', True))
  else:
    found['factor'] = number('factor', None, 1e-3)
  if name == 'llama3':
    found['original_context'] = _original(config, part, context)
    found |= dict(low=number('low_freq_factor', None, 1e-3),
                  high=number('high_freq_factor', None, 1e-3))
    if found['low'] >= found['high']:
      raise core.UserError(f'{part.path}: low_freq_factor must be below '
                           'high_freq_factor.')
  return float(base), {k: float(v) if type(v) is int else v
                       for k, v in found.items()}


def to_config(base: float, scaling: Mapping[str, Any] | None
             ) -> tuple[float, dict[str, Any] | None]:
  """`(rope_theta, rope_scaling)`, as both generations of readers take it."""
  if not scaling:
    return base, None
  found = {theirs: scaling[ours]
           for ours, theirs in _KEYS[scaling['name']].items()
           if ours in scaling and (ours, scaling[ours]) != ('attention', 0)}
  key = 'original_max_position_embeddings'
  if key in found:
    found[key] = int(found[key])
  return base, dict(rope_type=scaling['name'], **found)


def _original(config, part, context) -> int:
  key = 'original_max_position_embeddings'
  return (config if key in config.values else part).size(key, context, _MOST)


def _attention(part, factor) -> float:
  """0 where it is 0.1 ln factor + 1, which is the default."""
  at = lambda key: part.values.get(key) and part.number(key, None, 1e-6, 1e6)
  if at('attention_factor'):
    return at('attention_factor')
  of = lambda m: 0.1 * m * math.log(factor) + 1 if factor > 1 else 1.0
  if at('mscale') and at('mscale_all_dim'):
    return of(at('mscale')) / of(at('mscale_all_dim'))
  return 0.0 if factor > 1 else 1.0
