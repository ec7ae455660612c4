"""Tokens of a result: its vocabulary, its files, and every model's rows."""
from collections import Counter
from collections.abc import Mapping
import json
import logging
import pathlib
from typing import Any, NamedTuple

import numpy as np

from kt_jax import checkpoint
from kt_jax import core
from kt_jax.checkpoint import safetensors
from kt_jax.cli import embeddings
from kt_jax.cli import sources as sources_lib
from kt_jax.cli import union
from kt_jax.cli import vocabulary as vocabulary_lib

# What belongs to a tokenizer and is copied when its vocabulary stays.
FILES = ('tokenizer.json', 'tokenizer_config.json', 'special_tokens_map.json',
         'tokenizer.model', 'added_tokens.json', 'vocab.json', 'merges.txt',
         'vocab.txt', 'chat_template.jinja', 'chat_template.json',
         'generation_config.json')
_GROWN = ('special_tokens_map.json', 'generation_config.json',
          'chat_template.jinja', 'chat_template.json')  # of a new vocabulary
_SPECIAL = ('bos_token', 'eos_token', 'unk_token', 'pad_token', 'sep_token',
            'cls_token', 'mask_token')


class Tokens(NamedTuple):
  """What a merge makes of its models' vocabularies."""
  files: dict[str, bytes]  # to write beside the weights
  vocab_size: int | None  # for config.json; None: as it is
  vocab: dict[str, int] | None  # token -> id; None: not read
  ids: dict[str, np.ndarray]  # model -> [vocab_size], its ids or -1
  used: np.ndarray | None  # [vocab_size], which rows belong to a token
  told: dict[int, tuple]  # row -> what the recipe says of it

  def align(self, name: str, tensors: Mapping[str, checkpoint.Tensor],
            base: str | None = None) -> dict[str, checkpoint.Tensor]:
    """One tensor of every model, with rows of the result's vocabulary.

    For tensors whose name `is_vocabulary` knows; `embeddings.align_rows` has
    the rules and the errors. With no tokenizer option they stay as they are.

    Args:
      name: of the tensor.
      tensors: model -> `[rows, ...]`; models are the keys of `plan_tokens`.
      base: the recipe's base model, if it has one.

    Raises:
      UserError: no option, and numbers of rows that differ.
    """
    if self.vocab is None:
      rows = {m: t.shape[:1] for m, t in tensors.items()}
      if len(set(rows.values())) > 1:
        raise core.UserError(
            f'{name}: the models have vocabularies of '
            f'{[r[0] for r in rows.values() if r]} rows; set tokenizer_source '
            'to union or base.')
      return dict(tensors)
    return embeddings.align_rows(name, tensors, self.ids, self.used, self.told,
                                 base)


def plan_tokens(models: Mapping[str, sources_lib.Source], base: str | None,
                option: Any = None, chat_template: str | None = None) -> Tokens:
  """Settles the vocabulary of a merge.

  Args:
    models: reference -> opened model, in the order of the recipe.
    base: one of them, or None for the first.
    option: None keeps the base's files as they are; else has `source` ('base',
      'union' or the path of a model), `tokens` (token -> its `kind`, `model`,
      `token_id`, `token`, `force`) and `pad_to_multiple_of`.
    chat_template: Jinja text, 'auto' for the one that most models have, None
      for that of the vocabulary's model.

  Returns:
    `Tokens`.

  Raises:
    UserError: a tokenizer that cannot be read as data, a token or a model that
      is not there.

  Departures: a model without a tokenizer has the base's, as in mergekit; a
  base without one is refused. See `union.grow_vocabulary` for the rest.

  References: none.
  """
  base = base or next(iter(models))
  if option is None:
    folder = models[base].path
    files = _copied(folder, FILES) if folder.is_dir() else {}
    _set_template(files, chat_template, models)
    return Tokens(files, None, None, {}, None, {})
  read = {name: _vocabulary(source) for name, source in models.items()}
  if read[base] is None:
    raise core.UserError(f'{base}: has no tokenizer.json, which tokenizer '
                         'options need.')
  for name, found in read.items():
    if found is None:
      logging.getLogger('kt_jax').warning(
          '%s has no tokenizer; it is taken to have that of %s.', name, base)
      read[name] = read[base]
  ordered = [read[base]] + [v for n, v in read.items() if n != base]
  if option.source in ('base', 'union'):
    start, others = ordered[0], ordered[1:] * (option.source == 'union')
  else:
    start, others = read.get(option.source) or _elsewhere(option.source), []
  made = union.grow_vocabulary(start, others, option.tokens)
  count = max(made.tokens.values()) + 1 if made.tokens else 0
  size = -(-count // (option.pad_to_multiple_of or 1)) * (
      option.pad_to_multiple_of or 1)
  used = np.zeros(size, bool)
  used[list(made.tokens.values())] = True
  told = {made.tokens[token]: _told(token, entry, read)
          for token, entry in option.tokens.items()}
  ids = {name: _ids(made.tokens, found.tokens, size)
         for name, found in read.items()}
  files = _files(made)
  _set_template(files, chat_template, models)
  return Tokens(files, size, made.tokens, ids, used, told)


def _vocabulary(source) -> vocabulary_lib.Vocabulary | None:
  """Of an opened model; ids that its embedding lacks are left out."""
  if not source.path.is_dir():
    return None
  config = source.config or {}
  text = config.get('text_config')
  said = config.get('vocab_size') or (
      isinstance(text, dict) and text.get('vocab_size'))
  rows = [t.shape[0] for name, t in source.tensors.items()
          if embeddings.is_vocabulary(name) and t.shape]
  rows += [said] if type(said) is int and said > 0 else []
  return vocabulary_lib.read_vocabulary(source.path, min(rows, default=2 ** 24))


def _elsewhere(reference) -> vocabulary_lib.Vocabulary:
  """Of a model that is only named as the source of the tokenizer."""
  found = _vocabulary(sources_lib.open_model(reference))
  if found is None:
    raise core.UserError(f'{reference}: has no tokenizer.json to take the '
                         'vocabulary from.')
  return found


def _ids(tokens, own, size) -> np.ndarray:
  found = np.full(size, -1, np.int64)
  for token, at in tokens.items():
    found[at] = own.get(token, -1)
  return found


def _told(token, entry, read) -> tuple:
  """`(force, model, id)` as `embeddings.align_rows` wants it."""
  if entry.kind == 'zero':
    return entry.force, None, None
  if entry.kind == 'default':
    return entry.force, '', None
  if entry.model not in read:
    raise core.UserError(f'Embedding of token {token!r}: '
                         + core.nearest('model', entry.model, read))
  number, own = entry.token_id, read[entry.model].tokens
  if number is None:
    wanted = token if entry.token is None else entry.token
    if wanted not in own:
      raise core.UserError(f'Embedding of token {token!r}: {entry.model} has '
                           f'no token {wanted!r}.')
    number = own[wanted]
  return entry.force, entry.model, number


def _copied(folder: pathlib.Path, names) -> dict[str, bytes]:
  return {name: (folder / name).read_bytes() for name in names
          if (folder / name).is_file()}


def _files(made: vocabulary_lib.Vocabulary) -> dict[str, bytes]:
  if made.whole:
    return _copied(made.folder, FILES)
  files = _copied(made.folder, _GROWN)
  config = dict(made.config)
  for key in _SPECIAL:
    value = config.get(key)
    content = value.get('content') if isinstance(value, dict) else value
    if isinstance(content, str) and content not in made.tokens:
      logging.getLogger('kt_jax').warning(
          '%s: %s %r has no embedding and is dropped.', made.folder.name, key,
          content)
      del config[key]
      files.pop('special_tokens_map.json', None)
  config['added_tokens_decoder'] = {
      str(e['id']): {k: v for k, v in e.items() if k != 'id'}
      for e in sorted(made.added.values(), key=lambda e: e['id'])}
  return files | {'tokenizer.json': _json(made.spec),
                  'tokenizer_config.json': _json(config)}


def _json(value) -> bytes:
  try:
    return (json.dumps(value, ensure_ascii=False, indent=2) + '\n').encode()
  except UnicodeEncodeError as e:
    raise core.UserError(f'A tokenizer file has {e.object[e.start]!r}, which '
                         'is not Unicode text.') from e


def _set_template(files, option, models) -> None:
  """Puts the chosen chat template into `files`."""
  if option == 'auto':
    found = [t for s in models.values() if (t := _template(s.path))]
    option = Counter(found).most_common(1)[0][0] if found else None
  elif option is not None and '{' not in option:
    raise core.UserError("chat_template must be Jinja text or 'auto', got "
                         f'{option!r:.80}.')
  if option is None:
    return
  files['chat_template.jinja'] = option.encode()
  files.pop('chat_template.json', None)
  # Old versions of transformers look here, new ones in the file.
  try:
    config = dict(json.loads(files.get('tokenizer_config.json', b'{}')))
  except (TypeError, ValueError, RecursionError) as e:
    raise core.UserError(f'tokenizer_config.json of the base: {e}.') from e
  files['tokenizer_config.json'] = _json(config | {'chat_template': option})


def _template(folder: pathlib.Path) -> str | None:
  """The default chat template of a model."""
  if not folder.is_dir():
    return None
  file = folder / 'chat_template.jinja'
  if file.is_file():
    try:
      return file.read_text('utf-8').strip()
    except UnicodeDecodeError as e:
      raise core.UserError(f'{file}: {e}.') from e
  found = None
  for name in ('tokenizer_config.json', 'chat_template.json'):
    if (folder / name).is_file() and not found:
      found = safetensors.read_object(folder / name).get('chat_template')
  if isinstance(found, list):
    found = next((t.get('template') for t in found if isinstance(t, dict)
                  and t.get('name') == 'default'), None)
  return found.strip() if isinstance(found, str) and found.strip() else None
