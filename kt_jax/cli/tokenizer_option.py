"""The tokenizer options of a recipe."""
from collections.abc import Mapping
from typing import NamedTuple

from kt_jax import core
from kt_jax.cli import fields


class TokenOption(NamedTuple):
  """Origin of a token's embedding."""
  kind: str  # 'default', 'zero', 'model', 'model_token'
  model: str | None = None
  token_id: int | None = None
  token: str | None = None
  force: bool = False  # also where a model has the token


class TokenizerOption(NamedTuple):
  """Origin of the result's vocabulary."""
  source: str = 'union'  # 'union', 'base' or a model
  tokens: Mapping[str, TokenOption] = {}
  pad_to_multiple_of: int | None = None


def read_tokenizer(top) -> TokenizerOption | None:
  """`tokenizer` or `tokenizer_source` of a recipe; None without either.

  Raises:
    UserError: both, an unknown key, a value of the wrong kind.
  """
  short = fields.reference(top.get('tokenizer_source'), 'tokenizer_source')
  if top.get('tokenizer') is None:
    return TokenizerOption(short) if short else None
  if short:
    raise core.UserError('A recipe has tokenizer or tokenizer_source, not '
                         'both.')
  value = fields.keys(top['tokenizer'], 'tokenizer',
                      ('source', 'tokens', 'pad_to_multiple_of'))
  pad = value.get('pad_to_multiple_of')
  if pad is not None and (isinstance(pad, bool) or not isinstance(pad, int)
                          or pad < 1):
    raise core.UserError('tokenizer.pad_to_multiple_of must be a whole number '
                         f'>= 1, got {pad!r}.')
  tokens = {
      token: _token(entry, f'tokenizer.tokens[{token!r}]') for token, entry in
      fields.mapping(value.get('tokens') or {}, 'tokenizer.tokens').items()}
  source = fields.reference(value.get('source', 'union'), 'tokenizer.source')
  if source is None:
    raise core.UserError('tokenizer.source must be union, base or a model.')
  return TokenizerOption(source, tokens, pad)


def _token(entry, where) -> TokenOption:
  entry = fields.keys(entry, where, ('source', 'force'))
  force = entry.get('force', False)
  if not isinstance(force, bool):
    raise core.UserError(f'{where}.force must be true or false, got {force!r}.')
  source = entry.get('source')
  if source is None:
    return TokenOption('default', force=force)
  if not isinstance(source, dict) or 'kind' not in source:
    return TokenOption('model', fields.reference(source, where + '.source'),
                       force=force)
  where += '.source'
  if source['kind'] == 'zero':
    fields.keys(source, where, ('kind',))
    return TokenOption('zero', force=force)
  if source['kind'] != 'model_token':
    raise core.UserError(core.nearest(f'kind of {where}', source['kind'],
                                      ('zero', 'model_token')))
  source = fields.keys(source, where, ('kind', 'model', 'token_id', 'token'))
  token, number = fields.text(source, 'token', where), source.get('token_id')
  if (token is None) == (number is None):
    raise core.UserError(f'{where} must have token_id or token, one of the '
                         'two.')
  if number is not None and (isinstance(number, bool)
                             or not isinstance(number, int) or number < 0):
    raise core.UserError(f'{where}.token_id must be a whole number >= 0, got '
                         f'{number!r}.')
  return TokenOption('model_token', fields.model(source, where), number, token,
                     force)
