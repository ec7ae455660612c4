"""The one command: runs the experiment of a config file.

  python -m experiments.run --config configs/<paper>/<run>.py:<variant> \
      --workdir DIR [--config.KEY=VALUE ...]

What a config file has: `get_config(variant='small')`, a ConfigDict built from
`configs/common.py`, which raises `common.unknown_variant` for others; and

  VARIANTS = {'small': '8 min, 2 cores', 'tiny': 'seconds'}  # variant -> cost

which `--list` shows. It imports `configs.common` and nothing heavy.

What `config.experiment` names: a module of `experiments/` with `run(config,
workdir) -> {metric: number}`, which resumes, or returns at once what a finished
run found, and `check(config) -> [train.Report]`, which computes nothing. A
`table` in the metrics is printed as it is. Or `module:function`, your own `run`;
its `check`, if there is one, is an attribute of the function or stands beside
it. The workdir's `config.json` is the config as it was given.
"""
import argparse
import contextlib
import importlib
import logging
import os
import pathlib
import re
import sys
import traceback
import warnings
import zlib

from experiments import config as configs

EXAMPLES = '''examples:
  python -m experiments.run --list
  python -m experiments.run --config configs/roth2024fantastic/digits.py:small \\
      --workdir runs/digits          # the same command again resumes
  ... --config.loop.steps=200 --config.model.kw.width=32    # change the config
  ... --check                        # sizes and times; runs and writes nothing
  ... --seeds 0,1,2 --arm ce --arm kd:terms.kd.weight=1,terms.task.weight=0.5 \\
      --baseline ce                  # arms x seeds, compared in one table

'''


def main(argv: list[str] | None = None) -> int:
  """Runs the command; returns its exit status, what went wrong on stderr."""
  argv = list(sys.argv[1:] if argv is None else argv)
  debug = '--debug' in argv
  try:
    return _main(argv)
  except KeyboardInterrupt:
    return 130
  except BrokenPipeError:  # `| head` has seen enough
    with contextlib.suppress(OSError):
      os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 141
  except Exception as e:
    return _report(e, debug)


def _main(argv) -> int:
  args, overrides = _parse(argv)
  if args.list:
    print(configs.listing())
    return 0
  _quiet()
  from kt_jax import train  # here and below: --list and --help do without jax
  from experiments import sweep
  train.initialize(args.coordinator, args.processes, args.process)
  _use_compilation_cache()

  config = configs.load(args.config)
  for key, value in overrides:
    configs.override(config, key, value)
  runs = [sweep.Run('', config.get('seed', 0), config, args.workdir)]
  swept = bool(args.seeds or args.arm)
  if swept:
    runs = sweep.plan(config, args.arm, args.seeds, args.baseline, args.workdir)
  elif args.baseline or args.keep_going:
    raise _user_error('--baseline and --keep_going need --arm or --seeds.')

  # All that can be refused is refused here, before the first run.
  reports, checked = [], {}
  for item in runs:
    run, check = _experiment(item.config.experiment)
    if not args.check:
      _probe(item.workdir, item.config)
    if item.arm not in checked and check:
      found = check(item.config) or []
      reports += [(item.arm, r) for r in found]
    checked[item.arm] = run
  if args.check:
    from experiments import report
    print(report.sizes(reports))
    return 0

  import jax
  say = print if jax.process_index() == 0 else lambda *_: None
  execute = lambda item: checked[item.arm](item.config, item.workdir)
  if not swept:
    say(_metrics(execute(runs[0])), f'\nworkdir  {_resolved(args.workdir)}')
    return 0
  failures = []
  failed = lambda item, e: failures.append(
      (item.label, _report(e, args.debug, item.label)))
  def one(item):
    metrics = execute(item)
    say(_metrics(metrics))
    return metrics
  found = sweep.execute(runs, one, failed if args.keep_going else None, say)
  say('\n' + sweep.write(found, args.baseline, _resolved(args.workdir)))
  say(f'workdir  {_resolved(args.workdir)}')
  if failures:
    raise _user_error(f'{len(failures)} of {len(runs)} runs failed: '
                      f'{", ".join(label for label, _ in failures)}.')
  return 0


def _parse(argv):
  """`(flags, [(key, value)])`."""
  own, overrides, rest = [], [], iter(argv)
  for arg in rest:
    if not arg.startswith('--config.'):
      own.append(arg)
      continue
    key, equals, value = arg.removeprefix('--config.').partition('=')
    if not equals:
      value = next(rest, None)
      if value is None or value.startswith('--'):
        raise _user_error(f'{arg} needs a value: {arg}=VALUE.')
    overrides.append((key, value))

  parser = argparse.ArgumentParser(
      prog='python -m experiments.run', allow_abbrev=False,
      usage='%(prog)s --config FILE.py[:VARIANT] --workdir DIR [flags]')
  parser.error = lambda message: _raise(message)
  parser.format_help = lambda: EXAMPLES + type(parser).format_help(parser)
  add = parser.add_argument
  add('--config', metavar='FILE', help='config file, FILE.py:VARIANT')
  add('--workdir', metavar='DIR', help='where the run is kept and resumed')
  parser.add_argument_group('the config').add_argument(
      '--config.KEY', metavar='VALUE', help='change it: --config.a.b=VALUE')
  add('--list', action='store_true', help='every config, what it costs')
  add('--check', action='store_true',
      help='resolve everything, say what it takes, run nothing')
  add('--debug', action='store_true', help='traceback with every error')
  add('--version', action='version', version=_version())
  sweep = parser.add_argument_group('sweep').add_argument
  sweep('--seeds', metavar='0,1,2', default='', help='a run for each')
  sweep('--arm', action='append', default=[], metavar='NAME:KEY=VALUE,...',
        help='a variation of the config; may be repeated')
  sweep('--baseline', metavar='NAME', default='',
        help='arm that the others are compared to')
  sweep('--keep_going', action='store_true', help='pass over failed runs')
  many = parser.add_argument_group('several processes').add_argument
  many('--coordinator', metavar='HOST:PORT', default='',
       help="of process 0; 'auto' asks the cloud")
  many('--processes', metavar='N', type=int, default=0)
  many('--process', metavar='I', type=int, default=-1)

  args, unknown = parser.parse_known_args(own)
  if unknown:
    from kt_jax import core
    flags = [o for a in parser._actions for o in a.option_strings
             if o != '--config.KEY']
    raise _user_error(core.nearest('flag', unknown[0].partition('=')[0], flags))
  if not args.list:
    if not args.config:
      raise _user_error('--config is missing; --list shows the configs.')
    if not (args.workdir or args.check):
      raise _user_error('--workdir is missing: where to keep the run.')
  args.workdir = args.workdir or ''
  return args, overrides


def _experiment(name: str):
  """`(run, check or None)` of a module of experiments/ or `module:function`."""
  from kt_jax import core
  if ':' in name:
    run = core.resolve(None, name, 'experiment')
    beside = getattr(importlib.import_module(name.partition(':')[0]), 'check',
                     None)
    return run, getattr(run, 'check', beside)
  have = [f.stem for f in pathlib.Path(__file__).parent.glob('*.py')
          if re.search(r'^def run\(', f.read_text(), re.M)]
  if name not in have:
    raise core.UserError(core.nearest('experiment', name, have))
  module = importlib.import_module(f'experiments.{name}')
  return module.run, module.check


def _probe(workdir: str, config) -> None:
  """Refuses a workdir that the run would refuse, before the run is prepared."""
  import json
  from kt_jax import checkpoint
  if '://' in workdir:
    return
  path = pathlib.Path(_resolved(workdir))
  stands = next(p for p in (path, *path.parents) if p.exists())
  if not stands.is_dir():
    raise _user_error(f'--workdir {path}: {stands} is a file.')
  if not os.access(stands, os.W_OK | os.X_OK):
    raise _user_error(f'--workdir {path}: {stands} cannot be written.')
  if (path / 'config.json').exists():
    checkpoint.open_workdir(path, json.loads(config.to_json()))


def _resolved(workdir: str) -> str:
  return workdir if '://' in workdir else str(
      pathlib.Path(workdir).expanduser().resolve())


def _metrics(found) -> str:
  """One aligned line, or the table that the experiment made."""
  found = dict(found or {})
  table = found.pop('table', None)
  cells = [f'{k} {v:.6g}' if isinstance(v, float) else f'{k} {v}'
           for k, v in found.items()]
  return '\n'.join(([table.rstrip()] if table else [])
                   + (['  '.join(cells)] if cells else []))


def _report(e: Exception, debug: bool, label: str = '') -> int:
  """Says what went wrong on stderr: status 2 the user's to mend, 1 a bug."""
  from kt_jax import core
  tb = traceback.extract_tb(e.__traceback__)
  own = [f for f in tb if 'site-packages' not in f.filename] or tb
  where = f'{os.path.relpath(own[-1].filename)}:{own[-1].lineno}' if own else '?'
  message = ' '.join(str(e).split()) or type(e).__name__
  for note in getattr(e, '__notes__', ()) if label == '' else ():
    if note.startswith('In '):
      message = f'{note[3:]}: {message}'
  full = 'RESOURCE_EXHAUSTED' in message or isinstance(e, MemoryError)
  users = isinstance(e, (ValueError, OSError, ModuleNotFoundError)) or full
  if debug or not users:
    traceback.print_exception(e)
  message = f'{label}: {message}' if label else message
  if isinstance(e, core.UserError):
    print(f'error: {message}', file=sys.stderr)
  elif users:
    hint = 'Out of memory; a smaller batch needs less. ' * full
    print(f'error: {hint}{message} (at {where}; --debug shows the traceback)',
          file=sys.stderr)
  else:
    print(f'bug: {type(e).__name__} at {where}: {message}', file=sys.stderr)
  return 2 if users else 1


class _Show(logging.Handler):
  """Warnings as `warning: ...` on whatever stderr is now."""

  def emit(self, record):
    print(f'{record.levelname.lower()}: {record.getMessage()}',
          file=sys.stderr)


def _quiet():
  """Shows what kt_jax has to say and not what the libraries do."""
  os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')  # before jax: XLA reads it
  from absl import logging as absl_logging
  absl_logging.set_verbosity(absl_logging.ERROR)
  logging.getLogger().setLevel(logging.ERROR)
  logger = logging.getLogger('kt_jax')
  logger.setLevel(logging.WARNING)
  logger.propagate = False
  logger.handlers = [_Show()]
  if not sys.warnoptions:
    warnings.filterwarnings(
        'ignore', module=r'(orbax|absl|etils|tensorflow|tensorboardX|google)\b')


def _use_compilation_cache():
  """Keeps compiled programs in the user's cache folder, a start being slow."""
  import jax
  if os.environ.get('JAX_COMPILATION_CACHE_DIR'):
    return
  with contextlib.suppress(OSError):  # not writable: compile each time
    home = os.environ.get('KT_JAX_CACHE') or os.path.join(
        os.environ.get('XDG_CACHE_HOME') or os.path.expanduser('~/.cache'),
        'kt_jax')
    # A home folder may serve machines of several kinds; programs for the CPU
    # are for one. JAX's own key does not hold the kind.
    kind = ''
    with contextlib.suppress(OSError):
      kind = re.search(r'flags.*|Features.*|$',
                       pathlib.Path('/proc/cpuinfo').read_text())[0]
    folder = os.path.join(home, 'xla', f'{zlib.crc32(kind.encode()):08x}')
    os.makedirs(folder, exist_ok=True)
    if os.access(folder, os.W_OK):
      jax.config.update('jax_compilation_cache_dir', folder)
      jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.5)


def _version() -> str:
  import kt_jax
  return f'kt_jax {kt_jax.__version__}'


def _user_error(message: str) -> ValueError:
  from kt_jax import core  # brings jax, which --list does without
  return core.UserError(message)


def _raise(message: str):
  raise _user_error(message)


if __name__ == '__main__':
  sys.exit(main())
