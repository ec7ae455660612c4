"""Texts and pairs by name: what there is of them for each split.

A content is a `str` (continuous text), a list of `str` (documents) or a list of
pairs (prompt, response).
"""
from collections.abc import Callable, Mapping, Sequence
import sys

from kt_jax.core import bind
from kt_jax.core import nearest
from kt_jax.core import resolve
from kt_jax.core import spec
from kt_jax.core import UserError
from kt_jax.data import _text_files as text_files
from kt_jax.data.arrays import permutation
from kt_jax.data.specs import SPLITS
from kt_jax.data.toy import strings

Content = str | list[str] | list[tuple[str, str]]
CHUNK, PATIENCE = 256, 64  # pairs in a draw; draws without a new prompt


def read(domain: Mapping, data_dir: str, seed: int,
         keep: Callable[[str, str], bool]) -> dict[str, Content]:
  """Split -> content of what `domain['source']` names; see `Domain`.

  Args:
    domain: settings of the domain, all of them.
    data_dir: where files are looked for first.
    seed: of tasks and splits.
    keep: (prompt, response) -> whether a task's pair counts.

  Raises:
    UserError: the source is not there, empty or damaged.
  """
  source = domain['source']
  name = spec.to_dict(source)
  if name.startswith('task:'):
    return task(name.removeprefix('task:'), domain, seed, keep)
  if name == 'tiny_shakespeare':
    found = text_files.shakespeare(data_dir)
  elif name.endswith(('.txt', '.jsonl')):
    path = text_files.find(name, data_dir)
    found = (text_files.read_text if name.endswith('.txt')
             else text_files.read_jsonl)(path)
  elif ':' in name or source is not name:
    made = resolve(sys.modules[__name__], name, 'source of text') if (
        source is name) else source
    try:
      found = bind(made, {'config': domain}, **domain['kw'])
    except ValueError as e:
      raise UserError(f'{name}: {e}') from e
  else:
    raise UserError(nearest('source of text', name, [
        'tiny_shakespeare', 'a path to .txt or .jsonl', 'task:NAME',
        'module:function']))
  if isinstance(found, Mapping):
    for split in found:
      if split not in SPLITS:
        raise UserError(f'{name}: {nearest("split", split, SPLITS)}')
    parts = {split: found.get(split, []) for split in SPLITS}
  elif domain['disjoint']:
    parts = _split(found, name, seed)
  else:
    parts = dict.fromkeys(SPLITS, found)
  for content in parts.values():
    if not _is_content(content):
      raise UserError(f'{name} must give a text, texts, pairs (prompt, '
                      'response) or a dict of them by split, got '
                      f'{type(content).__name__}.')
  if not parts['train']:
    raise UserError(f'{name} is empty.')
  return parts


def task(name: str, domain: Mapping, seed: int, keep) -> dict[str, Content]:
  """Pairs of a string task, no prompt twice.

  Those of the test split come first, then validation, then train: more of one
  changes none of those before it. Tasks draw alike: the words or phrases that
  one holds out, others with the same numbers and lengths hold out too.
  """
  counts = [domain[split] for split in reversed(SPLITS)]
  if any(n != int(n) for n in counts) or not domain['train']:
    raise UserError('train, validation and test of a task must be numbers of '
                    f'pairs, train from 1 on, got {counts[::-1]}.')
  want = int(sum(counts) if domain['disjoint'] else domain['train'])
  known, chunk, new = {}, 0, 0
  while len(known) < want:
    rng = strings.generator(seed, chunk)
    for prompt, response in strings.pairs_of(name, rng, CHUNK, domain['kw']):
      if len(known) < want and prompt not in known and keep(prompt, response):
        known[prompt], new = response, chunk
    chunk += 1
    if chunk - new > PATIENCE:
      raise UserError(f'task {name!r} has {len(known)} prompts; {want} are '
                      'asked for. Ask for less of train, validation and test.')
  pairs, parts = list(known.items()), {}
  if not domain['disjoint']:
    return {split: pairs if domain[split] else [] for split in SPLITS}
  for split, count in zip(reversed(SPLITS), map(int, counts)):
    parts[split], pairs = pairs[:count], pairs[count:]
  return parts


def _split(content, name: str, seed: int) -> dict[str, Content]:
  """Nine tenths to train on, a twentieth each to validate and to test.

  A text is cut by position, documents are drawn, pairs are by prompt.
  """
  if isinstance(content, str):
    first = int(0.9 * len(content))
    second = first + (len(content) - first) // 2
    return {'train': content[:first], 'validation': content[first:second],
            'test': content[second:]}
  if not _is_content(content):
    return dict.fromkeys(SPLITS, content)
  keys = [x if isinstance(x, str) else x[0] for x in content]
  groups = list(dict.fromkeys(keys))
  if 0 < len(groups) < 3:
    raise UserError(f'{name} has {len(groups)} different texts; to hold out '
                    'some of them for validation and test takes 3.')
  order, held = permutation(len(groups), seed), max(1, len(groups) // 20)
  part = {groups[k]: 'test' if i < held else
          'validation' if i < 2 * held else 'train'
          for i, k in enumerate(order)}
  return {split: [x for x, key in zip(content, keys) if part[key] == split]
          for split in SPLITS}


def _is_content(x) -> bool:
  if isinstance(x, str) or not isinstance(x, Sequence):
    return isinstance(x, str)
  return all(isinstance(y, str) for y in x) or all(
      isinstance(y, (tuple, list)) and len(y) == 2
      and all(isinstance(z, str) for z in y) for y in x)
