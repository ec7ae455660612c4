"""README, CONTRIBUTING and docs: links, paths and examples."""
import importlib.util
import pathlib
import re
import types

import numpy as np
import pytest
from safetensors.numpy import save_file
import yaml

ROOT = pathlib.Path(__file__).parents[1]
DOCS = sorted((ROOT / 'docs').rglob('*.md'))
PAGES = [ROOT / 'README.md', ROOT / 'CONTRIBUTING.md', *DOCS]
NAMES = {path.relative_to(ROOT).as_posix(): path for path in PAGES}
pages = pytest.mark.parametrize('name', NAMES)
EXAMPLES = {f'{name}, {i}': code for name, path in NAMES.items()
            for i, code in enumerate(re.findall(
                r'^```python\n(.*?)^```', path.read_text(), re.M | re.S))}


def _prose(text):
  """Without code, in which brackets are no links and # no headings."""
  return re.sub(r'^ *```.*?^ *```|`[^`\n]*`', lambda m: ' ' * bool(m[0]), text,
                flags=re.M | re.S)


def _anchors(path):
  """Of the headings, as GitHub has them."""
  headings = re.findall(r'^#+ (.*)$', path.read_text(), re.M)
  return {re.sub(r'[^\w\- ]', '', h.lower()).replace(' ', '-')
          for h in headings}


@pages
def test_links_lead_somewhere(name):
  path = NAMES[name]
  for target, anchor in re.findall(r'\]\(([^)#\s]*)(?:#([^)\s]*))?\)',
                                   _prose(path.read_text())):
    if target.startswith('https://'):
      continue
    file = (path.parent / target).resolve() if target else path
    assert file.exists(), target
    if anchor:
      assert anchor in _anchors(file), f'{target}#{anchor}'


@pages
def test_paths_exist(name):
  for found in re.findall(
      r'\b(?:configs|docs|experiments|kt_jax|notebooks|tests)/[\w/]+\.\w+',
      NAMES[name].read_text()):
    assert (ROOT / found).exists(), found


def test_readme_is_short():
  assert len((ROOT / 'README.md').read_bytes()) <= 8192


@pytest.mark.parametrize('name', EXAMPLES)
def test_examples_run(name, tmp_path, monkeypatch):
  """Code marked `python` runs as it is; excerpts are marked `py`."""
  monkeypatch.chdir(tmp_path)
  for i, folder in enumerate(('base', 'a', 'b', 'out')):
    (tmp_path / folder).mkdir()
    if folder != 'out':
      save_file({'norm': np.ones(3, np.float32),
                 'kernel': np.full((4, 3), i, np.float32)},
                tmp_path / folder / 'model.safetensors')
  exec(compile(EXAMPLES[name], name, 'exec'), {})


def test_there_are_examples():
  assert {name.split(',')[0] for name in EXAMPLES} >= {
      'README.md', 'docs/distillation.md', 'docs/merging.md'}


def _navigation(entries):
  for entry in entries:
    for value in entry.values():
      yield from [value] if isinstance(value, str) else _navigation(value)


def test_site_has_every_page():
  site = yaml.safe_load((ROOT / 'docs/mkdocs.yml').read_text())
  listed = list(_navigation(site['nav']))
  hooks = _hooks()
  assert sorted(listed) == sorted(
      [path.relative_to(ROOT / 'docs').as_posix() for path in DOCS]
      + [f'reference/{package}.md' for package in hooks.PACKAGES])


def _hooks():
  spec = importlib.util.spec_from_file_location('hooks', ROOT / 'docs/hooks.py')
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def test_reference_has_public_functions():
  text = _hooks().reference('checkpoint')
  assert text.startswith('# kt_jax.checkpoint\n\n')
  assert '\n## open_tensors\n\n```python\nopen_tensors(' in text
  assert '\n## _' not in text


@pytest.mark.parametrize('url,want', [
    ('', 'a, [b](../merging.md), c'),
    ('https://x.org/y/', 'a, [b](../merging.md), '
     '[c](https://x.org/y/blob/HEAD/configs/k/r.py)')])
def test_links_out_of_the_site(url, want):
  page = types.SimpleNamespace(file=types.SimpleNamespace(
      src_uri='results/merging.md'))
  text = 'a, [b](../merging.md), [c](../../configs/k/r.py)'
  assert _hooks().on_page_markdown(
      text, page, types.SimpleNamespace(repo_url=url), None) == want
