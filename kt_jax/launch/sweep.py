"""Arms times seeds of one config, one run after another."""
from collections.abc import Callable, Mapping, Sequence
import re
from typing import Any, NamedTuple

from etils import epath

from kt_jax import checkpoint
from kt_jax import core
from kt_jax.launch import override
from kt_jax.launch import report


class Run(NamedTuple):
  """One run; a launch without arms and seeds is a single one."""
  arm: str
  seed: int
  spec: Any
  workdir: str

  @property
  def label(self) -> str:
    return f'{self.arm}-{self.seed}'


def plan(base, arms: Sequence[str], seeds: str, baseline: str, workdir: str
        ) -> list[Run]:
  """Every run, seed by seed, so that early seeds already compare the arms.

  Args:
    base: spec.
    arms: `NAME` or `NAME:key=value,key=value`; none: one arm, 'run'.
    seeds: '0,1,2'; '' the config's own.
    baseline: name of an arm, or ''.
    workdir: each run gets a folder in it.
  """
  specs: dict[str, Any] = {}
  for text in arms or ['run']:
    name, _, changes = text.partition(':')
    if not re.fullmatch(r'[A-Za-z0-9][\w.+-]*', name):
      raise core.UserError(f'--arm {text}: {name!r} cannot name a folder; '
                           'write NAME or NAME:key=value,key=value.')
    if name in specs:
      raise core.UserError(f'--arm {name} is given twice.')
    overrides = []
    for change in split(changes):
      key, equals, value = change.partition('=')
      key = key.strip().removeprefix('config.')
      if not equals or key == 'seed':
        raise core.UserError(f'--arm {name}: {change!r} ' + (
            'belongs in --seeds.' if equals else 'is not key=value; a value '
            'with commas needs brackets or quotes.'))
      overrides.append((key, value))
    specs[name] = override.override(base, overrides)
  if baseline and baseline not in specs:
    raise core.UserError(core.nearest('arm (--baseline)', baseline, specs))
  if not re.fullmatch(r'(\d+(,\d+)*)?', seeds):
    raise core.UserError(f'--seeds {seeds}: expected numbers like 0,1,2.')
  if seeds and not hasattr(base, 'seed'):
    raise core.UserError('--seeds: this config has no seed'
                         + ', but config.seeds.' * hasattr(base, 'seeds'))
  numbers = ([int(s) for s in seeds.split(',')] if seeds
             else [getattr(base, 'seed', 0)])
  if len(set(numbers)) < len(numbers):
    raise core.UserError(f'--seeds {seeds} names a seed twice.')
  runs = []
  for seed in numbers:
    for name, spec in specs.items():
      if seeds:
        spec = core.spec.change(spec, dict(seed=seed))
      runs.append(Run(name, seed, spec,
                      f'{workdir.rstrip("/")}/{name}-{seed}'))
  return runs


def split(text: str) -> list[str]:
  """Cuts at the commas outside of brackets and quotes."""
  parts, depth, quote = [''], 0, ''
  for c in text:
    if quote:
      quote = '' if c == quote else quote
    elif c in '\'"':
      quote = c
    else:
      depth += (c in '([{') - (c in ')]}')
    if c == ',' and not quote and depth <= 0:
      parts.append('')
    else:
      parts[-1] += c
  return [p for p in parts if p.strip()]


def execute(runs: Sequence[Run], run: Callable[[Run], Mapping[str, Any]],
            write_line: Callable[[str], None],
            on_failure: Callable[[Run, Exception], None] | None = None
           ) -> dict[tuple[str, int], dict]:
  """Runs one after another in this process: `{(arm, seed): metrics}`.

  Args:
    runs: from `plan`.
    run: run -> metrics.
    write_line: prints a line of progress.
    on_failure: called with a run that raised, before the next one starts; None
      lets the exception pass, its attribute `run_label` names the run.
  """
  results = {}
  for i, item in enumerate(runs):
    write_line(f'[{i + 1}/{len(runs)}] {item.label}: {item.workdir}')
    try:
      results[item.arm, item.seed] = dict(run(item) or {})
    except Exception as e:
      label = f'run {item.label} ({i} of {len(runs)} done)'
      setattr(e, 'run_label', label)  # noqa: B010
      if on_failure is None:
        raise
      on_failure(item, e)
  return results


def write(workdir, rows: Sequence[report.Row], baseline: str) -> None:
  """`sweep.md` and `sweep.csv`."""
  folder = epath.Path(workdir).expanduser()
  checkpoint.write_atomic(folder / 'sweep.md',
                          report.markdown(rows, baseline))
  checkpoint.write_atomic(folder / 'sweep.csv', report.table_csv(rows))
