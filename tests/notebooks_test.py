"""The notebooks run, and are stored with their outputs.

`python tests/notebooks_test.py NAME ...` executes them again and stores them.
"""
import base64
import io
import os
import pathlib
import sys

import nbclient
import nbformat
from PIL import Image
import pytest

FOLDER = pathlib.Path(__file__).parents[1] / 'notebooks'
PATHS = sorted(FOLDER.glob('*.ipynb'))
# A few updates show that a notebook runs: what stands there, what is run.
SHORTER = {'language': ('in range(steps):', 'in range(3):'),
           'losses': ('epochs=100', 'epochs=2')}
notebooks = pytest.mark.parametrize('path', PATHS, ids=lambda p: p.stem)


def execute(path, shorter=('', '')):
  notebook = nbformat.read(path, as_version=4)
  assert any(shorter[0] in c.source for c in notebook.cells)
  for cell in notebook.cells:
    cell.source = cell.source.replace(*shorter)
  nbclient.NotebookClient(
      notebook, timeout=300, kernel_name='python3', coalesce_streams=True,
      resources={'metadata': {'path': str(FOLDER)}}).execute(
          env=dict(os.environ, PYTHONPATH=str(FOLDER.parent)))
  return notebook


def kinds(notebook):
  """Of the outputs of each cell of code."""
  return [[(o.output_type, *sorted(o.get('data', {}))) for o in c.outputs]
          for c in notebook.cells if c.cell_type == 'code']


@notebooks
def test_runs(path):
  """With as many texts and figures as are stored; numbers may differ a bit."""
  notebook = execute(path, SHORTER.get(path.stem, ('', '')))
  printed = ''.join(o.get('text', '') for c in notebook.cells
                    for o in c.get('outputs', ()))
  assert 'gained' in printed
  assert kinds(notebook) == kinds(nbformat.read(path, as_version=4))


@notebooks
def test_is_small(path):
  assert path.stat().st_size < 200_000


def store(path):
  """Executes a notebook and writes it, its figures in few colors."""
  notebook = execute(path)
  for cell in notebook.cells:
    cell.get('metadata', {}).pop('execution', None)
    for output in cell.get('outputs', ()):
      png = output.get('data', {}).get('image/png')
      if png:
        image = Image.open(io.BytesIO(base64.b64decode(png))).convert('RGB')
        buffer = io.BytesIO()
        image.quantize(64).save(buffer, 'png', optimize=True)
        output.data['image/png'] = base64.b64encode(buffer.getvalue()).decode()
  nbformat.write(notebook, path)


if __name__ == '__main__':
  os.environ.setdefault('JAX_PLATFORMS', 'cpu')
  for name in sys.argv[1:]:
    store(FOLDER / f'{name}.ipynb')
