"""The notebooks run."""
import pathlib

import nbclient
import nbformat
import pytest

FOLDER = pathlib.Path(__file__).parents[1] / 'notebooks'


@pytest.mark.parametrize('path', sorted(FOLDER.glob('*.ipynb')),
                         ids=lambda p: p.stem)
def test_runs(path):
  notebook = nbformat.read(path, as_version=4)
  assert not any(c.get('outputs') for c in notebook.cells), 'stored outputs'
  nbclient.NotebookClient(notebook, timeout=300, kernel_name='python3',
                          resources={'metadata': {'path': str(FOLDER)}}
                         ).execute()
  printed = ''.join(o.get('text', '') for c in notebook.cells
                    for o in c.get('outputs', ()))
  assert 'gained' in printed
