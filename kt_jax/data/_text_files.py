"""Texts and pairs from files."""
import json
import os
import pathlib

from kt_jax.core import UserError
from kt_jax.data import sources
from kt_jax.data.text_config import SPLITS

SHAKESPEARE = 'tinyshakespeare.txt'


def find(name: str, data_dir: str) -> pathlib.Path:
  """The file of this name in `data_dir`, or from where the command runs."""
  for folder in (data_dir, '.'):
    path = pathlib.Path(folder).expanduser() / pathlib.Path(name).expanduser()
    if folder and path.is_file():
      return path
  raise UserError(f'There is no file {name}'
                  f'{f" in {data_dir} or here" if data_dir else ""}.')


def read_text(path: pathlib.Path) -> str:
  try:
    return path.read_text(encoding='utf-8')
  except (OSError, ValueError) as e:
    raise UserError(f'{path} cannot be read as UTF-8: {e}') from e


def read_jsonl(path: pathlib.Path) -> list[str] | list[tuple[str, str]]:
  """Documents ('text') or pairs ('prompt' and 'response'), one per line."""
  examples, kind = [], None
  for number, line in enumerate(read_text(path).split('\n'), 1):
    if not line.strip():
      continue
    try:
      x = json.loads(line)
    except (ValueError, RecursionError) as e:
      raise UserError(f'{path}, line {number} is not JSON: {e}') from e
    keys = ('text',) if isinstance(x, dict) and 'text' in x else (
        'prompt', 'response')
    if not isinstance(x, dict) or not all(
        isinstance(x.get(k), str) for k in keys):
      raise UserError(f"{path}, line {number} must be an object with 'text', "
                      "or with 'prompt' and 'response', that are strings.")
    if kind is not None and kind != keys:
      raise UserError(f'{path}, line {number} has {" and ".join(keys)}, the '
                      f'lines before it {" and ".join(kind)}.')
    kind = keys
    examples.append(
        x['text'] if len(keys) == 1 else (x['prompt'], x['response']))
  return examples


def shakespeare(data_dir: str) -> str:
  """The text, from a file or as prepared by TFDS."""
  beside = os.environ.get('TFDS_DATA_DIR')
  for folder in (data_dir, os.environ.get('KT_JAX_TEXT_DIR'),
                 beside and os.path.join(beside, '..', 'text')):
    path = pathlib.Path(folder or '.').expanduser() / SHAKESPEARE
    if folder and path.is_file():
      return read_text(path)
  parts = sources.tfds_text('tiny_shakespeare', data_dir)
  if parts is None:
    raise UserError(
        f'There is no {SHAKESPEARE} in data.data_dir, $KT_JAX_TEXT_DIR or '
        '$TFDS_DATA_DIR/../text. It is data/tinyshakespeare/input.txt of '
        'github.com/karpathy/char-rnn; or prepare it with TFDS; or set the '
        'source to the path of the file.')
  return ''.join(parts[split] for split in SPLITS)
