"""Tokens of a result: its vocabulary, its files, and every model's rows."""
from collections import Counter
from collections.abc import Mapping
import json
import logging
import pathlib
from typing import NamedTuple

import numpy as np

from kt_jax import checkpoint
from kt_jax import core
from kt_jax.checkpoint import safetensors
from kt_jax.cli import embeddings
from kt_jax.cli import union
from kt_jax.cli import vocabulary as vocabulary_lib
from kt_jax.cli.open_model import open_model
from kt_jax.cli.open_model import OpenedModel
from kt_jax.cli.tokenizer_option import TokenizerOption

# Files of a tokenizer, copied when its vocabulary stays.
FILES = ('tokenizer.json', 'tokenizer_config.json', 'special_tokens_map.json',
         'tokenizer.model', 'added_tokens.json', 'vocab.json', 'merges.txt',
         'vocab.txt', 'chat_template.jinja', 'chat_template.json',
         'generation_config.json')
_GROWN = ('special_tokens_map.json', 'generation_config.json',
          'chat_template.jinja', 'chat_template.json')  # of a new vocabulary
_SPECIAL = ('bos_token', 'eos_token', 'unk_token', 'pad_token', 'sep_token',
            'cls_token', 'mask_token')


class Tokens(NamedTuple):
  """The vocabulary of a result, its files, and where its rows come from."""
  files: dict[str, bytes]  # to write beside the weights
  vocab_size: int | None = None  # for config.json; None: as it is
  vocab: dict[str, int] | None = None  # token -> id; None: not read
  ids: Mapping[str, np.ndarray] = {}  # model -> [vocab_size], its ids or -1
  # [vocab_size], the rows that belong to a token
  used: np.ndarray = np.zeros(0, bool)
  origins: Mapping[int, tuple] = {}  # row -> its option in the recipe

  def align(self, name: str, tensors: Mapping[str, checkpoint.Tensor],
            base: str | None = None) -> dict[str, checkpoint.Tensor]:
    """One tensor of every model, with rows of the result's vocabulary.

    For names that `embeddings.is_vocabulary` accepts; `embeddings.align_rows`
    has the rules and the errors. With no tokenizer option they stay.

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
    return embeddings.align_rows(name, tensors, self.ids, self.used,
                                 self.origins, base)


def plan_tokens(models: Mapping[str, OpenedModel], base: str | None,
                option: TokenizerOption | None = None,
                chat_template: str | None = None) -> Tokens:
  """Settles the vocabulary of a merge.

  Args:
    models: reference -> opened model, in the order of the recipe.
    base: one of them, or None for the first.
    option: of the recipe; None keeps the base's files as they are.
    chat_template: Jinja text, 'auto' for the one that most models have, None
      for that of the vocabulary's model.

  Returns:
    `Tokens`.

  Raises:
    UserError: a tokenizer that cannot be read as data, an unknown token or
      model.

  Departures: a model without a tokenizer has the base's, as in mergekit; a
  base without one is refused. See `union.grow_vocabulary` for the rest.
  """
  base = base or next(iter(models))
  if option is None:
    folder = models[base].path
    files = _copied(folder, FILES) if folder.is_dir() else {}
    _set_template(files, chat_template, models)
    return Tokens(files)
  base_vocabulary = _vocabulary(models[base])
  if base_vocabulary is None:
    raise core.UserError(f'{base}: has no tokenizer.json, which tokenizer '
                         'options need.')
  vocabularies = {}
  for name, model in models.items():
    own = base_vocabulary if name == base else _vocabulary(model)
    if own is None:
      logging.getLogger('kt_jax').warning(
          '%s has no tokenizer; that of %s is used.', name, base)
    vocabularies[name] = own or base_vocabulary
  if option.source in ('base', 'union'):
    start = base_vocabulary
    others = [v for n, v in vocabularies.items() if n != base] * (
        option.source == 'union')
  else:
    start = vocabularies.get(option.source) or _elsewhere(option.source)
    others = []
  result = union.grow_vocabulary(start, others, option.tokens)
  count = max(result.tokens.values()) + 1 if result.tokens else 0
  multiple = option.pad_to_multiple_of or 1
  size = -(-count // multiple) * multiple
  used = np.zeros(size, bool)
  used[list(result.tokens.values())] = True
  origins = {result.tokens[token]: _origin(token, entry, vocabularies)
             for token, entry in option.tokens.items()}
  ids = {name: _ids(result.tokens, own.tokens, size)
         for name, own in vocabularies.items()}
  files = _files(result)
  _set_template(files, chat_template, models)
  return Tokens(files, size, result.tokens, ids, used, origins)


def _vocabulary(model) -> vocabulary_lib.Vocabulary | None:
  """Of an opened model; ids that its embedding lacks are left out."""
  if not model.path.is_dir():
    return None
  config = model.config or {}
  text = config.get('text_config')
  size = config.get('vocab_size') or (
      isinstance(text, dict) and text.get('vocab_size'))
  rows = [t.shape[0] for name, t in model.tensors.items()
          if embeddings.is_vocabulary(name) and t.shape]
  rows += [size] if type(size) is int and size > 0 else []
  return vocabulary_lib.read_vocabulary(model.path, min(rows, default=2 ** 24))


def _elsewhere(reference) -> vocabulary_lib.Vocabulary:
  """Of a model that is only named as the source of the tokenizer."""
  vocabulary = _vocabulary(open_model(reference))
  if vocabulary is None:
    raise core.UserError(f'{reference}: has no tokenizer.json to take the '
                         'vocabulary from.')
  return vocabulary


def _ids(tokens, own, size) -> np.ndarray:
  ids = np.full(size, -1, np.int64)
  for token, at in tokens.items():
    ids[at] = own.get(token, -1)
  return ids


def _origin(token, entry, vocabularies) -> tuple:
  """`(force, model, id)` as `embeddings.align_rows` takes it."""
  if entry.kind == 'zero':
    return entry.force, None, None
  if entry.kind == 'default':
    return entry.force, '', None
  if entry.model not in vocabularies:
    raise core.UserError(f'Embedding of token {token!r}: '
                         + core.nearest('model', entry.model, vocabularies))
  number, own = entry.token_id, vocabularies[entry.model].tokens
  if number is None:
    name = token if entry.token is None else entry.token
    if name not in own:
      raise core.UserError(f'Embedding of token {token!r}: {entry.model} has '
                           f'no token {name!r}.')
    number = own[name]
  return entry.force, entry.model, number


def _copied(folder: pathlib.Path, names) -> dict[str, bytes]:
  return {name: (folder / name).read_bytes() for name in names
          if (folder / name).is_file()}


def _files(vocabulary: vocabulary_lib.Vocabulary) -> dict[str, bytes]:
  if vocabulary.complete:
    return _copied(vocabulary.folder, FILES)
  files = _copied(vocabulary.folder, _GROWN)
  config = dict(vocabulary.config)
  for key in _SPECIAL:
    value = config.get(key)
    content = value.get('content') if isinstance(value, dict) else value
    if isinstance(content, str) and content not in vocabulary.tokens:
      logging.getLogger('kt_jax').warning(
          '%s: %s %r has no embedding and is dropped.',
          vocabulary.folder.name, key, content)
      del config[key]
      files.pop('special_tokens_map.json', None)
  config['added_tokens_decoder'] = {
      str(e['id']): {k: v for k, v in e.items() if k != 'id'}
      for e in sorted(vocabulary.added.values(), key=lambda e: e['id'])}
  return files | {'tokenizer.json': _json(vocabulary.spec),
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
    templates = [t for m in models.values() if (t := _template(m.path))]
    option = Counter(templates).most_common(1)[0][0] if templates else None
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
  template = None
  for name in ('tokenizer_config.json', 'chat_template.json'):
    if (folder / name).is_file() and not template:
      template = safetensors.read_object(folder / name).get('chat_template')
  if isinstance(template, list):
    template = next((t.get('template') for t in template if isinstance(t, dict)
                     and t.get('name') == 'default'), None)
  return (template.strip() if isinstance(template, str) and template.strip()
          else None)
