"""Config files: their specs, and the list of those in the repository.

jax is imported only where something is refused, so that listing is instant.
"""
from collections.abc import Callable
import dataclasses
import importlib
import importlib.util
import inspect
import os
import pathlib
import re
import sys
from typing import Any, NamedTuple

from ml_collections import config_dict

# The folder of `configs` and `experiments`: an installed package carries them
# inside, a clone (or an editable install of it) has them beside kt_jax.
_PACKAGE = pathlib.Path(__file__).resolve().parents[1]
ROOT = (_PACKAGE / 'builtin' if (_PACKAGE / 'builtin').is_dir()
        else _PACKAGE.parent)


def load(spec: str) -> Any:
  """The spec that `PATH.py` or `PATH.py:VARIANT` describes, `variant` set.

  Raises:
    UserError: no such file or variant, the file raised something, or a key of
      its config does not exist.
  """
  from kt_jax import core
  match = re.fullmatch(r'(.*?\.py)(?::(.*))?', spec)
  path, variant = match.groups() if match else (spec.partition(':')[0], '')
  variant = variant or ''
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
  if not (isinstance(config, config_dict.ConfigDict) or
          dataclasses.is_dataclass(config)) or not hasattr(
              config, 'experiment'):
    raise core.UserError(f'{path}: get_config must return a ConfigDict (see '
                         'configs/common) or a spec with an experiment.')
  if isinstance(config, config_dict.ConfigDict):
    try:
      config = core.spec.build(find(config.experiment).Spec, config)
    except core.UserError as e:
      raise core.UserError(f'{path}: {e}') from e
  return core.spec.change(config, dict(variant=variant or (
      takes[0].default if takes else '')))


class Experiment(NamedTuple):
  """What a config names by `experiment`."""
  run: Callable[[Any, str], dict[str, Any]]
  check: Callable[[Any], Any] | None
  Spec: type


def find(name: str) -> Experiment:
  """A protocol of experiments/, or the user's own `module:function`.

  Raises:
    UserError: there is none of this name.
  """
  from kt_jax import core
  extend_path()
  experiments = importlib.import_module('experiments').EXPERIMENTS
  if ':' in name:
    run = core.resolve(core, name, 'experiment')
    module = importlib.import_module(name.partition(':')[0])
    of = lambda key: getattr(run, key, getattr(module, key, None))
    return Experiment(run, of('check'), of('Spec') or find('train').Spec)
  if name not in experiments:
    raise core.UserError(core.nearest('experiment', name, experiments))
  module = importlib.import_module(f'experiments.{name}')
  return Experiment(module.run, module.check, module.Spec)


def files() -> list[pathlib.Path]:
  """Every config file of the repository."""
  return [f for f in sorted(ROOT.glob('configs/*/*.py'))
          if f.parent.name != 'common' and not f.name.startswith('_')]


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
  assert spec is not None and spec.loader is not None
  module = importlib.util.module_from_spec(spec)
  try:
    spec.loader.exec_module(module)
  except Exception as e:
    raise _failed(file, e) from e
  return module


def _failed(file, e: Exception) -> ValueError:
  """What a config file raised, as one line with its place in the file."""
  from kt_jax import core
  line, tb, node = getattr(e, 'lineno', None), e.__traceback__, None
  while tb and not isinstance(e, SyntaxError):
    if tb.tb_frame.f_code.co_filename == str(file):
      line = tb.tb_lineno
    node = tb.tb_frame.f_locals.get('self', node)
    tb = tb.tb_next
  message = f'{type(e).__name__}: {e}'
  key = re.search(r'Key "(.*?)" does not exist and cannot be added', str(e))
  if key and isinstance(node, config_dict.ConfigDict):
    message = core.nearest('config key', key[1], node.keys())
  return core.UserError(f'{file}:{line}: {message}' if line
                        else f'{file}: {message}')
