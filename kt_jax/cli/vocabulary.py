"""Vocabularies: tokenizer.json, read and checked as data, never run."""
import pathlib
from typing import Any, NamedTuple

from kt_jax import core
from kt_jax.checkpoint import safetensors

_LARGEST = 2 ** 28  # bytes of a tokenizer.json
_MOST = 2 ** 24  # ids
_TYPES = ('BPE', 'WordPiece', 'WordLevel', 'Unigram')
_OTHERS = ('tokenizer.model', 'spiece.model', 'sentencepiece.bpe.model',
           'vocab.json', 'vocab.txt', 'tiktoken.model')
FLAGS = dict(single_word=False, lstrip=False, rstrip=False, normalized=True,
             special=False)  # of an added token without flags


class Vocabulary(NamedTuple):
  folder: pathlib.Path
  tokens: dict[str, int]  # token -> id, which is its row of the embedding
  added: dict[str, dict[str, Any]]  # entries of tokens matched first
  spec: dict[str, Any]  # tokenizer.json, without what has no row
  config: dict[str, Any]  # tokenizer_config.json
  complete: bool  # without omissions or additions: the file can be copied

  @property
  def kind(self) -> tuple[Any, ...]:
    """Two vocabularies spell tokens alike if their kinds are equal."""
    model = self.spec['model']
    parts = repr([self.spec.get('pre_tokenizer'), self.spec.get('decoder')])
    return (model['type'], 'ByteLevel' in parts,
            model.get('continuing_subword_prefix') or '',
            model.get('end_of_word_suffix') or '')


def read_vocabulary(folder, rows: int) -> Vocabulary | None:
  """The vocabulary of a Hugging Face directory.

  Args:
    folder: has `tokenizer.json` and perhaps `tokenizer_config.json`.
    rows: of the embedding; tokens with ids from there on are left out, with
      the merges that need them.

  Returns:
    `Vocabulary`, or None without any tokenizer.

  Raises:
    UserError: a tokenizer in another format, a damaged file, ids that are not
      whole numbers in range or that two tokens share.
  """
  folder = pathlib.Path(folder)
  path = folder / 'tokenizer.json'
  if not path.is_file():
    for name in _OTHERS:
      if (folder / name).is_file():
        raise core.UserError(
            f'{folder}: has {name} but no tokenizer.json; write one (in '
            'transformers: AutoTokenizer.from_pretrained(path, use_fast=True)'
            '.save_pretrained(path)).')
    return None
  spec = _read(path)
  model = spec.get('model')
  if not isinstance(model, dict):
    raise core.UserError(f'{path}: must have a "model" object.')
  model = dict(model, type=model.get('type') or _guess(model))
  if model['type'] not in _TYPES:
    raise core.UserError(f'{path}: ' + core.nearest(
        'tokenizer type', model['type'], _TYPES))
  tokens = _regular(model, path)
  added, extended = _added(spec.get('added_tokens'), path), False
  config = folder / 'tokenizer_config.json'
  config = _read(config) if config.is_file() else {}
  by_id = {i: token for token, i in tokens.items()}
  if len(by_id) != len(tokens):
    token = next(t for t, i in tokens.items() if by_id[i] != t)
    raise core.UserError(f'{path}: {token!r} and {by_id[tokens[token]]!r} '
                         f'share the id {tokens[token]}.')
  for token, entry in added.items():
    if by_id.setdefault(entry['id'], token) != token or tokens.setdefault(
        token, entry['id']) != entry['id']:
      raise core.UserError(
          f'{path}: added token {token!r} has id {entry["id"]}; that is of '
          f'{by_id[entry["id"]]!r}, or {token!r} has another id.')
  for token, entry in _declared(config, folder).items():
    if token not in tokens and entry['id'] not in by_id:
      added[token], tokens[token], extended = entry, entry['id'], True
      by_id[entry['id']] = token
  unused = {token for token, i in tokens.items() if i >= rows}
  spec = dict(spec, model=_without(model, unused, rows, path), added_tokens=[
      entry for token, entry in added.items() if token not in unused])
  return Vocabulary(
      folder, {t: i for t, i in tokens.items() if t not in unused},
      {t: e for t, e in added.items() if t not in unused}, spec, config,
      not unused and not extended)


def merge_pair(merge, path='') -> tuple[str, str]:
  """The two sides of an entry of `merges`, in either of its forms."""
  pair = merge.split(' ') if isinstance(merge, str) else merge
  if not isinstance(pair, list) or len(pair) != 2 or not all(
      isinstance(side, str) for side in pair):
    raise core.UserError(f'{path}: {merge!r:.80} is not a merge of two tokens.')
  left, right = pair
  return left, right


def _read(path) -> dict[str, Any]:
  if path.stat().st_size > _LARGEST:
    raise core.UserError(f'{path}: has {path.stat().st_size} bytes; a '
                         f'tokenizer has at most {_LARGEST}.')
  return safetensors.read_object(path)


def _guess(model) -> str:
  """The type of a model in an old file, which lacks it."""
  if isinstance(model.get('vocab'), list):
    return 'Unigram'
  if 'merges' in model:
    return 'BPE'
  return 'WordPiece' if 'max_input_chars_per_word' in model else 'WordLevel'


def _regular(model, path) -> dict[str, int]:
  """Token -> id of the model proper."""
  vocab = model.get('vocab')
  if model['type'] == 'Unigram':
    if not isinstance(vocab, list) or len(vocab) > _MOST or not all(
        isinstance(v, list) and len(v) == 2 and isinstance(v[0], str)
        and type(v[1]) in (int, float) for v in vocab):
      raise core.UserError(f'{path}: vocab must be a list of [token, score].')
    tokens = {token: i for i, (token, _) in enumerate(vocab)}
    if len(tokens) != len(vocab):
      twice = next(t for i, (t, _) in enumerate(vocab) if tokens[t] != i)
      raise core.UserError(f'{path}: {twice!r} is in vocab twice.')
  elif isinstance(vocab, dict):
    tokens = dict(vocab)
  else:
    raise core.UserError(f'{path}: vocab must be an object, token -> id.')
  for token, i in tokens.items():
    _check(token, i, path)
  return tokens


def _check(token, i, path):
  if not isinstance(token, str):
    raise core.UserError(f'{path}: token {token!r:.80} must be a string.')
  if type(i) is not int or not 0 <= i < _MOST:
    raise core.UserError(f'{path}: the id of {token!r:.80} must be a whole '
                         f'number below {_MOST}, got {i!r:.80}.')
  try:
    token.encode()
  except UnicodeEncodeError as e:
    raise core.UserError(f'{path}: token {token!r:.80} is not Unicode '
                         'text.') from e


def _added(entries, path) -> dict[str, dict[str, Any]]:
  """Content -> entry of `added_tokens`."""
  by_content = {}
  if entries is not None and not isinstance(entries, list):
    raise core.UserError(f'{path}: added_tokens must be a list.')
  for entry in entries or ():
    if not isinstance(entry, dict):
      raise core.UserError(f'{path}: added token {entry!r:.80} must be an '
                           'object.')
    _check(entry.get('content'), entry.get('id'), path)
    if entry['content'] in by_content:
      raise core.UserError(f'{path}: {entry["content"]!r} is added twice.')
    flags = {k: entry[k] for k in FLAGS if isinstance(entry.get(k), bool)}
    by_content[entry['content']] = FLAGS | flags | {
        'id': entry['id'], 'content': entry['content']}
  return by_content


def _declared(config, folder) -> dict[str, dict[str, Any]]:
  """Added tokens of tokenizer_config.json."""
  path = folder / 'tokenizer_config.json'
  table = config.get('added_tokens_decoder') or {}
  if not isinstance(table, dict):
    raise core.UserError(f'{path}: added_tokens_decoder must be an object.')
  for i, entry in table.items():
    if not isinstance(entry, dict) or not i.isdecimal() or len(i) > 9:
      raise core.UserError(f'{path}: added_tokens_decoder must map ids to '
                           f'objects, has {i!r:.80}.')
  return _added([dict(entry, id=int(i)) for i, entry in table.items()], path)


def _without(model, unused, rows, path) -> dict[str, Any]:
  """The model without tokens that have no row; its merges are checked."""
  model = dict(model)
  if model['type'] == 'BPE':
    merges = model.get('merges')
    if not isinstance(merges, list):
      raise core.UserError(f'{path}: merges must be a list.')
    prefix = model.get('continuing_subword_prefix') or ''
    pairs = [merge_pair(merge, path) for merge in merges]
    if unused:
      model['merges'] = [
          merge for merge, (a, b) in zip(merges, pairs)
          if not unused & {a, b, a + b.removeprefix(prefix)}]
  if unused:
    model['vocab'] = (
        model['vocab'][:rows] if model['type'] == 'Unigram' else
        {t: i for t, i in model['vocab'].items() if t not in unused})
  return model
