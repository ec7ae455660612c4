"""OUT of kt-merge: complete or absent, whatever happens."""
import errno
import fcntl
import json
import os
import pathlib
import re
import resource
import subprocess
import sys

from golden.merge import llamas
import numpy as np
import pytest

from kt_jax import checkpoint
from kt_jax.checkpoint import output_dir
from kt_jax.cli import main as command

ROOT = pathlib.Path(__file__).parents[1]
LINEAR = 'merge_method: linear\nmodels: [{model: a}, {model: b}]\n' \
         'parameters: {weight: 1}\n'
STAGES = 'name: one\n' + LINEAR + '---\n' + LINEAR.replace('model: b',
                                                          'model: one')


@pytest.fixture
def place(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  for model, value in (('a', 1.), ('b', 3.)):
    llamas.save(model, {f'layers.{n}.w': np.full((8, 8), value, np.float32)
                        for n in range(6)}, {})
  pathlib.Path('recipe.yml').write_text(LINEAR)
  return tmp_path


def merge(*argv, status=0):
  assert command.main(['recipe.yml', *argv, '--quiet']) == status


def values(out='out'):
  """The one value of all entries in a complete result."""
  for name in ('README.md', 'card.json', 'config.json'):
    assert os.path.getsize(f'{out}/{name}')
  arrays = [t.array() for t in checkpoint.open_tensors(out).values()]
  assert len(arrays) == 6
  value, = {float(x) for a in arrays for x in a.flat}
  return value


def hidden():
  return sorted(n for n in os.listdir() if n.startswith('.'))


def line(capsys):
  err = capsys.readouterr().err
  assert err.startswith('kt-merge: ') and err.count('\n') == 1, err
  return err


# Kills itself at the given event among those of files below the directory.
_KILLED = """
import os, signal, sys
from kt_jax.cli import main as command
here, argv = os.getcwd(), sys.argv[1:]
def run(limit):
  seen = 0
  def count(event, args=()):
    nonlocal seen
    seen += 1
    if seen == limit:
      os.kill(os.getpid(), signal.SIGKILL)
  def hook(event, args):
    if event.startswith(('os.', 'shutil.')) or (
        event == 'open' and str(args[0]).startswith(here)):
      count(event)
  if limit:
    for name in ('pwrite', 'fsync', 'posix_fallocate'):
      real = getattr(os, name)
      setattr(os, name, lambda *a, real=real: (count(name), real(*a))[1])
    exchange = command.run.output_dir._exchange
    command.run.output_dir._exchange = lambda *a: (
        count(''), exchange(*a), count(''))[1]
    sys.addaudithook(hook)
  status = command.main(argv)
  os._exit(status)
for limit in map(int, sys.stdin.read().split()):
  child = os.fork()
  if not child:
    run(limit)
  print(limit, os.waitpid(child, 0)[1], flush=True)
  input_ = os.system('%s' % os.environ['CHECK'].replace('LIMIT', str(limit)))
"""


def killed(limits, *argv):
  """Limit -> wait status; a copy of OUT after each is in seen/LIMIT."""
  env = dict(os.environ, JAX_PLATFORMS='cpu', PYTHONPATH=str(ROOT),
             CHECK='mkdir -p seen; cp -a out seen/LIMIT 2>/dev/null')
  done = subprocess.run(
      [sys.executable, '-c', _KILLED, 'recipe.yml', *argv, '--quiet'],
      input=' '.join(map(str, limits)), text=True, capture_output=True, env=env,
      check=True)
  return {int(a): int(b) for a, b in map(str.split, done.stdout.splitlines())}


def test_killed_at_any_moment(place):
  """The old result or the new, never a part; nothing is left in the end."""
  merge('out')
  first = values()
  pathlib.Path('recipe.yml').write_text(STAGES.replace('weight: 1',
                                                       'weight: 2'))
  # While weights are written, cards; before and behind the swap; later.
  limits = [int(n) for n in os.environ.get(
      'KT_MERGE_KILLS', '18 64 76 77 86').split()]
  found = killed(limits, 'out', '--overwrite', '--threads', '1')
  assert set(found.values()) <= {9, 0} and 9 in found.values()
  for limit in limits:
    assert values(f'seen/{limit}') in (first, 1.5), limit
  merge('out', '--overwrite')
  assert values() == 1.5 and hidden() == []


def test_failure_keeps_what_is_there(place, capsys):
  merge('out')
  before = values()
  arrays = {n: np.full((8, 8), 1., np.float32) for n in (
      f'layers.{n}.w' for n in range(6))}
  arrays['layers.5.w'] = arrays['layers.5.w'] * np.nan
  llamas.save('a', arrays, {})
  merge('out', '--overwrite', status=2)
  assert 'a: layers.5.w' in line(capsys)
  assert values() == before and hidden() == []


def test_overwrite(place):
  merge('out')
  pathlib.Path('out/more').write_text('')
  pathlib.Path('recipe.yml').write_text(LINEAR.replace(': 1', ': [1]') +
                                        'out_dtype: bfloat16\n')
  merge('out', '--overwrite')
  assert values() == 2 and not os.path.exists('out/more')
  (place / 'link').symlink_to(place / 'out')
  merge('link', '--overwrite')  # what it points to, not the link
  assert os.path.islink('link') and values('link') == values() == 2
  os.mkdir('empty')
  merge('empty/')
  assert values('empty') == 2 and hidden() == []


def test_no_swap_in_one_step(place, monkeypatch):
  """Without one, the next run repairs what a kill in between left."""
  merge('out')
  monkeypatch.setattr(output_dir, '_exchange', lambda a, b: False)
  merge('out', '--overwrite')
  assert values() == 2
  os.mkdir('.out.partial')
  os.rename('out', '.out.partial/replaced')
  os.rename('b', 'gone')  # so that the run fails
  os.mkdir('b')
  merge('out', status=2)
  assert values() == 2 and hidden() == []


def test_disk_is_full(place, capsys, monkeypatch):
  soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
  try:
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    merge('out', status=2)
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
  assert 'model.safetensors: cannot be made' in line(capsys)
  assert not os.path.exists('out') and hidden() == []
  # A file system that promises more than it has.
  def full(*args):
    raise OSError(errno.ENOSPC, 'No space left on device')
  for name in ('pwrite', 'fsync', 'rename'):
    with monkeypatch.context() as patch:
      patch.setattr(os, name, full)
      merge('out', status=2)
    assert 'No space left' in line(capsys)
    assert not os.path.exists('out') and hidden() == []


def test_two_at_once(place, capsys):
  with open('.out.lock', 'w') as file:
    fcntl.flock(file, fcntl.LOCK_EX)
    merge('out', status=2)
    assert 'another process' in line(capsys)
  merge('out')  # the lock of a run that was killed
  assert values() == 2 and hidden() == []


def test_created_in_the_meantime(place, capsys, monkeypatch):
  publish = output_dir.publish
  def late(*args):
    os.mkdir('out')
    pathlib.Path('out/mine').write_text('')
    publish(*args)
  monkeypatch.setattr(output_dir, 'publish', late)
  merge('out', status=2)
  assert 'meantime' in line(capsys) and os.listdir('out') == ['mine']
  assert hidden() == []


@pytest.mark.parametrize('out,match', [
    ('.', 'contains recipe.yml'), ('..', 'contains recipe.yml'),
    ('/', 'contains'),
    ('nowhere/out', 'nowhere: no such directory'), ('recipe.yml', 'directory'),
    ('recipe.yml/out', 'no such directory'), ('home', 'replaces a checkpoint'),
    ('parent', 'contains parent/a'), ('a' * 300, 'File name too long'),
    ('loop', 'directory'), ('~nobody_at_all/out', 'no such directory')])
def test_outputs_that_are_refused(out, match, place, capsys):
  os.mkdir('home')
  pathlib.Path('home/letters').write_text('')
  os.symlink('loop', 'loop')
  os.mkdir('parent')
  os.rename('a', 'parent/a')
  os.link('parent/a/model.safetensors', 'parent/model.safetensors')
  pathlib.Path('recipe.yml').write_text(LINEAR.replace(' a}', ' parent/a}'))
  before = sorted(os.walk('.'))
  merge(out, '--overwrite', status=2)
  assert re.search(match, line(capsys))
  assert sorted(os.walk('.')) == before


def test_name_that_is_not_text(place):
  out = os.fsdecode(b'\xff out')
  merge(out)
  assert values(out) == 2
  assert json.loads(pathlib.Path(out, 'card.json').read_text())['command']
