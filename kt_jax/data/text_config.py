"""Validation of text data specs."""
from collections.abc import Mapping
import math
from typing import Any

from kt_jax.core import spec
from kt_jax.core import UserError
from kt_jax.data.specs import SPLITS
from kt_jax.data.specs import Text


def text_config(config: Text | Mapping[str, Any]) -> dict[str, Any]:
  """The fields of a `Text` spec, checked; domains by name, in order."""
  config = vars(spec.build(Text, config, 'data')).copy()
  for key, low, top in [('length', 2, 1 << 20), ('prompt', 0, config['length']),
                        ('split_seed', 0, 1 << 62)]:
    if not low <= config[key] < top:
      raise UserError(f'data.{key} must be an integer from {low} to {top - 1}, '
                      f'got {config[key]!r}.')
  if not config['domains']:
    raise UserError('data.domains must name at least one domain.')
  config['domains'] = {
      name: _domain_settings(f'data.domains.{name}', config['domains'][name])
      for name in sorted(config['domains'])}
  return config


def _domain_settings(path: str, domain) -> dict[str, Any]:
  domain = vars(domain).copy()
  if not domain['source']:
    raise UserError(f'{path}.source must name the source of the text.')
  for key in (*SPLITS, 'share'):
    value = domain[key]
    if not 0 <= value < math.inf or (
        key != 'share' and value > 1 and value != int(value)):
      raise UserError(f'{path}.{key} must be a share or a number of examples '
                      f'from 0 on, got {value!r}.')
  return domain
