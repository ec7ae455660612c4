r"""The command `kt-run`: runs the experiment of a config file.

  kt-run --config configs/<paper>/<run>.py:<variant> --workdir DIR \
      [--config.KEY=VALUE ...]

A config file has `get_config(variant='small')`, which returns a ConfigDict
built from `configs.common`, or a spec, and raises `common.unknown_variant` for
other variants; and

  VARIANTS = {'small': '8 min, 2 cores', 'tiny': 'seconds'}  # variant -> cost

which `--list` shows. It imports `configs.common` and nothing heavy.

`config.experiment` names a module of `experiments/` with `Spec`, a dataclass of
what it can be told, `run(spec, workdir) -> {metric: number}`, which resumes, or
returns at once what a finished run measured, and `check(spec) ->
[train.Report]`, which computes nothing. A `table` in the metrics is printed as
it is. Or `module:function`, your own `run`; its `check` and `Spec`, if there
are such, are attributes of the function or stand beside it. The workdir's
`config.json` is the spec.
"""
import argparse
import contextlib
import os
import pathlib
import sys
import time

from kt_jax.launch import config as configs
from kt_jax.launch import process

EXAMPLES = '''examples:
  kt-run --list
  kt-run --config configs/roth2024fantastic/digits.py --workdir runs/digits
  ... --config.loop.steps=200 --config.seeds=0,1            # change the config
  ... --check                        # sizes and times; runs and writes nothing
  kt-run --config configs/basic/pretrain.py:small --workdir runs/smooth \\
      --seeds 0,1,2 --baseline plain --arm plain \\
      --arm smooth:terms.task.kw.label_smoothing=0.1      # compared in a table
The same command again resumes. In a clone, python -m experiments.run is kt-run.

'''


def main(argv: list[str] | None = None) -> int:
  """Runs the command and returns its exit status; errors are on stderr."""
  argv = list(sys.argv[1:] if argv is None else argv)
  debug = '--debug' in argv
  try:
    return _main(argv)
  except KeyboardInterrupt:
    return 130
  except BrokenPipeError:  # `| head` has closed it
    with contextlib.suppress(OSError):
      os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 141
  except Exception as e:
    return process.report(e, debug)


def _main(argv) -> int:
  args, overrides = _parse(argv)
  if args.list:
    print(configs.listing())
    return 0
  configs.extend_path()
  process.quiet()
  from kt_jax import train  # here and below: --list and --help do without jax
  from kt_jax.launch import override
  from kt_jax.launch import report
  from kt_jax.launch import sweep
  train.initialize(args.coordinator, args.processes, args.process)
  process.use_compilation_cache()

  spec = override.override(configs.load(args.config), overrides)
  runs = [sweep.Run('', getattr(spec, 'seed', 0), spec, args.workdir)]
  swept = bool(args.seeds or args.arm)
  if swept:
    runs = sweep.plan(spec, args.arm, args.seeds, args.baseline, args.workdir)
  elif args.baseline or args.keep_going:
    raise _user_error('--baseline and --keep_going need --arm or --seeds.')

  # Everything that can be refused is refused here, before the first run.
  reports, experiments = [], {}
  for item in runs:
    experiment = configs.find(item.spec.experiment)
    if not args.check:
      _probe(item.workdir, item.spec)
    done = not args.check and _is_finished(item.workdir)
    if item.arm not in experiments and experiment.check and not done:
      reports += [(item.arm, r) for r in experiment.check(item.spec) or ()]
    experiments[item.arm] = experiment
  if args.record and (swept or args.check):
    raise _user_error('--record is for a single run of a config as it is.')
  resumed = '://' in args.workdir or (
      pathlib.Path(_resolved(args.workdir)) / 'config.json').exists()
  if args.check:
    print(report.sizes(reports))
    return 0

  import jax
  write_line = print if jax.process_index() == 0 else lambda *_: None
  def execute(item):
    metrics = experiments[item.arm].run(item.spec, item.workdir)
    write_line(report.metrics(metrics))
    return metrics

  failures = []
  if swept:
    def on_failure(item, e):
      process.report(e, args.debug)
      failures.append(item.label)
    results = sweep.execute(runs, execute, write_line,
                            on_failure if args.keep_going else None)
    rows = report.compare(results, args.baseline)
    write_line('\n' + report.markdown(rows, args.baseline))
    sweep.write(args.workdir, rows, args.baseline)
  else:
    begun = time.monotonic()
    execute(runs[0])
    if args.record and jax.process_index() == 0:
      from kt_jax.launch import results
      cost = None if resumed else dict(
          seconds=round(time.monotonic() - begun),
          devices=f'{jax.device_count()} x {jax.devices()[0].device_kind}')
      try:
        path = results.record(args.config, args.workdir, cost=cost,
                              changed=[key for key, _ in overrides])
      except ValueError as e:
        raise _user_error(str(e)) from e
      write_line(f'recorded {path}')
  write_line(f'workdir  {_resolved(args.workdir)}')
  if failures:
    raise _user_error(f'{len(failures)} of {len(runs)} runs failed: '
                      f'{", ".join(failures)}.')
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
      prog='kt-run', allow_abbrev=False,
      usage='%(prog)s --config FILE.py[:VARIANT] --workdir DIR [flags]')
  parser.error = lambda message: _raise(message)
  parser.format_help = lambda: EXAMPLES + type(parser).format_help(parser)
  add = parser.add_argument
  add('--config', metavar='FILE', help='config file, FILE.py:VARIANT')
  add('--workdir', metavar='DIR', help='where the run is kept and resumed')
  parser.add_argument_group('the config').add_argument(
      '--config.KEY', metavar='VALUE', help='change it: --config.a.b=VALUE')
  add('--list', action='store_true', help='every config and its cost')
  add('--check', action='store_true',
      help='trace every run and report its size; run nothing')
  add('--record', action='store_true',
      help='write what the config showed into the JSON file beside it')
  add('--debug', action='store_true', help='traceback with every error')
  add('--version', action='version', version=_version())
  sweep = parser.add_argument_group('sweep').add_argument
  sweep('--seeds', metavar='0,1,2', default='', help='a run for each')
  sweep('--arm', action='append', default=[], metavar='NAME:KEY=VALUE,...',
        help='a variation of the config; may be repeated')
  sweep('--baseline', metavar='NAME', default='',
        help='arm that the others are compared to')
  sweep('--keep_going', action='store_true', help='go on after failed runs')
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


def _probe(workdir: str, spec) -> None:
  """Refuses a workdir that the run would refuse, before the run is prepared."""
  from kt_jax import checkpoint
  from kt_jax import core
  if '://' in workdir:
    return
  path = pathlib.Path(_resolved(workdir))
  existing = next(p for p in (path, *path.parents) if p.exists())
  if not existing.is_dir():
    raise _user_error(f'--workdir {path}: {existing} is a file.')
  if not os.access(existing, os.W_OK | os.X_OK):
    raise _user_error(f'--workdir {path}: {existing} is not writable.')
  if (path / 'config.json').exists():
    checkpoint.open_workdir(path, core.spec.to_json(spec))


def _is_finished(workdir: str) -> bool:
  """Whether a run has only to report again, so that nothing can be refused."""
  from etils import epath

  from kt_jax import train
  return train.finished(epath.Path(_resolved(workdir))) is not None


def _resolved(workdir: str) -> str:
  return workdir if '://' in workdir else str(
      pathlib.Path(workdir).expanduser().resolve())


def _version() -> str:
  import kt_jax
  return f'kt_jax {kt_jax.__version__}'


def _user_error(message: str) -> ValueError:
  from kt_jax import core  # brings jax, which --list does without
  return core.UserError(message)


def _raise(message: str):
  raise _user_error(message)
