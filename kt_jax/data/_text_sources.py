"""Texts and pairs by name, for each split.

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
CHUNK, PATIENCE = 256, 64  # pairs per draw; draws without a new prompt


def read(domain: Mapping, data_dir: str, seed: int,
         keep: Callable[[str, str], bool]) -> dict[str, Content]:
  """Split -> content of `domain['source']`; see `Domain`.

  Args:
    domain: all settings of the domain.
    data_dir: first folder to search for files.
    seed: of tasks and splits.
    keep: (prompt, response) -> whether to use a task's pair.

  Raises:
    UserError: the source is missing, empty or damaged.
  """
  source = domain['source']
  name = spec.to_dict(source)
  if name.startswith('task:'):
    return task(name.removeprefix('task:'), domain, seed, keep)
  if name == 'tiny_shakespeare':
    content = text_files.shakespeare(data_dir)
  elif name.endswith(('.txt', '.jsonl')):
    path = text_files.find(name, data_dir)
    content = (text_files.read_text if name.endswith('.txt')
               else text_files.read_jsonl)(path)
  elif ':' in name or source is not name:
    if source is name:
      source = resolve(sys.modules[__name__], name, 'source of text')
    try:
      content = bind(source, {'config': domain}, **domain['kw'])
    except ValueError as e:
      raise UserError(f'{name}: {e}') from e
  else:
    raise UserError(nearest('source of text', name, [
        'tiny_shakespeare', 'a path to .txt or .jsonl', 'task:NAME',
        'module:function']))
  if isinstance(content, Mapping):
    for split in content:
      if split not in SPLITS:
        raise UserError(f'{name}: {nearest("split", split, SPLITS)}')
    parts = {split: content.get(split, []) for split in SPLITS}
  elif domain['disjoint']:
    parts = _split(content, name, seed)
  else:
    parts = dict.fromkeys(SPLITS, content)
  for part in parts.values():
    if not _is_content(part):
      raise UserError(f'{name} must be a text, texts, pairs (prompt, response) '
                      'or a dict of them by split, got '
                      f'{type(part).__name__}.')
  if not parts['train']:
    raise UserError(f'{name} is empty.')
  return parts


def task(name: str, domain: Mapping, seed: int, keep) -> dict[str, Content]:
  """Pairs of a string task with distinct prompts.

  Pairs of the test split are drawn first, then validation, then train: more of
  one do not change those before. Tasks share their random numbers: words or
  phrases held out by one are also held out by others with equal numbers and
  lengths.
  """
  counts = [domain[split] for split in reversed(SPLITS)]
  if any(n != int(n) for n in counts) or not domain['train']:
    raise UserError('train, validation and test of a task must be numbers of '
                    f'pairs, train >= 1, got {counts[::-1]}.')
  total = int(sum(counts) if domain['disjoint'] else domain['train'])
  responses, chunk, latest = {}, 0, 0
  while len(responses) < total:
    rng = strings.generator(seed, chunk)
    for prompt, response in strings.pairs_of(name, rng, CHUNK, domain['kw']):
      if len(responses) < total and prompt not in responses and keep(
          prompt, response):
        responses[prompt], latest = response, chunk
    chunk += 1
    if chunk - latest > PATIENCE:
      raise UserError(f'task {name!r} has {len(responses)} prompts; {total} '
                      'are needed. Set smaller numbers for train, validation '
                      'and test.')
  pairs, parts = list(responses.items()), {}
  if not domain['disjoint']:
    return {split: pairs if domain[split] else [] for split in SPLITS}
  for split, count in zip(reversed(SPLITS), map(int, counts)):
    parts[split], pairs = pairs[:count], pairs[count:]
  return parts


def _split(content, name: str, seed: int) -> dict[str, Content]:
  """Nine tenths for train, a twentieth each for validation and test.

  A text is split by position, documents at random, pairs by prompt.
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
    raise UserError(f'{name} has {len(groups)} different texts; holding out '
                    'some for validation and test takes 3.')
  order, held_out = permutation(len(groups), seed), max(1, len(groups) // 20)
  part = {groups[k]: 'test' if i < held_out else
          'validation' if i < 2 * held_out else 'train'
          for i, k in enumerate(order)}
  return {split: [x for x, key in zip(content, keys) if part[key] == split]
          for split in SPLITS}


def _is_content(x) -> bool:
  if isinstance(x, str) or not isinstance(x, Sequence):
    return isinstance(x, str)
  return all(isinstance(y, str) for y in x) or all(
      isinstance(y, (tuple, list)) and len(y) == 2
      and all(isinstance(z, str) for z in y) for y in x)
