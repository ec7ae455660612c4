"""Applies small faults to the code, one at a time, and runs their tests.

  python -m tests.mutants [KIND ...] [--jobs N]

`tests/mutants/KIND.txt` lists the faults, a block each: `file`, `old` (a piece
of one line that is once in the file), `new`, `test` (a pytest target). Faults
are applied to a copy of the repository. Printed are those that no test notices.
Not part of the suite: it takes some seconds per fault.
"""
import argparse
from concurrent import futures
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
from typing import NamedTuple

ROOT = pathlib.Path(__file__).resolve().parent.parent
LISTS = ROOT / 'tests' / 'mutants'
COPIED = ('kt_jax', 'experiments', 'configs', 'tests', 'pyproject.toml')


class Mutant(NamedTuple):
  kind: str
  file: str
  old: str
  new: str
  test: str


def read(kind: str) -> list[Mutant]:
  """The faults of `tests/mutants/KIND.txt`; each must apply exactly once."""
  mutants = []
  for block in (LISTS / f'{kind}.txt').read_text().split('\n\n'):
    lines = [line for line in block.splitlines()
             if line.strip() and not line.startswith('#')]
    if not lines:
      continue
    fields = dict(line.split(': ', 1) if ': ' in line
                  else (line.rstrip(':'), '') for line in lines)
    mutant = Mutant(kind, **fields)
    count = (ROOT / mutant.file).read_text().count(mutant.old)
    if count != 1:
      raise SystemExit(f'{kind}: {mutant.old!r} is {count} times in '
                       f'{mutant.file}, not once.')
    mutants.append(mutant)
  return mutants


def survives(mutant: Mutant) -> bool:
  """Whether the tests of a fault pass with it."""
  with tempfile.TemporaryDirectory(prefix='kt_jax_mutant_') as folder:
    copy = pathlib.Path(folder)
    for name in COPIED:
      source = ROOT / name
      if source.is_dir():
        shutil.copytree(source, copy / name, ignore=shutil.ignore_patterns(
            '__pycache__'))
      else:
        shutil.copy(source, copy / name)
    path = copy / mutant.file
    path.write_text(path.read_text().replace(mutant.old, mutant.new))
    done = subprocess.run(
        [sys.executable, '-m', 'pytest', '-x', '-q', '-p', 'no:cacheprovider',
         *mutant.test.split()], cwd=copy, capture_output=True, text=True,
        env=os.environ | {'PYTHONDONTWRITEBYTECODE': '1'})
  if done.returncode not in (0, 1, 2):  # 2: the fault breaks an import
    raise SystemExit(f'{mutant.test}: pytest ended with {done.returncode}:\n'
                     f'{done.stdout[-2000:]}{done.stderr[-2000:]}')
  return done.returncode == 0


def main() -> int:
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  kinds = sorted(f.stem for f in LISTS.glob('*.txt'))
  parser.add_argument('kinds', nargs='*', default=kinds, metavar='KIND')
  parser.add_argument('--jobs', type=int, default=2)
  args = parser.parse_args()
  mutants = [m for kind in args.kinds for m in read(kind)]
  alive = 0
  with futures.ThreadPoolExecutor(args.jobs) as pool:
    for mutant, survived in zip(mutants, pool.map(survives, mutants)):
      alive += survived
      if survived:
        print(f'survives: {mutant.file}: {mutant.old!r} -> {mutant.new!r} '
              f'({mutant.test})', flush=True)
  print(f'{len(mutants) - alive} of {len(mutants)} faults noticed.')
  return int(alive > 0)


if __name__ == '__main__':
  sys.exit(main())
