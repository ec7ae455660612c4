"""Results beside configs: their schema, how they are recorded, their pages."""
import copy
import dataclasses
import importlib.util
import json
import math
import re

import numpy as np
import pytest

from kt_jax import papers
from kt_jax.launch import _pages
from kt_jax.launch import results

CONTENT = results.load()
FILES = pytest.mark.parametrize('path', CONTENT)
# Rounded to four decimals, these two could be on either side of two errors.
ROUNDED = {('configs/yadav2023ties/mnist.py', 'whole_2'),
           ('configs/fan2024dlf/strings.py', 'sort: over tuned')}


def _config(path, variant):
  spec = importlib.util.spec_from_file_location('config', results.ROOT / path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module.get_config(variant)


@FILES
def test_file_follows_the_schema(path):
  file = (results.ROOT / path).with_suffix('.json')
  results.check(CONTENT[path])
  assert file.read_text() == results.dumps(CONTENT[path])
  assert (results.ROOT / path).is_file()


@FILES
def test_file_agrees_with_its_config(path):
  """Arms, seeds and claims exist, and no claim is left out."""
  for variant, result in CONTENT[path]['results'].items():
    config = _config(path, variant)
    assert f'{path}:{variant} ' in result['command']
    assert result['seeds'] == list(config.seeds)
    groups = {'compare': 'arms', 'merge': 'arms', 'decode': 'arms',
              'transfer': 'methods', 'tabular': 'learners'}
    arms = config[groups[config.experiment]]
    named = set(result.get('arms', ()))
    for claim in result['claims']:
      named |= {claim[key] for key in ('better', 'than') if key in claim}
      named |= set(claim.get('above', ()))
    assert named <= set(arms)
    if 'claims' not in config:
      continue
    assert {c['name'] for c in result['claims']} == set(config.claims)
    for claim in result['claims']:
      spec = config.claims[claim['name']]
      for key in ('better', 'than', 'metric', 'lower', 'margin'):
        assert claim.get(key, type(spec[key])()) == spec[key], claim['name']
      assert claim.get('than_metric', spec.metric) == (
          spec.than_metric or spec.metric)
      assert tuple(claim.get('above', ())) == tuple(spec.above)


@FILES
def test_verdicts_follow_from_the_numbers(path):
  for result in CONTENT[path]['results'].values():
    for claim in result['claims']:
      if result['rule'] != results.RULE or (path, claim['name']) in ROUNDED:
        continue
      excess = ((-1 if claim.get('lower') else 1) * claim['difference']
                - claim.get('margin', 0))
      assert claim['n'] == len(result['seeds']) >= 3
      assert claim['verdict'] == (
          'holds' if excess > 2 * claim['se'] else
          'fails' if excess < -2 * claim['se'] else 'undecided'), claim
      both = [result.get('arms', {}).get(claim[arm], {}).get(metric)
              for arm, metric in (('better', claim['metric']), (
                  'than', claim.get('than_metric', claim['metric'])))]
      if all(both) and 'above' not in claim:
        a, b = both
        assert abs(a['mean'] - b['mean'] - claim['difference']) < 2e-4
        sd = claim['se'] * math.sqrt(claim['n'])  # of the differences
        assert abs(a['sd'] - b['sd']) - 4e-4 < sd < a['sd'] + b['sd'] + 4e-4


def test_pages_are_up_to_date():
  """`python -m kt_jax.launch.results` brings them up to date."""
  pages = _pages.render(results.ROOT)
  for path, text in pages.items():
    assert (results.ROOT / path).read_text() == text, path
  folder = results.ROOT / 'docs/results'
  assert {f'docs/results/{f.name}' for f in folder.iterdir()} <= set(pages)
  table = pages['docs/papers.md']
  rows = [line for line in table.splitlines() if line.startswith('| ')]
  assert len(rows) == len(papers.PAPERS) + 2
  assert len({len(re.split(r' \|(?= |$)', row)) for row in rows}) == 1
  for path, content in CONTENT.items():
    page = pages[f'docs/results/{content["page"]}.md']
    anchor = path.removeprefix('configs/').removesuffix('.py')
    assert f'\n## {anchor}\n' in page
    assert f'(results/{content["page"]}.md#{anchor.replace("/", "")})' in table


# Arms of unequal spread over seeds that are not 0, 1, 2, in no order.
ACCURACY = {'wide': (0.61, 0.66, 0.79, 0.70), 'thin': (0.59, 0.52, 0.71, 0.58),
            'tall': (0.90, 0.10, 0.40, 0.35), 'flat': (0.20, 0.15, 0.55, 0.10)}
NLL = {'wide': (1.9, 1.7, 1.2, 1.4), 'thin': (1.1, 1.0, 1.3, 1.6),
       'tall': (3.0, 0.5, 1.5, 2.5), 'flat': (1.0, math.inf, 1.0, 1.0)}
SEEDS = (7, 3, 11, 4)
VALUES = {(arm, seed): dict(accuracy=ACCURACY[arm][i], nll=NLL[arm][i],
                            table='text', ok=True)
          for i, seed in enumerate(SEEDS) for arm in ACCURACY}
CLAIMS = {
    'plain': dict(better='wide', than='thin', metric='accuracy',
                  than_metric='accuracy', lower=False, above=(), margin=0.0,
                  kind='primary'),
    'margin': dict(better='wide', than='thin', metric='accuracy', margin=0.08),
    'margin met': dict(better='wide', than='thin', metric='accuracy',
                       margin=0.03),  # 2.3 standard errors above
    'margin missed': dict(better='wide', than='thin', metric='accuracy',
                          margin=0.155),  # 2.5 below
    'lower': dict(better='wide', than='thin', metric='nll', lower=True),
    'lower margin': dict(better='thin', than='wide', metric='nll', lower=True,
                         margin=-0.9),
    'above': dict(better='tall', than='flat', metric='accuracy',
                  above=('wide', 'thin')),
    'other metric': dict(better='wide', than='wide', metric='accuracy',
                         than_metric='nll')}


def test_summarize():
  found = results.summarize(VALUES, CLAIMS)
  assert found['seeds'] == list(SEEDS) and list(found['arms']) == list(ACCURACY)
  for arm in ACCURACY:
    numbers = found['arms'][arm]['accuracy']
    np.testing.assert_allclose(numbers['values'], ACCURACY[arm])
    np.testing.assert_allclose(numbers['mean'], np.mean(ACCURACY[arm]),
                               atol=1e-6)
    np.testing.assert_allclose(numbers['sd'], np.std(ACCURACY[arm], ddof=1),
                               atol=1e-6)
  assert set(found['arms']['wide']) == {'accuracy', 'nll'}
  assert set(found['arms']['flat']) == {'accuracy'}, 'infinite: left out'
  rows = {row['name']: row for row in found['claims']}
  x, y = np.array(list(ACCURACY.values())), np.array(list(NLL.values()))
  differences = {'plain': x[0] - x[1], 'margin': x[0] - x[1],
                 'margin met': x[0] - x[1], 'margin missed': x[0] - x[1],
                 'lower': y[0] - y[1], 'lower margin': y[1] - y[0],
                 'above': x[2] - x[3] - (x[0] - x[1]),
                 'other metric': x[0] - y[0]}
  for name, d in differences.items():
    np.testing.assert_allclose(rows[name]['difference'], d.mean(), atol=1e-6)
    np.testing.assert_allclose(rows[name]['se'], np.std(d, ddof=1) / 2,
                               atol=1e-6)
    assert rows[name]['n'] == 4
  assert [rows[name]['verdict'] for name in CLAIMS] == [
      'holds', 'undecided', 'holds', 'fails', 'undecided', 'holds',
      'undecided', 'fails']
  assert rows['plain'] == dict(
      name='plain', kind='primary', better='wide', than='thin',
      metric='accuracy', difference=0.09, se=rows['plain']['se'], n=4,
      verdict='holds')
  assert rows['above']['above'] == ['wide', 'thin']
  assert rows['other metric']['than_metric'] == 'nll'
  assert rows['lower margin']['margin'] == -0.9


@dataclasses.dataclass(frozen=True)
class Claim:
  """As an experiment may have them."""
  better: str
  than: str
  metric: str = 'accuracy'
  than_metric: str = ''
  lower: bool = False
  above: tuple[str, ...] = ()
  margin: float = 0.0
  kind: str = ''


def test_summarize_takes_dataclasses():
  claims = {name: Claim(**claim) for name, claim in CLAIMS.items()}
  assert results.summarize(VALUES, claims) == results.summarize(VALUES, CLAIMS)


def test_summarize_with_another_rule():
  seen = []
  def verdict(difference, se, n):
    seen.append((round(difference, 6), n))
    return 'fails' if se else 'holds'
  claims = {'a': CLAIMS['margin'], 'b': CLAIMS['lower margin']}
  found = results.summarize(VALUES, claims, verdict=verdict, rule='mine')
  assert found['rule'] == 'mine'
  assert seen == [(0.01, 4), (0.9 + 0.3, 4)]
  assert {row['verdict'] for row in found['claims']} == {'fails'}


def test_two_seeds_decide_nothing():
  two = {key: value for key, value in VALUES.items() if key[1] in (7, 11)}
  row, = results.summarize(two, {'a': dict(
      better='wide', than='flat', metric='accuracy')})['claims']
  assert row['difference'] > 2 * row['se'] and row['verdict'] == 'undecided'


@pytest.mark.parametrize('change,match', [
    (dict(better='wade'), "arm 'wade'.*wide, thin"),
    (dict(than='wade'), "arm 'wade'"),
    (dict(metric='acc'), "metric 'acc'.*accuracy, nll"),
    (dict(above=('wide', 'wade')), "arm 'wade'")])
def test_summarize_refuses_claims(change, match):
  with pytest.raises(ValueError, match=match):
    results.summarize(VALUES, {'a': CLAIMS['plain'] | change})


def test_summarize_refuses_a_missing_run():
  few = {key: value for key, value in VALUES.items() if key != ('thin', 11)}
  with pytest.raises(ValueError, match="'thin' has no run with seed 11"):
    results.summarize(few, {})


@pytest.fixture
def run(tmp_path):
  """`(root, workdir)` of a repository with one config, and a finished run."""
  config = tmp_path / 'configs/hinton2015kd/cifar10.py'
  config.parent.mkdir(parents=True)
  config.write_text('')
  workdir = tmp_path / 'runs/kd'
  workdir.mkdir(parents=True)
  (workdir / 'config.json').write_text(json.dumps(dict(
      paper='hinton2015kd', variant='small', experiment='compare',
      run=dict(data=dict(name='cifar10')))))
  (workdir / 'results.json').write_text(json.dumps(
      results.summarize(VALUES, CLAIMS)))
  return tmp_path, workdir


def _record(run, **kw):
  root, workdir = run
  return results.record('configs/hinton2015kd/cifar10.py:small', workdir,
                        root=root, **kw)


def test_record(run):
  root, workdir = run
  file = _record(run, cost=dict(seconds=7, devices='2 cores'),
                 changed=['run.data.data_dir', 'run.mesh.model', 'pool_dir'])
  assert file == root / 'configs/hinton2015kd/cifar10.json'
  content = json.loads(file.read_text())
  results.check(content)
  assert content['page'] == 'distillation'
  result = content['results']['small']
  assert result['command'] == (
      'python -m experiments.run --config '
      'configs/hinton2015kd/cifar10.py:small --workdir DIR')
  assert result | json.loads((workdir / 'results.json').read_text()) == result
  assert result['cost'] == dict(seconds=7, devices='2 cores')
  assert result['versions']['jax'] and len(result['config']) == 16

  # Notes and other variants stay; numbers are replaced.
  changed = copy.deepcopy(content)
  changed['page'] = 'merging'
  changed['results']['small'] |= dict(notes=['kept'], seeds=[1], arms={})
  changed['results']['paper'] = dict(command='c', rule='r', claims=[])
  file.write_text(json.dumps(changed))
  _record(run)
  after = json.loads(file.read_text())
  assert after['page'] == 'merging', 'a page is chosen by hand'
  assert after['results']['paper'] == dict(command='c', rule='r', claims=[])
  assert after['results']['small']['notes'] == ['kept']
  assert after['results']['small']['seeds'] == list(SEEDS)
  assert 'cost' not in after['results']['small']
  assert not list(file.parent.glob('.*')), 'no partial file stays'


@pytest.mark.parametrize('config,page', [
    (dict(experiment='merge'), 'merging'),
    (dict(experiment='transfer'), 'transfer'),
    (dict(experiment='decode', data=dict(domains={})), 'language'),
    (dict(experiment='compare', run=dict(data=dict(domains={}))), 'language'),
    (dict(experiment='compare', run=dict(data=dict(name=''))), 'distillation'),
    (dict(experiment='tabular'), 'distillation')])
def test_page_of_a_new_file(run, config, page):
  run[1].joinpath('config.json').write_text(json.dumps(
      dict(paper='hinton2015kd', variant='small') | config))
  assert json.loads(_record(run).read_text())['page'] == page


@pytest.mark.parametrize('change,match', [
    (dict(variant='tiny'), 'tiny'), (dict(paper='tung2019sp'), 'tung2019sp')])
def test_record_refuses_other_runs(run, change, match):
  file = run[1] / 'config.json'
  file.write_text(json.dumps(json.loads(file.read_text()) | change))
  with pytest.raises(ValueError, match=match):
    _record(run)


def test_record_refuses_changed_and_unfinished_runs(run):
  with pytest.raises(ValueError, match='drop --config.run.loop.steps'):
    _record(run, changed=['mesh.data', 'run.loop.steps'])
  (run[1] / 'results.json').unlink()
  with pytest.raises(ValueError, match='no results.json'):
    _record(run)
  assert not (run[0] / 'configs/hinton2015kd/cifar10.json').exists()


@pytest.mark.parametrize('where,value,match', [
    ('schema', 2, 'allowed: 1'), ('page', 'misc', 'allowed: distillation'),
    ('results.small.rule', 1, 'rule must be of type str'),
    ('results.small.rule', None, "lacks the key 'rule'"),
    ('results.small.speed', 1, "key 'speed'"),
    ('results.small.arms.thin.nll.values', [1.0], 'one value per seed'),
    ('results.small.arms.thin.nll.meen', 1.0, "key 'meen'"),
    ('results.small.claims.0.verdict', 'won', "'won'.*holds, undecided"),
    ('results.small.claims.0.kind', 'main', "'main'.*primary"),
    ('results.small.claims.0.n', 4.0, 'n must be of type int'),
    ('results.small.claims.0.lower', 1, 'lower must be of type bool'),
    ('results.small.claims.0.margin', True, 'margin must be of type float'),
    ('results.small.claims.0.against', 0.5, 'either than or against'),
    ('results.small.claims.0.than', None, 'either than or against'),
    ('results.small.claims.0.better', None, "lacks the key 'better'"),
    ('results.small.claims.0.above', ['wide'], 'two arms'),
    ('results.small.claims.1.name', 'plain', 'names must differ'),
    ('results.small.claims.1.kind', 'primary', 'one may be primary')])
def test_check_refuses(where, value, match):
  content = dict(schema=1, page='merging', results=dict(
      small=dict(command='c', **results.summarize(VALUES, CLAIMS))))
  results.check(content)
  *groups, key = where.split('.')
  node = content
  for group in groups:
    node = node[int(group) if isinstance(node, list) else group]
  if value is None:
    del node[key]
  else:
    node[key] = value
  with pytest.raises(ValueError, match=match):
    results.check(content)


def test_dumps_has_a_line_per_claim_and_metric():
  content = dict(schema=1, page='merging', results=dict(
      small=dict(command='c', **results.summarize(VALUES, CLAIMS))))
  text = results.dumps(content)
  assert json.loads(text) == content
  backwards = copy.deepcopy(content)
  result = backwards['results']['small']
  backwards['results']['small'] = dict(reversed(result.items())) | {
      'claims': [dict(reversed(claim.items())) for claim in result['claims']]}
  assert results.dumps(backwards) == text, 'the order is that of the schema'
  lines = [line.strip() for line in text.splitlines()]
  assert sum(line.startswith('{"name"') for line in lines) == len(CLAIMS)
  assert sum('"mean"' in line for line in lines) == 7


def test_rendered_rows():
  """A page shows margins, other metrics and kinds, and rounds."""
  result = results.summarize(VALUES, CLAIMS)
  rows = {row[0]: row[1:] for row in _pages._claim_rows(result, 2)}
  assert rows['`plain` (primary)'] == [
      '`accuracy`', '`wide` 0.69 ± 0.08', '`thin` 0.60 ± 0.08',
      '+0.09 ± 0.03', 'holds']
  assert rows['lower margin'] == [
      '`nll` ↓', '`thin` 1.25 ± 0.26', '`wide` 1.55 ± 0.31',
      '-0.30 ± 0.26 (margin -0.9)', 'holds']
  assert rows['`above`'][2] == '`flat` 0.25 ± 0.20, above `wide` - `thin`'
  assert rows['other metric'][2] == '`wide` 1.55 ± 0.31 (`nll`)'
