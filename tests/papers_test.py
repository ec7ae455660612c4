"""papers.py: every name in it is real, and nothing is missing from it."""
import importlib
import inspect
import pathlib
import re

import pytest

from kt_jax import fuse
from kt_jax import losses
from kt_jax import merge
from kt_jax import modules
from kt_jax import papers
from kt_jax import procedures
from kt_jax import scores
from kt_jax.launch import results

ROOT = pathlib.Path(__file__).parents[1]
RESULTS = results.load()
KEY = re.compile(r'^[a-z]+\d{4}[a-z0-9]+$')
each = pytest.mark.parametrize('key', papers.PAPERS)


@each
def test_row(key):
  paper = papers.PAPERS[key]
  assert KEY.match(key)
  # A key may have the year of the preprint.
  assert str(paper.year) in key or str(paper.year - 1) in key
  assert re.match(r'^(\d{4}\.\d{4,5})?$', paper.arxiv)
  assert paper.status in papers.STATUS
  assert paper.functions or paper.configs
  assert '|' not in paper.title + paper.note, 'it would split the table'


@each
def test_functions_exist(key):
  for name in papers.PAPERS[key].functions:
    package, function = name.split('.')
    module = importlib.import_module(f'kt_jax.{package}')
    found = getattr(module, function, None)
    assert inspect.isfunction(found) or inspect.isclass(found), name


@each
def test_configs_exist(key):
  for path in papers.PAPERS[key].configs:
    assert path.startswith(f'configs/{key}/')
    assert (ROOT / path).is_file(), path


@each
def test_status_has_results(key):
  """A config that ran has results; where a claim was shown, one holds."""
  paper = papers.PAPERS[key]
  measured = [item for path in paper.configs if path in RESULTS
              for item in RESULTS[path]['results'].items()]
  if paper.status in ('run', 'shown', 'replicated'):
    assert measured
  if paper.status in ('shown', 'replicated'):
    assert any(claim['verdict'] == 'holds' for _, result in measured
               for claim in result['claims'])
  if paper.status == 'replicated':
    assert 'paper' in dict(measured)


def test_results_have_a_row():
  listed = {path for paper in papers.PAPERS.values() for path in paper.configs}
  assert set(RESULTS) <= listed


def test_identifiers_are_unique():
  found = [paper.arxiv for paper in papers.PAPERS.values() if paper.arxiv]
  assert len(found) == len(set(found))


def test_config_folders_have_a_row():
  """Every config of a paper is listed."""
  listed = {path for p in papers.PAPERS.values() for path in p.configs}
  for folder in (ROOT / 'configs').iterdir():
    if not folder.is_dir() or folder.name in (
        'basic', 'bench', 'common', '__pycache__'):
      continue
    assert folder.name in papers.PAPERS
    for path in folder.glob('*.py'):
      if path.name != '__init__.py':
        assert path.relative_to(ROOT).as_posix() in listed


@pytest.mark.parametrize('package', [losses, scores, merge, fuse, modules,
                                     procedures],
                         ids=lambda p: p.__name__)
def test_references_have_a_row(package):
  """And that row names the function."""
  short = package.__name__.split('.')[1]
  for name, fn in vars(package).items():
    if not (inspect.isfunction(fn) or inspect.isclass(fn)) or (
        'References:' not in fn.__doc__):
      continue
    references = fn.__doc__.split('References:')[1]
    for key in re.findall(r'\b[a-z]+(?:19|20)\d{2}[a-z0-9]+\b', references):
      assert key in papers.PAPERS, f'{name}: {key}'
      assert f'{short}.{name}' in papers.PAPERS[key].functions, name


def test_every_key_in_the_code_has_a_row():
  for folder in ('kt_jax', 'configs', 'experiments'):
    for path in (ROOT / folder).rglob('*.py'):
      for key in re.findall(r'\b[a-z]{3,}(?:19|20)\d{2}[a-z][a-z0-9]+\b',
                            path.read_text()):
        assert key in papers.PAPERS, f'{path}: {key}'
