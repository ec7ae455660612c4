"""setup.py: what is installed is what is imported."""
import importlib
import importlib.metadata
import json
import os
import pathlib
import re
import runpy
import subprocess
import sys

from layers_test import imports
import pytest
import setuptools

ROOT = pathlib.Path(__file__).parents[1]
PURE = ('core', 'losses', 'scores', 'merge', 'align', 'fuse')
# Imports within a function, with an error that names the extra.
LAZY = {'ot': 'pot', 'ott': 'ott-jax', 'cmaes': 'cmaes',
        'tokenizers': 'tokenizers'}


@pytest.fixture(scope='module')
def setup():
  """Arguments that setup.py hands to setuptools."""
  arguments = {}
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(setuptools, 'setup', arguments.update)
    patch.chdir(ROOT)
    runpy.run_path(str(ROOT / 'setup.py'))
  return arguments


def normal(name):
  return re.sub(r'[-_.]+', '-', re.match(r'[\w.-]+', name)[0]).lower()


def test_every_import_is_installed(setup):
  """Packages import the core, the extra that they need, and what is lazy."""
  modules = importlib.metadata.packages_distributions()
  core = {normal(r) for r in setup['install_requires']}
  extras = {extra: core.union(map(normal, requirements))
            for extra, requirements in setup['extras_require'].items()}
  for path in (ROOT / 'kt_jax').rglob('*.py'):
    package = path.relative_to(ROOT / 'kt_jax').parts[0]
    allowed = (core if package in (*PURE, 'stats') else extras['merge']
               if package in ('cli', 'checkpoint') else extras['train'])
    for name in {n.split('.')[0] for n in imports(path.read_text(), 'kt_jax')}:
      if name in sys.stdlib_module_names or name == 'kt_jax' or name in LAZY:
        continue
      assert allowed & set(map(normal, modules.get(name, ()))), (path, name)
  assert set(LAZY.values()) <= set().union(*extras.values())
  for extra in extras.keys() - {'cuda', 'tpu', 'docs'}:
    assert extras[extra] <= extras['test'], extra


_BARE = '''
import importlib.machinery, json, os, sys
class Bare(importlib.machinery.PathFinder):
  """Finds what the core install has, and nothing else."""
  @classmethod
  def find_spec(cls, name, path=None, target=None):
    spec = super().find_spec(name, path, target)
    where = spec and str(spec.origin or spec.submodule_search_locations)
    if where and 'site-packages' in where and name.split('.')[0] not in (
        'jax', 'jaxlib', 'numpy', 'scipy', 'ml_dtypes', 'opt_einsum'):
      return None
    return spec
sys.meta_path[:] = [importlib.machinery.BuiltinImporter,
                    importlib.machinery.FrozenImporter, Bare]
found = {}
for name in sys.argv[1:]:
  try:
    __import__(name)
    found[name] = ''
  except ImportError as e:
    found[name] = str(e)
from kt_jax.cli import kt_merge
found['status'] = kt_merge.main()
found['environment'] = os.environ['JAX_PLATFORMS'], os.environ['XLA_FLAGS']
print(json.dumps(found))
'''


def test_core_install_has_the_pure_kinds():
  """jax, numpy, scipy; for the rest one line that names the extra."""
  pure = [f'kt_jax.{name}' for name in PURE]
  done = subprocess.run(
      [sys.executable, '-c', _BARE, *pure, 'kt_jax.train', 'kt_jax.checkpoint'],
      cwd=ROOT, capture_output=True, text=True, check=True, env={
          k: v for k, v in os.environ.items() if k not in (
              'JAX_PLATFORMS', 'XLA_FLAGS')})
  found = json.loads(done.stdout)
  assert {found[name] for name in pure} == {''}
  assert re.fullmatch(r"kt_jax.train needs .*flax.*'kt_jax\[train\]'",
                      found['kt_jax.train'])
  assert re.fullmatch(r"kt_jax.checkpoint needs .*'kt_jax\[merge\]'",
                      found['kt_jax.checkpoint'])
  assert found['environment'] == [
      'cpu', '--xla_cpu_multi_thread_eigen=false']
  assert found['status'] == 2 and done.stderr.count('\n') == 1
  assert re.match(r"kt-merge needs .*yaml.*'kt_jax\[merge\]'", done.stderr)


def test_console_scripts(setup):
  for script in setup['entry_points']['console_scripts']:
    module, _, function = script.partition(' = ')[2].partition(':')
    if module.startswith('kt_jax.launch'):
      pytest.importorskip('kt_jax.launch')
    assert callable(getattr(importlib.import_module(module), function)), script


def test_metadata(setup):
  for file in (*setup['package_data']['kt_jax'],):
    assert (ROOT / 'kt_jax' / file).exists(), file
  assert setup['license_expression'] == 'Apache-2.0'
  assert 'Apache License' in (ROOT / setup['license_files'][0]).read_text()
  low, high = re.findall(r'3\.(\d+)', setup['python_requires'])
  versions = [int(m[1]) for c in setup['classifiers'] if (
      m := re.fullmatch(r'Programming Language :: Python :: 3\.(\d+)', c))]
  assert versions == list(range(int(low), int(high)))
