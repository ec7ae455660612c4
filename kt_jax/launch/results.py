"""Results as data: what a config showed, in a JSON file beside it.

`configs/<paper>/<run>.json` holds the results of `<run>.py`. A run with
`--record` writes it; pages are generated from it and never typed:

  python -m kt_jax.launch.results  # rewrites docs/results, docs/papers.md and
                                   # the table of README.md

The file has `schema` (1), `page` (of `PAGES`, where it is shown) and
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
  verdict*  one of `VERDICTS`
"""
import argparse
from collections.abc import Callable, Mapping, Sequence
import dataclasses
import json
import math
import pathlib
import statistics
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parents[2]
PAGES = ('distillation', 'merging', 'language', 'transfer')
RULE = 'two standard errors over seeds'
VERDICTS = ('holds', 'undecided', 'fails', 'above', 'within noise', 'below')
KINDS = ('primary', 'control', 'ablation', 'sweep')
FREE = ('mesh', 'data_dir', 'pool_dir')  # keys that change no number

_RESULT = {
    'command': str, 'rule': str, 'seeds': list, 'arms': dict, 'claims': list,
    'notes': list, 'commit': str, 'versions': dict, 'config': str,
    'cost': dict}
_CLAIM = {
    'name': str, 'text': str, 'kind': str, 'better': str, 'than': str,
    'against': float, 'metric': str, 'than_metric': str, 'lower': bool,
    'above': list, 'margin': float, 'difference': float, 'se': float,
    'test_se': float, 'p': float, 'n': int, 'verdict': str}
_METRIC = {'mean': float, 'sd': float, 'se': float, 'values': list}


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
    _one_of(f'{where}: arm', arm, arms)
    _one_of(f'{where}: metric', metric, values[arm, seeds[0]])
    return [float(values[arm, seed][metric]) for seed in seeds]

  rows = []
  for name, claim in claims.items():
    claim = dict(vars(claim) if dataclasses.is_dataclass(claim) else claim)
    where, metric = f'claim {name!r}', claim['metric']
    than_metric = claim.get('than_metric') or metric
    row = {'name': name} | {key: claim[key] for key in _CLAIM if claim.get(key)}
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
    ValueError: the run is of another config, of the variant tiny, of a changed
      config, or not finished.
  """
  from kt_jax import checkpoint  # brings jax, which rendering does not need
  path = root / (str(config_file).partition('.py')[0] + '.py')
  name = path.resolve().relative_to(root.resolve()).as_posix()
  workdir = pathlib.Path(workdir).expanduser()
  config = json.loads((workdir / 'config.json').read_text())
  variant = config['variant']
  for key in changed:
    if not set(key.split('.')) & set(FREE):
      raise ValueError(f'--record: results are those of {name} as it is; drop '
                       f'--config.{key} or change the file.')
  if variant == 'tiny':
    raise ValueError('--record: the variant tiny measures nothing.')
  if config['paper'] != path.parent.name:
    raise ValueError(f'--record: {workdir} has a run of paper '
                     f'{config["paper"]!r}, not of {name}.')
  if not (workdir / 'results.json').is_file():
    raise ValueError(f'--record: {workdir} has no results.json; the run is not '
                     'finished or compares no arms.')
  code = checkpoint.code_version()
  result = {
      'command': f'python -m experiments.run --config {name}:{variant} '
                 '--workdir DIR',
      **json.loads((workdir / 'results.json').read_text()),
      **{key: code.pop(key) for key in ('commit',) if key in code},
      'versions': code, 'config': checkpoint.config_hash(config),
      **({'cost': dict(cost)} if cost else {})}
  target = path.with_suffix('.json')
  content = (json.loads(target.read_text()) if target.is_file() else
             {'schema': 1, 'page': _page(config), 'results': {}})
  before = content['results'].get(variant, {})
  content['results'][variant] = result | {
      key: before[key] for key in ('notes',) if key in before}
  check(content)
  checkpoint.write_atomic(target, dumps(content))
  return target


def check(content: Mapping[str, Any]) -> None:
  """Raises ValueError where the content of a JSON file breaks the schema."""
  types = {'schema': int, 'page': str, 'results': dict}
  _check_keys('the file', content, types, required=types)
  _one_of('schema', content['schema'], (1,))
  _one_of('page', content['page'], PAGES)
  for variant, result in content['results'].items():
    _check_keys(variant, result, _RESULT, ('command', 'rule', 'claims'))
    count = len(result.get('seeds', ()))
    for arm, metrics in result.get('arms', {}).items():
      for metric, numbers in metrics.items():
        where = f'{variant}.arms.{arm}.{metric}'
        _check_keys(where, numbers, _METRIC)
        if len(numbers.get('values', [0] * count)) != count:
          raise ValueError(f'{where}.values must have one value per seed.')
    for claim in result['claims']:
      where = f'{variant}.claims.{claim.get("name")}'
      _check_keys(where, claim, _CLAIM,
                  ('name', 'better', 'metric', 'verdict'))
      _one_of(f'{where}.verdict', claim['verdict'], VERDICTS)
      _one_of(f'{where}.kind', claim.get('kind', KINDS[0]), KINDS)
      if ('than' in claim) == ('against' in claim):
        raise ValueError(f'{where} must have either than or against.')
      if len(claim.get('above', 'ab')) != 2:
        raise ValueError(f'{where}.above must name two arms.')
    names = [claim['name'] for claim in result['claims']]
    if len(set(names)) < len(names):
      raise ValueError(f'{variant}.claims: names must differ, got {names}.')
    primary = [c['name'] for c in result['claims'] if c.get('kind') == KINDS[0]]
    if len(primary) > 1:
      raise ValueError(f'{variant}.claims: one may be primary, got {primary}.')


def load(root: pathlib.Path = ROOT) -> dict[str, dict[str, Any]]:
  """Path of a config, from the root of the repository -> its JSON content."""
  return {path.with_suffix('.py').relative_to(root).as_posix():
          json.loads(path.read_text())
          for path in sorted(root.glob('configs/*/*.json'))}


def dumps(content: Mapping[str, Any]) -> str:
  """JSON, a line per claim and metric, keys in the order of the schema."""
  return _dumps({**content, 'results': {
      variant: _ordered(result, _RESULT) | {
          'claims': [_ordered(claim, _CLAIM) for claim in result['claims']]}
      for variant, result in content['results'].items()}}) + '\n'


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


def _check_keys(where, value, types, required=()) -> None:
  if not isinstance(value, dict):
    raise ValueError(f'{where} must be an object, got {value!r}.')
  for key in required:
    if key not in value:
      raise ValueError(f'{where} lacks the key {key!r}.')
  for key, content in value.items():
    _one_of(f'{where}: key', key, types)
    kind = types[key]
    if type(content) is not kind and (kind, type(content)) != (float, int):
      raise ValueError(f'{where}.{key} must be of type {kind.__name__}, got '
                       f'{content!r}.')


def _one_of(where, value, allowed) -> None:
  if value not in allowed:
    raise ValueError(f'{where} {value!r} does not exist; allowed: '
                     f'{", ".join(map(str, allowed))}.')


def _ordered(value, keys):
  return {key: value[key] for key in keys if key in value}


def _dumps(value, indent='') -> str:
  """Lines of at most 80 columns, but a claim or metric is never broken."""
  text = json.dumps(value, ensure_ascii=False, allow_nan=False)
  if len(indent + text) <= 80 or not isinstance(value, (dict, list)) or (
      isinstance(value, dict) and not any(
          isinstance(x, dict) or x and isinstance(x, list) and isinstance(
              x[0], dict) for x in value.values())):
    return text
  more = indent + ' '
  begin, end = '{}' if isinstance(value, dict) else '[]'
  lines = ([f'{json.dumps(k)}: {_dumps(v, more)}' for k, v in value.items()]
           if isinstance(value, dict) else [_dumps(v, more) for v in value])
  return f'{begin}\n{more}' + f',\n{more}'.join(lines) + f'\n{indent}{end}'


if __name__ == '__main__':
  main()
