"""Rotary positions of Hugging Face's configs from and to our settings."""
from collections.abc import Mapping
import math
from typing import Any

from kt_jax import core
from kt_jax.models import _hf as hf

# Scaling -> {our setting: key of the config}.
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
  values = config.get(
      scaling, None, lambda v: v is None or isinstance(v, dict)
      and not any(isinstance(x, dict) for x in v.values()),
      'null or an object of numbers, the same for all layers') or {}
  part = hf.Config(f'{config.path}: {scaling}', values)
  number = lambda key, default, least: part.number(key, default, least, 1e9)
  for place in (config, part):
    place.get('partial_rotary_factor', 1,
              lambda v: v is None or hf.is_number(v) and v == 1, '1')
  base = (part if 'rope_theta' in values else config).number(
      'rope_theta', 10000.0, 1.001, 1e9)
  kind = 'rope_type' if 'rope_type' in values else 'type'
  name = part.choice(kind, 'default', ['default', *_KEYS])
  if name == 'default':
    return float(base), None
  settings: dict[str, Any] = dict(name=name)
  if name == 'yarn':
    settings['original_context'] = original = _original(config, part, context)
    settings['factor'] = factor = context / original if (
        values.get('factor') is None) else number('factor', None, 1e-3)
    settings |= dict(
        fast=number('beta_fast', 32, 1e-3), slow=number('beta_slow', 1, 1e-3),
        attention=_attention(part, factor),
        truncate=part.flag('truncate', True))
  else:
    settings['factor'] = number('factor', None, 1e-3)
  if name == 'llama3':
    settings['original_context'] = _original(config, part, context)
    settings |= dict(low=number('low_freq_factor', None, 1e-3),
                     high=number('high_freq_factor', None, 1e-3))
    if settings['low'] >= settings['high']:
      raise core.UserError(f'{part.path}: low_freq_factor must be below '
                           'high_freq_factor.')
  return float(base), {k: float(v) if type(v) is int else v
                       for k, v in settings.items()}


def to_config(base: float, scaling: Mapping[str, Any] | None
             ) -> tuple[float, dict[str, Any] | None]:
  """`(rope_theta, rope_scaling)`, which old and new readers understand."""
  if not scaling:
    return base, None
  values = {key: scaling[setting]
            for setting, key in _KEYS[scaling['name']].items()
            if setting in scaling
            and (setting, scaling[setting]) != ('attention', 0)}
  key = 'original_max_position_embeddings'
  if key in values:
    values[key] = int(values[key])
  return base, dict(rope_type=scaling['name'], **values)


def _original(config, part, context) -> int:
  key = 'original_max_position_embeddings'
  return (config if key in config.values else part).size(key, context, _MOST)


def _attention(part, factor) -> float:
  """The factor on queries and keys; 0 is the default, 0.1 ln factor + 1."""
  at = lambda key: part.values.get(key) and part.number(key, None, 1e-6, 1e6)
  if at('attention_factor'):
    return at('attention_factor')
  of = lambda m: 0.1 * m * math.log(factor) + 1 if factor > 1 else 1.0
  if at('mscale') and at('mscale_all_dim'):
    return of(at('mscale')) / of(at('mscale_all_dim'))
  return 0.0 if factor > 1 else 1.0
