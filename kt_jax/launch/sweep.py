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
  changed: dict[str, Any] = {}
  for text in arms or ['run']:
    name, _, changes = text.partition(':')
    if not re.fullmatch(r'[A-Za-z0-9][\w.+-]*', name):
      raise core.UserError(f'--arm {text}: {name!r} is no name for a folder; '
                           'write NAME or NAME:key=value,key=value.')
    if name in changed:
      raise core.UserError(f'--arm {name} is there twice.')
    overrides = []
    for change in split(changes):
      key, equals, value = change.partition('=')
      key = key.strip().removeprefix('config.')
      if not equals or key == 'seed':
        raise core.UserError(f'--arm {name}: {change!r} ' + (
            'belongs into --seeds.' if equals else 'is not key=value; a value '
            'with commas needs brackets or quotes.'))
      overrides.append((key, value))
    changed[name] = override.override(base, overrides)
  if baseline and baseline not in changed:
    raise core.UserError(core.nearest('arm (--baseline)', baseline, changed))
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
    for name, spec in changed.items():
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
            say: Callable[[str], None],
            failed: Callable[[Run, Exception], None] | None = None
           ) -> dict[tuple[str, int], dict]:
  """Runs one after another in this process: `{(arm, seed): metrics}`.

  `failed` is told of a run that raised, and the next one starts; where it is
  None the exception passes, with the run's name as its `run_label`.
  """
  found = {}
  for i, item in enumerate(runs):
    say(f'[{i + 1}/{len(runs)}] {item.label}: {item.workdir}')
    try:
      found[item.arm, item.seed] = dict(run(item) or {})
    except Exception as e:
      setattr(e, 'run_label', f'run {item.label} ({i} of {len(runs)} done)')
      if failed is None:
        raise
      failed(item, e)
  return found


def write(workdir, rows: Sequence[report.Row], baseline: str) -> None:
  """`sweep.md` and `sweep.csv`."""
  folder = epath.Path(workdir).expanduser()
  checkpoint.write_atomic(folder / 'sweep.md',
                          report.markdown(rows, baseline))
  checkpoint.write_atomic(folder / 'sweep.csv', report.table_csv(rows))
