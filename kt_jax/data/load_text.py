"""Text by name: rows of tokens to train on, to validate and to test."""
from collections.abc import Mapping
import hashlib
from typing import Any

import numpy as np

from kt_jax.core import UserError
from kt_jax.data import _text_sources as text_sources
from kt_jax.data._encode import document
from kt_jax.data._encode import Encoder
from kt_jax.data.arrays import Info
from kt_jax.data.arrays import permutation
from kt_jax.data.arrays import Splits
from kt_jax.data.specs import SPLITS
from kt_jax.data.specs import Text
from kt_jax.data.text_arrays import TextArrays
from kt_jax.data.text_config import text_config
from kt_jax.data.tokenizer import tokenizer


def load_text(config: Text | Mapping[str, Any]) -> Splits:
  """Reads text and lays it out in rows of tokens.

  Args:
    config: a `Text` spec, or a mapping with some of its keys.

  Returns:
    `(train, validation, test, info)` of `TextArrays`. `info.classes` is the
    size V of the vocabulary and `info.input_shape` is `(S,)`. Domains are in
    alphabetical order.

  Raises:
    UserError: one line about what cannot be had, and what can.
  """
  config = text_config(config)
  encoder = _encoder(config)
  laid = {split: [] for split in SPLITS}
  for name, domain in config['domains'].items():
    for split, layout in _domain(name, domain, config, encoder).items():
      laid[split].append(layout)
  parts = {split: _joined(x, config) for split, x in laid.items()}
  digest = hashlib.blake2b(encoder.tokenizer.digest.encode(), digest_size=16)
  digest.update(repr([*config['domains']]).encode())
  for arrays in parts.values():
    digest.update(np.int64(len(arrays)).tobytes())
    for value in arrays.batch(slice(None)).values():
      digest.update(np.ascontiguousarray(value).data)
  sizes = {split: len(arrays) for split, arrays in parts.items()}
  return Splits(**parts, info=_info(config, encoder, sizes,
                                    digest.hexdigest()))


def abstract_text(config: Text | Mapping[str, Any]) -> Info:
  """What `load_text` would say; a domain whose rows follow from the numbers of
  its config is not read: a task, or text with a number for every split."""
  config = text_config(config)
  encoder = _encoder(config)
  sizes = dict.fromkeys(SPLITS, 0)
  for name, domain in config['domains'].items():
    source = domain['source']
    source = source if isinstance(source, str) else ''
    task = source.startswith('task:') and not domain['as_text']
    text = source.endswith('.txt') or source == 'tiny_shakespeare'
    known = task and domain['train'] >= 1 or text and all(
        domain[split] >= 1 for split in SPLITS)
    rows = {} if known else _domain(name, domain, config, encoder)
    for split in SPLITS:
      sizes[split] += int(domain[split]) if known else len(rows[split][1])
  return _info(config, encoder, sizes)


def _encoder(config) -> Encoder:
  return Encoder(tokenizer(config['tokenizer']), config['length'],
                 config['prompt'], config['add_bos'], config['add_eos'],
                 config['pack'], config['too_long'] == 'drop')


def _info(config, encoder: Encoder, sizes, fingerprint: str = '') -> Info:
  return Info(config['name'], encoder.tokenizer.size, (config['length'],),
              mean=(), std=(), class_names=(), sizes=sizes,
              fingerprint=fingerprint)


def _domain(name: str, domain, config, encoder: Encoder):
  """Split -> (layout, numbers of its rows) of one domain."""
  seed, as_text = config['split_seed'], domain['as_text']
  keep = lambda *pair: encoder.keep(document(*pair) if as_text else pair)
  try:
    contents = text_sources.read(domain, config['data_dir'], seed, keep)
    parts = {split: encoder.rows(
        contents[split], lambda n, k=k, split=split: _chosen(
            domain[split], split, n, seed, k), as_text)
             for k, split in enumerate(SPLITS)}
  except UserError as e:
    raise UserError(f'data.domains.{name}: {e}') from e
  if not len(parts['train'][1]):
    raise UserError(f'data.domains.{name} leaves nothing to train on.')
  return parts


def _chosen(value: float, split: str, n: int, *entropy: int) -> np.ndarray:
  """Ascending positions of a number or share of `n` examples."""
  count = n if not value else (
      max(1, round(value * n)) if value < 1 else int(value))
  if count > n:
    raise UserError(f'{split}={value} is more than the {n} examples there are.')
  return np.sort(permutation(n, *entropy)[:count])


def _joined(parts, config) -> TextArrays:
  """The domains of one split, one after another."""
  layouts, numbers = zip(*parts)
  domain = np.repeat(np.arange(len(parts)), [len(x) for x in numbers])
  return TextArrays(
      *(np.concatenate(x) for x in zip(*layouts)),
      ids=np.concatenate(numbers).astype(np.int64) + (domain << 32),
      domain=domain.astype(np.int32),
      domains={k: float(v['share']) for k, v in config['domains'].items()})
