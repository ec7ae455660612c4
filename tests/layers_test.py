"""Imports go one way: what a package may import is written here."""
import ast
import pathlib
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
# DESIGN, Sec. 1: a package imports itself and the lines below its own.
LINES = [
    ('core',),
    ('losses', 'scores', 'merge', 'align', 'fuse', 'transforms'),
    ('stats', 'procedures', 'modules'),
    ('checkpoint', 'data'),
    ('models',),
    ('train',),
    ('papers',),  # a module of data
    ('launch', 'cli'),
]
# These know arrays and pytrees only.
PURE = {'core', *LINES[1]}
PURE_MAY = {'jax', 'numpy', 'scipy', 'optax', 'chex', 'kt_jax'}
# Exact transport and Sinkhorn, for alignment on the host.
EXTRA = {'align': {'ot', 'ott'}}
FORBIDDEN = {
    'tensorflow': 'it would come with every import; data reads array_record',
    'torch': 'reference numbers are stored under tests/golden',
    'transformers': 'reference numbers are stored under tests/golden',
    'clu': 'it imports TensorFlow',
}


def imports(source, module=''):
  """Full dotted names that a file imports, anywhere in it.

  Args:
    source: text of the file.
    module: its package, dotted, against which relative imports resolve.

  Yields:
    'a.b' for `import a.b`, 'a.b' for `from a import b`.
  """
  for node in ast.walk(ast.parse(source)):
    if isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      parent = node.module or ''
      if node.level:
        parts = module.split('.')
        parent = '.'.join(parts[:len(parts) - node.level + 1]
                          + ([node.module] if node.module else []))
      yield from (f'{parent}.{alias.name}' for alias in node.names)


def below(package):
  """Packages that `package` may import."""
  for number, line in enumerate(LINES):
    if package in line:
      return {package}.union(*LINES[:number])
  raise AssertionError(f'kt_jax/{package} has no place in LINES')


def faults(package, source, module='kt_jax.x'):
  """What a file of kt_jax/`package` imports against the rules."""
  for name in imports(source, module):
    top, *rest = name.split('.')
    if top in ('experiments', 'configs', 'tests', 'notebooks'):
      yield f'{name}: kt_jax stands below it'
    elif top in FORBIDDEN:
      yield f'{name}: {FORBIDDEN[top]}'
    elif top == 'kt_jax' and rest and rest[0] not in below(package):
      yield f'{name}: not below {package}'
    elif (package in PURE and top not in sys.stdlib_module_names
          and top not in PURE_MAY | EXTRA.get(package, set())):
      yield f'{name}: {package} knows arrays and pytrees only'


FILES = [path for path in sorted((ROOT / 'kt_jax').rglob('*.py'))
         if path.parent != ROOT / 'kt_jax']


@pytest.mark.parametrize('path', FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_go_down(path):
  parts = path.relative_to(ROOT).with_suffix('').parts
  found = list(faults(parts[1], path.read_text(), '.'.join(parts[:-1])))
  assert not found


@pytest.mark.parametrize('package,source,wrong', [
    ('losses', 'from kt_jax import core', False),
    ('losses', 'from kt_jax.core import to_float', False),
    ('losses', 'from kt_jax.losses.response.kd import kd', False),
    ('losses', 'import optax\nimport functools', False),
    ('losses', 'from kt_jax import merge', True),
    ('losses', 'import kt_jax.scores.accuracy', True),
    ('losses', 'from flax import nnx', True),
    ('losses', 'def f():\n  import orbax.checkpoint as ocp', True),
    ('losses', 'from ..train import loop', True),
    ('core', 'from kt_jax import losses', True),
    ('core', 'import grain', True),
    ('checkpoint', 'from kt_jax import data', True),
    ('data', 'from kt_jax import checkpoint', True),
    ('data', 'import grain\nimport tensorflow_datasets as tfds', False),
    ('data', 'import tensorflow as tf', True),
    ('models', 'from kt_jax import checkpoint, core, data', False),
    ('models', 'from kt_jax import train', True),
    ('train', 'from kt_jax import losses, models', False),
    ('train', 'from experiments import run', True),
    ('train', 'from kt_jax import cli', True),
    ('train', 'from kt_jax import launch', True),
    ('launch', 'from kt_jax import train', False),
    ('launch', 'from kt_jax import cli', True),
    ('launch', 'def f():\n  from experiments import pretrain', True),
])
def test_rules_catch(package, source, wrong):
  assert bool(list(faults(package, source, f'kt_jax.{package}'))) == wrong


def test_top_level_modules_import_nothing():
  """`import kt_jax` costs nothing, and papers.py is data."""
  for path in (ROOT / 'kt_jax').glob('*.py'):
    for name in imports(path.read_text(), 'kt_jax'):
      assert name.split('.')[0] in sys.stdlib_module_names, f'{path}: {name}'


def test_only_cli_imports_cli():
  for path in [*(ROOT / 'experiments').rglob('*.py'),
               *(ROOT / 'configs').rglob('*.py')]:
    for name in imports(path.read_text()):
      assert not name.startswith('kt_jax.cli'), f'{path}: {name}'


def test_configs_are_data():
  """A config imports configs.common alone; that turns specs into configs."""
  for path in (ROOT / 'configs').rglob('*.py'):
    package = '.'.join(path.relative_to(ROOT).parts[:-1])
    for name in imports(path.read_text(), package):
      top = name.split('.')[0]
      assert (top in sys.stdlib_module_names or top == 'ml_collections'
              or name.startswith('configs.common')
              or top == 'kt_jax' and 'common' in path.parts), f'{path}: {name}'


def test_packages_have_an_init():
  """setuptools.find_packages leaves out folders without one, in silence."""
  for folder in {path.parent for path in FILES}:
    assert (folder / '__init__.py').exists(), folder
