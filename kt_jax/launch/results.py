"""Results as data: what a config showed, in a JSON file beside it.

`configs/<paper>/<run>.json` holds the results of `<run>.py`. A run with
`--record` writes it; pages are generated from it and never typed:

  python -m kt_jax.launch.results  # rewrites docs/results, docs/papers.md and
                                   # the table of README.md

The file has `schema` (1), `page` (of `_schema.PAGES`, where it is shown) and
`results`, a result per variant of the config. Keys of a result; those marked
with * are required, the others are left out where they are unknown:

  command*  what was run
  rule*     how verdicts were reached
  seeds     list of integers
  arms      arm -> metric -> {mean, sd and se over seeds, values: one per seed}
  claims*   list of claims
  notes     list of sentences (Markdown): what else was tried or measured
  commit    of the code, with '-dirty' if it had changes
  versions  package -> version
  config    hash of the config
  cost      {seconds, devices}

Keys of a claim:

  name*     of the claim, as in the config
  text      the claim in words, if its name does not say enough
  kind      'primary' (marked before the run, one per config), 'control',
            'ablation' or 'sweep'
  better*   arm that should be better
  than      arm that it is compared to; or
  against   a number, such as the rate of a theorem
  metric*   of both arms; `than_metric`, if that of `than` is another
  lower     true where less is better
  above     two arms: the difference should exceed that of these two
  margin    by which the difference should exceed 0; negative: `better` may be
            worse by less than this
  difference  mean paired difference, `better` minus `than`
  se        its standard error over seeds
  test_se   its standard error over test examples
  p         two-sided
  n         number of paired measurements
  verdict*  one of `_schema.VERDICTS`
"""
import argparse
from collections.abc import Callable, Mapping, Sequence
import dataclasses
import json
import math
import pathlib
import statistics
from typing import Any

from kt_jax.launch import _schema

ROOT = pathlib.Path(__file__).resolve().parents[2]
RULE = 'two standard errors over seeds'
FREE = ('mesh', 'data_dir', 'pool_dir')  # keys that change no number


def summarize(values: Mapping[tuple[str, int], Mapping[str, Any]],
              claims: Mapping[str, Any], *,
              verdict: Callable[[float, float, int], str] | None = None,
              rule: str = RULE) -> dict[str, Any]:
  """The part of a result that follows from the metrics of all runs.

  Args:
    values: `(arm, seed) -> metric -> value`; only finite numbers are kept.
    claims: name -> claim, a mapping or a dataclass with `better`, `than`,
      `metric` and, where they apply, `than_metric`, `lower`, `above`, `margin`
      and `kind`.
    verdict: `(difference, se, n) -> str`, where a positive difference is in
      favor of the claim and its margin is subtracted; None: by two standard
      errors, 'undecided' for fewer than three seeds.
    rule: `verdict` in words.

  Returns:
    `rule`, `claims`, `seeds` and `arms`. An experiment writes it to
    `results.json` in its workdir, where `record` reads it.

  Raises:
    ValueError: an arm lacks a seed, or a claim names an arm or a metric that
      does not exist.
  """
  verdict = verdict or _two_standard_errors
  arms = list(dict.fromkeys(arm for arm, _ in values))
  seeds = list(dict.fromkeys(seed for _, seed in values))
  for arm in arms:
    for seed in seeds:
      if (arm, seed) not in values:
        raise ValueError(f'Arm {arm!r} has no run with seed {seed}.')

  def series(where, arm, metric):
    _schema.one_of(f'{where}: arm', arm, arms)
    _schema.one_of(f'{where}: metric', metric, values[arm, seeds[0]])
    return [float(values[arm, seed][metric]) for seed in seeds]

  rows = []
  for name, claim in claims.items():
    claim = dict(vars(claim) if dataclasses.is_dataclass(claim) else claim)
    where, metric = f'claim {name!r}', claim['metric']
    than_metric = claim.get('than_metric') or metric
    row = {'name': name} | {key: claim[key] for key in _schema.CLAIM
                            if claim.get(key)}
    if than_metric == metric:
      row.pop('than_metric', None)
    differences = _minus(series(where, claim['better'], metric),
                         series(where, claim['than'], than_metric))
    if 'above' in row:
      row['above'] = list(row['above'])
      differences = _minus(differences, _minus(
          *(series(where, arm, metric) for arm in row['above'])))
    n, mean = len(seeds), _mean(differences)
    se = _sd(differences) / math.sqrt(n)
    sign = -1 if claim.get('lower') else 1
    rows.append(row | _finite(difference=mean, se=se) | {
        'n': n,
        'verdict': verdict(sign * mean - claim.get('margin', 0.0), se, n)})

  table = {}
  for arm in arms:
    for metric in values[arm, seeds[0]]:
      numbers = [values[arm, seed].get(metric, math.nan) for seed in seeds]
      if all(map(_is_number, numbers)):
        numbers = [float(x) for x in numbers]
        table.setdefault(arm, {})[metric] = _finite(
            mean=_mean(numbers), sd=_sd(numbers)) | {
                'values': [round(x, 6) for x in numbers]}
  return {'rule': rule, 'claims': rows, 'seeds': seeds, 'arms': table}


def check_record(config_file, *, paper: str, variant: str,
                 changed: Sequence[str] = (), root: pathlib.Path = ROOT
                ) -> pathlib.Path:
  """Refuses, before a run, what could not be recorded after it.

  Args:
    config_file: `configs/<paper>/<run>.py[:variant]`.
    paper: of its config.
    variant: of its config.
    changed: config keys that the command line changed.
    root: of the repository.

  Returns:
    Path of the JSON file of the config.

  Raises:
    UserError: the config is not one of a paper in the repository, its variant
      is tiny, or keys that change numbers were changed.
  """
  from kt_jax import core  # brings jax, which rendering does not need
  root = root.resolve()
  path = (root / (str(config_file).partition('.py')[0] + '.py')).resolve()
  if not paper or path.parent != root / 'configs' / paper:
    raise core.UserError(f'--record: {path} must be in {root}/configs/PAPER; '
                         f'its paper is {paper!r}.')
  if variant == 'tiny':
    raise core.UserError('--record: the variant tiny measures nothing.')
  for key in changed:
    if not set(key.split('.')) & set(FREE):
      raise core.UserError('--record: results are those of the config as it '
                           f'is; drop --config.{key} or change {path}.')
  return path.with_suffix('.json')


def record(config_file, workdir, *, changed: Sequence[str] = (),
           cost: Mapping[str, Any] | None = None,
           root: pathlib.Path = ROOT) -> pathlib.Path:
  """Writes the result of a finished run into the JSON file of its config.

  The run has left `summarize()` as `results.json` in its workdir. The result of
  its variant is replaced but for the notes; other variants stay as they are.

  Args:
    config_file: `configs/<paper>/<run>.py[:variant]`.
    workdir: of the run.
    changed: config keys that the command line changed.
    cost: seconds and devices, if known.
    root: of the repository.

  Returns:
    Path of the JSON file.

  Raises:
    UserError: the run is not finished; see also `check_record`.
  """
  from kt_jax import checkpoint
  from kt_jax import core
  workdir = pathlib.Path(workdir).expanduser()
  config = json.loads((workdir / 'config.json').read_text())
  paper, variant = config['paper'], config['variant']
  file = check_record(config_file, paper=paper, variant=variant,
                      changed=changed, root=root)
  if not (workdir / 'results.json').is_file():
    raise core.UserError(f'--record: {workdir} has no results.json; the run is '
                         'not finished or compares no arms.')
  code = checkpoint.code_version()
  commit = {'commit': code.pop('commit')} if 'commit' in code else {}
  result = json.loads((workdir / 'results.json').read_text()) | commit | {
      'command': 'python -m experiments.run --config '
                 f'configs/{paper}/{file.stem}.py:{variant} --workdir DIR',
      'versions': code, 'config': checkpoint.config_hash(config)}
  if cost:
    result['cost'] = dict(cost)
  content = (json.loads(file.read_text()) if file.is_file() else
             {'schema': 1, 'page': _page(config), 'results': {}})
  notes = content['results'].get(variant, {}).get('notes')
  if notes:
    result['notes'] = notes
  content['results'][variant] = result
  _schema.check(content)
  checkpoint.write_atomic(file, _schema.dumps(content))
  return file


def load(root: pathlib.Path = ROOT) -> dict[str, dict[str, Any]]:
  """Path of a config, from the root of the repository -> its JSON content."""
  return {path.with_suffix('.py').relative_to(root).as_posix():
          json.loads(path.read_text())
          for path in sorted(root.glob('configs/*/*.json'))}


def main(argv: Sequence[str] | None = None) -> None:
  """Writes the generated pages."""
  from kt_jax.launch import _pages  # it imports this module
  parser = argparse.ArgumentParser(
      prog='python -m kt_jax.launch.results',
      description='Writes docs/results/*.md, docs/papers.md and the table of '
      'README.md from configs/*/*.json and kt_jax/papers.py.')
  parser.parse_args(argv)
  for path, text in _pages.render(ROOT).items():
    (ROOT / path).parent.mkdir(parents=True, exist_ok=True)
    if not (ROOT / path).exists() or (ROOT / path).read_text() != text:
      (ROOT / path).write_text(text)
      print(path)


def _page(config) -> str:
  """The page of a new config's results."""
  by_experiment = {'merge': 'merging', 'transfer': 'transfer'}
  if config['experiment'] in by_experiment:
    return by_experiment[config['experiment']]
  text = 'domains' in config.get('run', config).get('data', {})
  return 'language' if text else 'distillation'


def _two_standard_errors(difference, se, n) -> str:
  """Two runs that happen to agree decide nothing."""
  return ('undecided' if n < 3 else 'holds' if difference > 2 * se else
          'fails' if difference < -2 * se else 'undecided')


def _minus(a, b):
  return [x - y for x, y in zip(a, b, strict=True)]


def _mean(numbers) -> float:
  """The mean, exact where all numbers are equal."""
  first = numbers[0]
  return first + statistics.fmean(x - first for x in numbers)


def _sd(numbers) -> float:
  mean = _mean(numbers)
  return math.sqrt(sum((x - mean)**2 for x in numbers) / (len(numbers) - 1)
                  ) if len(numbers) > 1 else math.nan


def _finite(**numbers) -> dict[str, float]:
  return {k: round(v, 6) for k, v in numbers.items() if math.isfinite(v)}


def _is_number(value) -> bool:
  return (not isinstance(value, (bool, str, Mapping))
          and math.isfinite(float(value)))


if __name__ == '__main__':
  main()
