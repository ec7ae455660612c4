"""The card of a merged model: its parents, recipe and command."""
from collections.abc import Mapping, Sequence
import json
import pathlib
import re
import shlex
from typing import Any

import numpy as np

from kt_jax import checkpoint

_ABSOLUTE = re.compile(
    r'(?<![\w./~-])(?:~|\.{1,2})?(?:/[^\s/\'",:{}\[\]()]+){2,}/?')


def write_card(directory, *, method: str, recipe: str,
               parents: Mapping[str, str], command: Sequence[str] = (),
               title: str = '', **more: Any) -> dict[str, Any]:
  """Writes `README.md` and `card.json`.

  Neither contains a directory of this machine: models have the last part of
  their path as name, in the recipe and in the command too.

  Args:
    directory: of the merged model; it exists.
    method: of the merge.
    recipe: its text, as it was read.
    parents: reference (path, or 'path+adapter') -> hash of its content.
    command: argv of the merge.
    title: of the model; that of the directory where it is ''.
    **more: JSON values for `card.json` (seed, dtype, the result's own hash).

  Returns:
    The content of `card.json`.

  Raises:
    UserError: it cannot be written.
  """
  names = name_parents(parents)
  card = dict(
      method=method, recipe=_scrub(recipe, names),
      parents=[dict(name=names[p], content=digest)
               for p, digest in parents.items()],
      command=shlex.join(_scrub(arg, names) for arg in command),
      versions=checkpoint.code_version(), **json.loads(json.dumps(
          more, default=_plain)))
  directory = pathlib.Path(directory)
  checkpoint.write_json(directory / 'card.json', card)
  text = _text(title or directory.name, card)
  checkpoint.write_atomic(directory / 'README.md',
                          text.encode('utf-8', 'replace'))
  return card


def name_parents(references) -> dict[str, str]:
  """Reference -> a short name; equal names are numbered."""
  names = {}
  for reference in references:
    parts = [pathlib.PurePath(p).name or 'model' for p in reference.split('+')]
    short, number = '+'.join(parts), 2
    name = short
    while name in names.values():
      name, number = f'{short}-{number}', number + 1
    names[reference] = name
  return names


def _scrub(text: str, names: Mapping[str, str]) -> str:
  """References become names, other absolute paths their last part."""
  for reference in sorted(names, key=len, reverse=True):
    edge = r'(?![\w/+-])'
    text = re.sub(rf'(?<![\w./~-]){re.escape(reference)}/?{edge}',
                  lambda _, name=names[reference]: name, text)
  return _ABSOLUTE.sub(
      lambda m: m[0].rstrip('/').rpartition('/')[2] or m[0], text)


def _plain(value):
  if isinstance(value, (np.ndarray, np.generic)):
    return value.tolist()
  return str(value)


def _text(title: str, card) -> str:
  fence = '`' * max(3, 1 + max(
      (len(m) for m in re.findall('`+', card['recipe'])), default=0))
  row = lambda *cells: '| ' + ' | '.join(
      str(c).replace('|', '\\|') for c in cells) + ' |'
  lines = ['---', 'tags:', '- merge', '- kt_jax', '---', '', f'# {title}', '',
           f'Merged with kt_jax, method `{card["method"]}`, from:', '',
           row('model', 'content'), '|---|---|',
           *(row(p['name'], f'`{p["content"]}`') for p in card['parents']), '',
           'Recipe:', '', fence + 'yaml', card['recipe'].rstrip(), fence, '']
  if card['command']:
    lines += ['Made by:', '', fence + 'sh', card['command'], fence, '']
  lines += ['Versions: ' + ', '.join(
      f'{k} {v}' for k, v in sorted(card['versions'].items())) + '.', '']
  return '\n'.join(lines)
