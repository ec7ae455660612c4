"""The command line of `kt-merge`."""
import argparse
import contextlib
import os
import pathlib
import sys

import jax
import tqdm

from kt_jax import core
from kt_jax.cli import check
from kt_jax.cli import diff
from kt_jax.cli import list_methods
from kt_jax.cli import problems
from kt_jax.cli import run
from kt_jax.cli import sources
from kt_jax.cli import stages

_USAGE = """\
  kt-merge recipe.yml OUT
  kt-merge --check recipe.yml
  kt-merge --diff A B
  kt-merge --extract-lora BASE TUNED OUT
  kt-merge --list-methods
"""
_PATHS = dict(merge=2, check=1, diff=2, extract_lora=3, list_methods=0)


def main(argv=None) -> int:
  """Runs the command; 0 if all is well, 1 where things differ, 2 on errors."""
  jax.config.update('jax_cpu_enable_async_dispatch', False)
  args = _parse(argv)
  try:
    status = _ACTIONS[args.action](args)
    sys.stdout.flush()
    return status
  except core.UserError as e:
    return _fail(e)
  except BrokenPipeError:  # `| head` has seen enough
    with contextlib.suppress(OSError):
      os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 141
  except OSError as e:
    return _fail(f'{e.filename or "disk"}: {e.strerror or e}.')
  except MemoryError as e:
    return _fail(f'there is too little memory: {e}.')
  except KeyboardInterrupt:
    return 130


def _fail(error) -> int:
  print(f'kt-merge: {problems.one_line(error)}', file=sys.stderr)
  return 2


def _parse(argv):
  parser = argparse.ArgumentParser(
      'kt-merge', usage=_USAGE, description='Merges checkpoints of any size as '
      'a recipe says (the language of mergekit).')
  parser.set_defaults(action='merge')
  for action, text in (
      ('check', 'say what a recipe would do, from headers alone'),
      ('diff', 'compare two checkpoints leaf by leaf; exit status 1 if they '
       'differ'),
      ('extract-lora', 'write what TUNED changed in BASE as a LoRA adapter'),
      ('list-methods', 'merge methods, their inputs, parameters and defaults')):
    parser.add_argument(f'--{action}', action='store_const', dest='action',
                        const=action.replace('-', '_'), help=text)
  parser.add_argument('paths', nargs='*', help=argparse.SUPPRESS)
  merging = parser.add_argument_group('merging')
  merging.add_argument('--seed', type=int, default=0,
                       help='of operators that draw at random')
  merging.add_argument('--missing', choices=('error', 'present'),
                       default='error', help='what to do about a tensor that '
                       'an input lacks: stop, or merge those that have it')
  merging.add_argument('--shard-gb', type=float, default=5.0,
                       help='largest file of weights')
  merging.add_argument('--overwrite', action='store_true',
                       help='replace OUT when its successor is whole')
  merging.add_argument('--threads', type=int, default=2)
  merging.add_argument('--quiet', action='store_true', help='no progress')
  comparing = parser.add_argument_group('--diff')
  comparing.add_argument('--sort', choices=('name', 'difference'),
                         default='name')
  lora = parser.add_argument_group('--extract-lora')
  lora.add_argument('--rank', type=int, help='largest of each matrix; 16 '
                    'unless --energy is given')
  lora.add_argument('--energy', type=float, help='share of the squared '
                    'singular values to keep, in (0, 1]')
  lora.add_argument('--modules', default='', help='regex of module names')
  lora.add_argument('--save-rest', action='store_true',
                    help='keep other leaves that changed, in full')
  args = parser.parse_args(argv)
  if len(args.paths) != _PATHS[args.action]:
    parser.error(f'{_PATHS[args.action]} paths are needed, '
                 f'{len(args.paths)} were given.')
  if args.threads < 1 or args.shard_gb <= 0:
    parser.error('--threads and --shard-gb must be positive.')
  return args


def _merge(args) -> int:
  recipe, out = map(pathlib.Path, args.paths)
  run.merge_recipe(
      recipe, out, seed=args.seed, missing=args.missing, threads=args.threads,
      shard_bytes=int(args.shard_gb * 1e9), overwrite=args.overwrite,
      quiet=args.quiet, command=['kt-merge', *sys.argv[1:]])
  return 0


def _check(args) -> int:
  recipes = stages.read_file(args.paths[0])
  stages.check_paths(recipes)
  fails, made = False, {}
  for recipe in recipes:
    stage = run.plan_stage(recipe, made, args.missing)
    report = check.check_plan(stage.plan, threads=args.threads)
    if len(recipes) > 1:
      print(f'stage {recipe.name or "(last)"}')
    print(report.text())
    fails |= report.fails
    made[recipe.name] = run.planned(recipe.name, stage.plan)
  return 2 * fails


def _diff(args) -> int:
  a, b = (sources.open_model(path).tensors for path in args.paths)
  with _names(len(a.keys() | b.keys()), args) as bar:
    rows = diff.diff(a, b, bar)
  print(diff.format_diff(rows, args.sort))
  return int(diff.differ(rows))


def _extract(args) -> int:
  from kt_jax.cli import extract_lora  # pylint: disable=import-outside-toplevel
  base, tuned = (sources.open_model(path) for path in args.paths[:2])
  rank = args.rank
  if rank is None and args.energy is None:
    rank = 16
  with _names(len(base.tensors), args) as bar:
    found = extract_lora.extract_lora(
        base, tuned, args.paths[2], rank=rank, energy=args.energy,
        modules=args.modules, save_rest=args.save_rest, progress=bar)
  worst = max(found.errors, key=found.errors.get, default=None)
  print(f'{len(found.ranks)} matrices, ranks {min(found.ranks.values())} to '
        f'{max(found.ranks.values())}; largest relative error '
        f'{found.errors[worst]:.3g} ({worst}).' if worst else 'No matrices.')
  for title, names in (('in full', found.saved), ('left out', found.left)):
    if names:
      print(problems.one_line(f'{title}: {", ".join(names)}'))
  return 0


def _list_methods(args) -> int:
  del args
  print(list_methods.list_methods())
  return 0


class _names(tqdm.tqdm):  # pylint: disable=invalid-name
  """A bar that counts the names it is called with."""

  def __init__(self, total, args):
    super().__init__(total=total, unit='leaf', disable=args.quiet or None)

  def __call__(self, name):
    self.update()


_ACTIONS = dict(merge=_merge, check=_check, diff=_diff, extract_lora=_extract,
                list_methods=_list_methods)
