"""What may be asked of text, and what is no answer."""
from collections.abc import Mapping
import math
import numbers
from typing import Any

from kt_jax.core import nearest
from kt_jax.core import UserError

SPLITS = ('train', 'validation', 'test')

# What may be asked of text, and what is done if it is not said.
DEFAULTS_TEXT: dict[str, Any] = {
    'name': 'text',  # of the mixture, for reports
    'tokenizer': 'characters',  # or a folder with tokenizer.json
    'length': 128,  # S, positions of a row
    'prompt': 0,  # P, the first of them; what comes later is predicted
    'domains': {},  # name -> settings, DEFAULTS_DOMAIN
    'split_seed': 1234,  # which examples are in which split; of tasks, which
    'data_dir': '',  # where files are looked for first
    'start': False,  # the token that begins a text: on documents and prompts
    'end': True,  # the one that ends it: on documents and responses
    'pack': True,  # several documents to a row
    'too_long': 'refuse',  # documents, prompts and responses; or 'drop'
}
# Of one domain. Continuous text is cut in windows that overlap by max(P, 1)
# tokens, documents stay whole, pairs put the prompt before position P and the
# response from there on. Where a source has no splits of its own, it is cut
# 90 / 5 / 5: text by position, documents and pairs at random.
DEFAULTS_DOMAIN: dict[str, Any] = {
    # 'tiny_shakespeare', a path to .txt (continuous text) or to .jsonl ('text':
    # documents; 'prompt' and 'response': pairs), 'task:NAME' of data/strings.py
    # or the user's 'module:function', which returns a string, a list of strings
    # or of pairs, or a dict of one of these by split.
    'source': '',
    # Windows, documents or pairs of each split, drawn at random: a number, a
    # share below 1, or 0 for all there is. A task has as many as are asked for.
    'train': 0,
    'validation': 0,
    'test': 0,
    'kw': {},  # settings of the task or the function
    'share': 1.0,  # of rows, as `mixed_stream` takes it
    'as_text': False,  # pairs become documents: prompt, response, newline
    # False: validation and test are drawn from what train is drawn from, for
    # what is to be remembered, not found out.
    'disjoint': True,
}


def text_config(config) -> dict[str, Any]:
  """`DEFAULTS_TEXT` with what `config` says, checked; domains by name."""
  config = _merged('data', DEFAULTS_TEXT, config)
  for key in ('name', 'tokenizer', 'data_dir'):
    if not isinstance(config[key], str):
      raise UserError(f'data.{key} must be a string, got {config[key]!r}.')
  for key, low, top in [('length', 2, 1 << 20), ('prompt', 0, config['length']),
                        ('split_seed', 0, 1 << 62)]:
    value = config[key]
    if not isinstance(value, numbers.Integral) or isinstance(value, bool) or (
        not low <= value < top):
      raise UserError(f'data.{key} must be an integer from {low} to {top - 1}, '
                      f'got {value!r}.')
  _check_bool('data', config, ('start', 'end', 'pack'))
  if config['too_long'] not in ('refuse', 'drop'):
    raise UserError("data.too_long must be 'refuse' or 'drop', got "
                    f'{config["too_long"]!r}.')
  domains = _plain('data.domains', config['domains'])
  if not domains:
    raise UserError('data.domains must name at least one domain.')
  config['domains'] = {name: _domain_settings(f'data.domains.{name}',
                                              domains[name])
                       for name in sorted(domains)}
  return config


def _domain_settings(path: str, given) -> dict[str, Any]:
  domain = _merged(path, DEFAULTS_DOMAIN, given)
  if not isinstance(domain['source'], str) or not domain['source']:
    raise UserError(f'{path}.source must say where the text is from, got '
                    f'{domain["source"]!r}.')
  for key in (*SPLITS, 'share'):
    value = domain[key]
    real = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not real or not 0 <= value < math.inf or (
        key != 'share' and value > 1 and value != int(value)):
      raise UserError(f'{path}.{key} must be a share or a number of examples '
                      f'from 0 on, got {value!r}.')
  _check_bool(path, domain, ('as_text', 'disjoint'))
  domain['kw'] = _plain(f'{path}.kw', domain['kw'])
  return domain


def _merged(path: str, defaults, given) -> dict[str, Any]:
  given = _plain(path, given)
  for key in given:
    if key not in defaults:
      raise UserError(nearest(f'setting of {path}', key, defaults))
  return {**defaults, **given}


def _plain(path: str, value) -> dict[str, Any]:
  if not isinstance(value, Mapping) and not hasattr(value, 'to_dict'):
    raise UserError(f'{path} must be a mapping, got {value!r}.')
  return dict(value.items())


def _check_bool(path: str, config, keys) -> None:
  for key in keys:
    if not isinstance(config[key], bool):
      raise UserError(f'{path}.{key} must be True or False, got '
                      f'{config[key]!r}.')
