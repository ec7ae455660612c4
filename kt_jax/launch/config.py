"""Config files: found, loaded, listed, changed by `--config.KEY=VALUE`.

jax is imported only where something is refused, so that listing is instant.
"""
import ast
import importlib
import importlib.util
import inspect
import os
import pathlib
import re
import sys
from typing import Any

from ml_collections import config_dict

# The folder of `configs` and `experiments`: an installed package carries them
# inside, a clone (or an editable install of it) has them beside kt_jax.
_PACKAGE = pathlib.Path(__file__).resolve().parents[1]
ROOT = (_PACKAGE / 'builtin' if (_PACKAGE / 'builtin').is_dir()
        else _PACKAGE.parent)
# Dicts of names and settings that a config file cannot list in advance: keys
# may be added. In `DEEP` ones at any depth; an entry of the others has the
# keys that the config file gave it, and a typing error there is caught.
DEEP = ('kw', 'augment', 'weights', 'rename', 'pool', 'shifts',
        'targets', 'changes', 'tasks', 'settings', 'tune')
ENTRIES = dict(  # kind -> the function of configs.common that makes one
    terms='term', methods='method', teachers='teacher', modules='module',
    optimizers='optimizer', arms='arm', claims='claim')
FREE = (*DEEP, *ENTRIES)


def load(spec: str) -> config_dict.ConfigDict:
  """The locked config of `PATH.py` or `PATH.py:VARIANT`, `.variant` set.

  Raises:
    UserError: no such file or variant, or the file raised something.
  """
  from kt_jax import core
  path, variant = re.fullmatch(r'(.*?\.py)(?::(.*))?|.*', spec).groups()
  path, variant = path or spec.partition(':')[0], variant or ''
  file = next((f for f in (pathlib.Path(path), ROOT / path) if f.is_file()),
              None)
  if file is None:
    raise core.UserError(core.nearest('config', path, map(_shown, files())))
  module = _import(file)
  if not hasattr(module, 'get_config'):
    raise core.UserError(f'{path} has no get_config(variant).')
  takes = list(inspect.signature(module.get_config).parameters.values())
  have = list(getattr(module, 'VARIANTS', ()))
  if not variant and takes and takes[0].default is takes[0].empty:
    raise core.UserError(f'{path} has no default variant: name one with '
                         f'{path}:VARIANT. Have: {", ".join(have)}.')
  if variant and (not takes or have and variant not in have):
    raise core.UserError(
        f'{path}: ' + core.nearest('variant', variant, have))
  try:
    config = module.get_config(*([variant] if variant else []))
  except Exception as e:
    names = re.match(r'No variant .*; have (.*?)\.?$', str(e))
    if isinstance(e, ValueError) and names:
      raise core.UserError(f'{path}: ' + core.nearest(
          'variant', variant, names[1].split(', '))) from e
    raise _failed(file, e) from e
  if not isinstance(config, config_dict.ConfigDict) or (
      'experiment' not in config):
    raise core.UserError(f'{path}: get_config must return a ConfigDict with '
                         'an experiment (see configs/common.py).')
  with config.unlocked():
    config.variant = variant or (takes[0].default if takes else '')
  return config.lock()


def override(config: config_dict.ConfigDict, key: str, text: str) -> None:
  """Sets `config.key` from the command line, typed by the value it had.

  Raises:
    UserError: no such key, or a value of another type.
  """
  from kt_jax import core
  *groups, leaf = key.split('.')
  node, parent = config, ''
  adds = deep = False  # may node get new keys? and all that is below it?
  for i, name in enumerate((*groups, leaf)):
    if not isinstance(node, config_dict.ConfigDict) or not name or (
        name not in node and not adds):
      valid = list(_keys(config))
      stands = '.'.join(groups[:i])
      near = [k for k in valid if k.startswith(stands + '.')
              or not stands and '.' not in k]
      message = core.nearest('config key', key, near)
      raise core.UserError(message if 'Did you mean' in message
                           else core.nearest('config key', key, valid))
    if i == len(groups):
      break
    fresh = name not in node
    if fresh:
      with node.unlocked():
        node[name] = template(parent)
    deep = deep or name in DEEP
    adds = deep or name in FREE or (fresh and parent not in FREE)
    node, parent = node[name], name
  loose = any(g in FREE for g in groups)
  value = _typed(key, node.get(leaf), text, loose)
  with node.unlocked(), node.ignore_type():
    node[leaf] = value


def files() -> list[pathlib.Path]:
  """Every config file of the repository."""
  return [f for f in sorted(ROOT.glob('configs/*/*.py'))
          if not f.name.startswith('_')]


def listing() -> str:
  """Papers, and under each its configs with variant and cost."""
  from kt_jax.papers import PAPERS
  extend_path()
  lines, rows, folder = [], [], None
  for file in files():
    try:
      module = _import(file)
      costs = getattr(module, 'VARIANTS', None) or {'': 'no VARIANTS in it'}
      first = next(iter(inspect.signature(module.get_config).parameters), '')
      default = first and inspect.signature(
          module.get_config).parameters[first].default
    except Exception as e:  # a broken config must not hide the others
      costs, default = {'': f'broken: {" ".join(str(e).split())}'}, None
    if file.parent != folder:
      folder = file.parent
      paper = PAPERS.get(folder.name)
      rows.append((f'\n{folder.name}  {paper.title}, {paper.year}' if paper
                   else f'\n{folder.name}', None))
    for variant, cost in costs.items():
      name = _shown(file) + (f':{variant}' if variant else '')
      rows.append(('  ' + name, cost + '  (default)' * (
          bool(variant) and variant == default)))
  width = max((len(a) for a, b in rows if b is not None), default=0)
  lines = [a if b is None else f'{a:{width}}  {b}' for a, b in rows]
  return '\n'.join(lines).strip('\n') or 'No config under configs/.'


def template(kind: str):
  """A new entry of `kind`, with the keys that entries have."""
  extend_path()
  common = importlib.import_module('configs.common')
  if kind not in ENTRIES:
    return {}
  make = getattr(common, ENTRIES[kind])
  names = [p.name for p in inspect.signature(make).parameters.values()
           if p.kind is p.POSITIONAL_OR_KEYWORD and p.default is p.empty]
  return make(**dict.fromkeys(names, ''))


def extend_path() -> None:
  """Makes importable what configs name.

  `configs` and `experiments` are the built-in ones. The current folder comes
  last: modules of the user's own are found there, and none of them hides an
  installed one.
  """
  if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))
  if not {'', os.getcwd()} & set(sys.path):
    sys.path.append(os.getcwd())


def _shown(file: pathlib.Path) -> str:
  return str(file.relative_to(ROOT))


def _import(file: pathlib.Path):
  """Runs a config file afresh; what it raises is one line."""
  extend_path()
  spec = importlib.util.spec_from_file_location(f'_config_{file.stem}', file)
  module = importlib.util.module_from_spec(spec)
  try:
    spec.loader.exec_module(module)
  except Exception as e:
    raise _failed(file, e) from e
  return module


def _failed(file, e: Exception) -> ValueError:
  from kt_jax import core
  line, tb = getattr(e, 'lineno', None), e.__traceback__
  while tb and not isinstance(e, SyntaxError):
    if tb.tb_frame.f_code.co_filename == str(file):
      line = tb.tb_lineno
    tb = tb.tb_next
  where = f'{file}:{line}' if line else str(file)
  return core.UserError(f'{where}: {type(e).__name__}: {e}')


def _keys(node, prefix: str = ''):
  """Dotted names of all leaves; an empty group is one."""
  for name, value in node.items():
    if isinstance(value, config_dict.ConfigDict) and value:
      yield from _keys(value, f'{prefix}{name}.')
    else:
      yield prefix + name


def _typed(key: str, old: Any, text: str, loose: bool) -> Any:
  """`text` as a value like `old`. `loose`: an int may become a float."""
  from kt_jax import core
  truth = {'true': True, 'false': False}.get(text.strip().lower())
  try:
    new = ast.literal_eval(text.strip())
  except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
    new = text if truth is None else truth
  number = type(new) in (int, float)
  if old is None:
    return new
  if isinstance(old, bool) and isinstance(new, bool):
    return new
  if type(old) is int and (type(new) is int or loose and number):
    return new
  if isinstance(old, float) and number:
    return float(new)
  if isinstance(old, str):
    return new if isinstance(new, str) and truth is None else text
  if isinstance(old, (tuple, list)):
    if isinstance(new, str) and not re.search(r'[()\[\]{}]', new):
      new = [s.strip() for s in new.split(',') if s.strip()]
    elif number:
      new = [new]
    kinds = {type(x) for x in old}
    if isinstance(new, (tuple, list)) and (
        len(kinds) != 1 or {type(x) for x in new} <= kinds | (
            {int} if kinds == {float} else set())):
      return type(old)(new)
  if isinstance(old, config_dict.ConfigDict):
    if isinstance(new, dict) and (loose or key.split('.')[-1] in FREE):
      return config_dict.ConfigDict(new)
    raise core.UserError(
        f'--config.{key} is a group; set one of its keys: '
        f'{", ".join(f"{key}.{k}" for k in _keys(old)) or f"{key}.NAME"}.')
  raise core.UserError(f'--config.{key}={text}: expected {_kind(old)}, like '
                       f'{old!r}, got {_kind(new)} {new!r}.')


def _kind(value) -> str:
  name = type(value).__name__
  if isinstance(value, (tuple, list)) and value:
    name += f' of {type(value[0]).__name__}'
  return name
