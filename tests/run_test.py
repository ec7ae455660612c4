"""The launcher: what it refuses, how it types, what a sweep says."""
from collections.abc import Mapping
import csv
import dataclasses
import json
import logging
import math
import os
import pathlib
import subprocess
import sys
from typing import Any, Literal, NamedTuple

import numpy as np
import pytest

from kt_jax import core
from kt_jax.launch import config as configs
from kt_jax.launch import main as run
from kt_jax.launch import report
from kt_jax.launch import sweep
from kt_jax.launch.override import override

ROOT = pathlib.Path(__file__).resolve().parent.parent
HERE = 'launcher_stubs'  # this module, under a name that a config can say
sys.modules[HERE] = sys.modules[__name__]
CALLS = []
REAL = '''
from configs import common
VARIANTS = {'small': '1 min', 'tiny': 'seconds'}
def get_config(variant: str = 'small'):
  c = common.train()
  c.model.kw = dict(width=8, depth=1)
  c.terms.task = common.term('cross_entropy')
  c.loop.steps = 2
  if variant not in VARIANTS:
    raise common.unknown_variant(variant, *VARIANTS)
  return c
'''
STUB = f'''
from ml_collections import config_dict
def get_config(variant: str = 'small'):
  if variant != 'small':
    raise ValueError(f'No variant {{variant!r}}; have small, paper.')
  return config_dict.ConfigDict(dict(experiment='{HERE}:stub'))
'''


@dataclasses.dataclass(frozen=True)
class Group:
  x: int = 1


@dataclasses.dataclass(frozen=True)
class Spec:
  experiment: str
  variant: str = ''
  seed: int = 0
  bonus: float = 0.0
  steps: int = 10
  name: str = 'a'
  on: bool = False
  shape: tuple[int, ...] = (1, 2)
  names: tuple[str, ...] = ('a', 'b')
  taps: str | tuple[str, ...] = ()
  weight: float | tuple[float, ...] = ()
  mode: Literal['one', 'two'] = 'one'
  nothing: int | None = None
  fail: str = ''
  kw: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  groups: Mapping[str, Group] = dataclasses.field(default_factory=dict)
  group: Group = Group()


@dataclasses.dataclass(frozen=True)
class Seedless:
  experiment: str
  variant: str = ''
  name: str = 'a'
  steps: int = 1
  seeds: tuple[int, ...] = (0, 1)


class Size(NamedTuple):
  name: str
  state_bytes: int
  step_flops: float
  steps: int


def stub(config, workdir):
  """Accuracy grows with the bonus; a finished run is not run again."""
  folder = pathlib.Path(workdir)
  if (folder / 'card.json').exists():
    return json.loads((folder / 'card.json').read_text())
  CALLS.append(folder.name)
  if config.fail == 'bug':
    raise KeyError('oops')
  if config.fail and config.seed == 1:
    raise {'user': core.UserError, 'value': ValueError, 'os': OSError,
           'interrupt': KeyboardInterrupt}[config.fail]('it broke\nhere')
  folder.mkdir(parents=True, exist_ok=True)
  metrics = dict(accuracy=0.5 + 0.1 * config.seed + config.bonus
                 + 0.01 * bool(config.bonus) * config.seed,
                 nll=1.0 - config.bonus)
  (folder / 'config.json').write_text(json.dumps(core.spec.to_json(config)))
  (folder / 'card.json').write_text(json.dumps(metrics))
  return metrics


def tabled(config, workdir):
  logging.getLogger('kt_jax').warning('Skipping %s', 'step 3')
  logging.getLogger('absl').warning('noise')
  return dict(table='| a |\n| b |\n', accuracy=0.25)


tabled.Spec = Seedless


def check(config):
  if config.name == 'wrong':
    raise core.UserError('No model wrong.')
  return [Size('net', 2**21, 1e6, config.steps)]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
  import jax
  monkeypatch.setenv('KT_JAX_CACHE', str(tmp_path / 'cache'))
  before = jax.config.jax_compilation_cache_dir
  CALLS.clear()
  yield
  jax.config.update('jax_compilation_cache_dir', before)


@pytest.fixture
def stub_file(tmp_path):
  (tmp_path / 'stub.py').write_text(STUB)
  return str(tmp_path / 'stub.py')


@pytest.fixture
def real_file(tmp_path):
  (tmp_path / 'real.py').write_text(REAL)
  return str(tmp_path / 'real.py')


@pytest.fixture
def launch(capsys):
  """`launch(*argv) -> (status, stdout, stderr)`."""
  def launch(*argv):
    status = run.main(list(map(str, argv)))
    return status, *capsys.readouterr()
  return launch


def refused(result):
  """The one line that a refusal is."""
  status, _, err = result
  assert status == 2
  assert err.startswith('error: ') and err.count('\n') == 1, err
  return err


def test_help_starts_with_examples_and_fits_a_screen(capsys):
  with pytest.raises(SystemExit) as e:
    run.main(['--help'])
  out = capsys.readouterr().out
  assert e.value.code == 0 and out.startswith('examples:')
  assert len(out.splitlines()) <= 48
  assert max(map(len, out.splitlines())) <= 82


def test_version(capsys):
  with pytest.raises(SystemExit) as e:
    run.main(['--version'])
  assert e.value.code == 0 and capsys.readouterr().out.startswith('kt_jax 0')


def test_list_and_version_do_without_jax():
  code = ('import sys; from kt_jax.launch import main; main.main(["--list"]); '
          'assert not {"jax", "flax", "numpy"} & sys.modules.keys()')
  done = subprocess.run([sys.executable, '-c', code], cwd=ROOT, text=True,
                        capture_output=True, check=False)
  assert done.returncode == 0, done.stderr
  assert 'roth2024fantastic  Fantastic Gains' in done.stdout
  assert 'configs/roth2024fantastic/digits.py:small' in done.stdout


def test_list_shows_a_broken_config_and_the_others(tmp_path, monkeypatch,
                                                   launch):
  (tmp_path / 'configs/mine').mkdir(parents=True)
  (tmp_path / 'configs/mine/bad.py').write_text('1 / 0\n')
  (tmp_path / 'configs/mine/good.py').write_text(STUB + 'VARIANTS = '
                                                 '{"small": "1 min"}\n')
  (tmp_path / 'configs/mine/plain.py').write_text(STUB)
  monkeypatch.setattr(configs, 'ROOT', tmp_path)
  status, out, _ = launch('--list')
  assert status == 0
  lines = [line.split() for line in out.splitlines()]
  assert lines[0] == ['mine']
  assert lines[1][:2] == ['configs/mine/bad.py', 'broken:']
  assert 'bad.py:1: ZeroDivisionError' in out
  assert lines[2] == ['configs/mine/good.py:small', '1', 'min', '(default)']
  assert lines[3] == ['configs/mine/plain.py', 'no', 'VARIANTS', 'in', 'it']


@pytest.mark.parametrize('argv, said', [
    (['--workdir', 'x'], '--config is missing; --list'),
    (['--config', 'STUB'], '--workdir is missing'),
    (['--config', 'STUB', '--wrkdir', 'x'], "Did you mean '--workdir'?"),
    (['--config', 'STUB', '--processes', 'x'], 'invalid int'),
    (['--config', 'configs/roth2024fantastic/digit.py', '--check'],
     "Did you mean 'configs/roth2024fantastic/digits.py'?"),
    (['--config', 'STUB:papr', '--check'], "Did you mean 'paper'?"),
    (['--config', 'STUB', '--check', '--config.stesp=1'],
     "Did you mean 'steps'?"),
    (['--config', 'STUB', '--check', '--config.group.y=1'],
     "Did you mean 'group.x'?"),
    (['--config', 'STUB', '--check', '--config.grp.x=1'],
     "No config key 'grp.x'. Did you mean 'group'?"),
    (['--config', 'STUB', '--check', '--config.groups.a.y=1'],
     "Did you mean 'groups.a.x'?"),
    (['--config', 'STUB', '--check', '--config.steps.x=1'], 'steps'),
    (['--config', 'STUB', '--check', '--config.=1'], "No config key ''"),
    (['--config', 'STUB', '--check', '--config.kw.=1'], 'a name is missing'),
    (['--config', 'STUB', '--check', '--config.steps=1', '--config.steps.x=1'],
     'config.steps is set as a whole'),
    (['--config', 'STUB', '--check', '--config.mode=three'],
     "No value of config.mode 'three'"),
    (['--config', 'STUB', '--check', '--config.group=1'],
     'is a group; set one of its keys: group.x'),
    (['--config', 'STUB', '--check', '--config.steps'], 'needs a value'),
    (['--config', 'STUB', '--check', '--config.steps=ten'],
     "config.steps must be an integer, got 'ten'"),
    (['--config', 'STUB', '--check', '--config.name=wrong'], 'No model wrong'),
    (['--config', 'STUB', '--check', '--config.experiment=trian'],
     "Did you mean 'train'?"),
    (['--config', 'STUB', '--check', '--config.experiment=merge_apply'],
     "No experiment 'merge_apply'. Did you mean 'merge'?"),
    (['--config', 'STUB', '--check', f'--config.experiment={HERE}:stubb'],
     "Did you mean 'stub'?"),
    (['--config', 'STUB', '--check', '--config.experiment=nowhere:f'],
     "No module named 'nowhere'"),
    (['--config', 'STUB', '--workdir', 'STUB'], 'is a file'),
    (['--config', 'STUB', '--workdir', 'x', '--baseline', 'a'], 'need --arm'),
    (['--config', 'STUB', '--check', '--arm', 'a', '--baseline', 'b'],
     "No arm (--baseline) 'b'"),
    (['--config', 'STUB', '--check', '--arm', 'a', '--arm', 'a'],
     'given twice'),
    (['--config', 'STUB', '--check', '--arm', '../a'], 'cannot name a folder'),
    (['--config', 'STUB', '--check', '--arm', 'a:bonus'], 'not key=value'),
    (['--config', 'STUB', '--check', '--arm', 'a:seed=1'], '--seeds'),
    (['--config', 'STUB', '--check', '--arm', 'a:bnus=1'],
     "Did you mean 'bonus'?"),
    (['--config', 'STUB', '--check', '--seeds', '0,a'], 'numbers like 0,1,2'),
    (['--config', 'STUB', '--check', '--seeds', '0,0'], 'twice'),
    (['--config', 'STUB', '--check', '--coordinator', 'h:1'],
     '--processes N and --process I'),
])
def test_refuses_in_one_line(argv, said, launch, stub_file):
  assert said in refused(launch(*(a.replace('STUB', stub_file) for a in argv)))
  assert not CALLS


@pytest.mark.parametrize('argv, said', [
    (['--config', 'REAL:smal'], "Did you mean 'small'?"),
    (['--config.terms.task.loss=cross_entrop'], "Did you mean 'cross_entropy'"),
    (['--config.terms.task.losss=kd'], "Did you mean 'terms.task.loss'?"),
    (['--config.terms.soft.weight=1'], 'config.terms.soft needs loss'),
    (['--config.model.name=mlpp'], "Did you mean 'mlp'?"),
    (['--config.model.kw.widht=3'], 'widht'),
    (['--config.data.name=digit'], "Did you mean 'digits'?"),
    (['--config.optimizer.name=adm'], "Did you mean 'adam'?"),
])
def test_names_in_a_config_fail_at_the_door(argv, said, launch, real_file,
                                            tmp_path):
  if argv[0] != '--config':
    argv = ['--config', 'REAL', *argv]
  argv = [a.replace('REAL', real_file) for a in argv]
  assert said in refused(launch(*argv, '--workdir', tmp_path / 'run'))
  assert not (tmp_path / 'run').exists()


@pytest.mark.parametrize('text, said', [
    ('def get_config(v="a"):\n  return 1 / 0\n',
     'bad.py:2: ZeroDivisionError: division by zero'),
    ('def get_config(v="a")\n', 'bad.py:1: SyntaxError'),
    ('import nowhere\n', "bad.py:1: ModuleNotFoundError"),
    ('x = 1\n', 'has no get_config'),
    ('def get_config(v):\n  return 1\n', 'has no default variant'),
    ('def get_config(v="a"):\n  return {}\n', 'must return a ConfigDict'),
])
def test_a_config_that_raises_is_one_line(text, said, launch, tmp_path):
  (tmp_path / 'bad.py').write_text(text)
  assert said in refused(launch('--config', tmp_path / 'bad.py', '--check'))


def test_load_sets_the_variant(stub_file):
  for spec in (stub_file, stub_file + ':small'):
    assert configs.load(spec).variant == 'small'


@pytest.mark.parametrize('key, text, value', [
    ('steps', '7', 7), ('steps', '-7', -7), ('bonus', '1', 1.0),
    ('bonus', '1e-3', 1e-3), ('name', 'b', 'b'), ('name', '1', '1'),
    ('name', '', ''), ('name', "'x y'", 'x y'), ('name', 'true', 'true'),
    ('name', 'train[:10%]', 'train[:10%]'), ('on', 'true', True),
    ('on', 'False', False), ('shape', '3,4', (3, 4)), ('shape', '[3]', (3,)),
    ('shape', '3', (3,)), ('shape', '()', ()), ('names', 'c,d', ('c', 'd')),
    ('names', 'c', ('c',)), ('names', 'true', ('true',)),
    ('taps', 'a/0', 'a/0'), ('taps', 'a,b', ('a', 'b')),
    ('weight', '2', 2.0), ('weight', '1,2', (1.0, 2.0)),
    ('mode', 'two', 'two'), ('nothing', '2', 2), ('nothing', 'None', None),
    ('groups.new.x', '3', 3), ('group.x', '3', 3),
    ('kw.width', '32', 32), ('kw.flip.p', '0.5', 0.5), ('kw.a', 'b', 'b'),
    ('kw.a', 'false', False), ('kw', "{'a': 1}", {'a': 1}),
])
def test_overrides_are_typed_by_what_was_there(key, text, value, stub_file):
  new = core.spec.to_dict(override(configs.load(stub_file), [(key, text)]))
  for name in key.split('.'):
    new = new[name]
  assert new == value and type(new) is type(value)


@pytest.mark.parametrize('key, text', [
    ('steps', '1.5'), ('steps', 'True'), ('bonus', 'x'), ('bonus', 'True'),
    ('on', '1'), ('on', 'yes'), ('shape', 'a,b'), ('shape', '{}'),
    ('shape', '(1'), ('shape', '1.5'), ('nothing', 'x'), ('weight', 'x'),
    ('group', '3'), ('groups.a', '3'), ('kw', 'x')])
def test_overrides_of_another_type_are_refused(key, text, stub_file):
  with pytest.raises(core.UserError, match=f'config.{key}'):
    override(configs.load(stub_file), [(key, text)])


def test_new_entries_have_the_keys_that_entries_have(real_file):
  from kt_jax import train
  spec = override(configs.load(real_file), [
      ('terms.soft.loss', 'kd'), ('terms.soft.kw.temperature', '4'),
      ('terms.soft.kw.temperature', '2.5')])
  assert spec.terms['soft'] == train.LossTerm('kd', kw=dict(temperature=2.5))
  with pytest.raises(core.UserError, match="mean 'terms.soft.weight'"):
    override(spec, [('terms.soft.wieght', '1')])


def test_both_spellings_of_an_override(launch, stub_file, tmp_path):
  for i, argv in enumerate((['--config.bonus=-0.1'],
                            ['--config.bonus', '-0.1'])):
    status, out, err = launch('--config', stub_file, *argv, '--workdir',
                              tmp_path / str(i))
    assert (status, err) == (0, '')
    assert out.splitlines()[0] == 'accuracy 0.4  nll 1.1'
    assert out.splitlines()[1] == f'workdir  {tmp_path / str(i)}'


def test_a_table_and_warnings_of_kt_jax_are_shown(launch, stub_file, tmp_path):
  _, out, err = launch('--config', stub_file, '--workdir', tmp_path / 'r',
                       f'--config.experiment={HERE}:tabled')
  assert out.startswith('| a |\n| b |\naccuracy 0.25\nworkdir')
  assert err == 'warning: Skipping step 3\n'


def test_check_says_what_a_run_takes_and_writes_nothing(
    launch, stub_file, tmp_path):
  before = sorted(tmp_path.iterdir())
  status, out, _ = launch('--config', stub_file, '--check', '--workdir',
                          tmp_path / 'r', '--arm', 'a', '--arm', 'b:steps=20')
  assert status == 0 and not CALLS
  lines = [line.split('  ') for line in out.splitlines()]
  lines = [[c.strip() for c in line if c] for line in lines]
  assert lines[0] == ['arm', 'name', 'state memory', 'FLOPs per step', 'steps',
                      'min. time']
  assert lines[1][:5] == ['a', 'net', '2.0 MiB', '1 M', '10']
  assert lines[2][:5] == ['b', 'net', '2.0 MiB', '1 M', '20']
  assert out.splitlines()[-1].startswith('min. time, ')
  after = [p for p in sorted(tmp_path.iterdir()) if p.name != 'cache']
  assert after == before


def test_check_of_a_real_config(launch, real_file):
  status, out, _ = launch('--config', real_file, '--check')
  assert status == 0 and 'mlp' in out and 'peak memory per step' in out


@pytest.mark.parametrize('fail, status, said', [
    ('user', 2, 'error: it broke here\n'),
    ('value', 2, 'error: it broke here (at '),
    ('os', 2, 'error: it broke here (at '),
    ('bug', 1, "internal error: KeyError at "),
    ('interrupt', 130, '')])
def test_exit_status(fail, status, said, launch, stub_file, tmp_path):
  got, _, err = launch('--config', stub_file, '--workdir', tmp_path / 'r',
                       '--config.seed=1', f'--config.fail={fail}')
  assert got == status and said in err
  assert ('Traceback' in err) == (fail == 'bug')
  if fail != 'bug':
    assert err.count('\n') == (fail != 'interrupt')
  else:
    assert 'run_test.py' in err.splitlines()[-1]


def test_debug_shows_the_traceback(launch, stub_file, tmp_path):
  status, _, err = launch('--config', stub_file, '--workdir', tmp_path / 'r',
                          '--config.seed=1', '--config.fail=user', '--debug')
  assert status == 2 and 'Traceback' in err
  assert err.splitlines()[-1] == 'error: it broke here'


def test_a_workdir_of_another_config_is_refused(launch, stub_file, tmp_path):
  argv = ['--config', stub_file, '--workdir', tmp_path / 'r']
  assert launch(*argv)[0] == 0
  err = refused(launch(*argv, '--config.steps=11'))
  assert 'steps was 10, now 11' in err


def test_split_respects_brackets_and_quotes():
  assert sweep.split('a=1,b=(1,2),c="x,y",d=[{1: 2, 3: 4}, 5]') == [
      'a=1', 'b=(1,2)', 'c="x,y"', 'd=[{1: 2, 3: 4}, 5]']
  assert sweep.split('') == []


def test_sweep_table(launch, stub_file, tmp_path):
  status, out, err = launch(
      '--config', stub_file, '--workdir', tmp_path / 's', '--seeds', '0,1,2',
      '--arm', 'base', '--arm', 'more:bonus=0.2,shape=(3,4)', '--baseline',
      'base')
  assert (status, err) == (0, '')
  assert CALLS == ['base-0', 'more-0', 'base-1', 'more-1', 'base-2', 'more-2']
  with open(tmp_path / 's/sweep.csv', encoding='utf8') as f:
    rows = {(r['arm'], r['metric']): r for r in csv.DictReader(f)}
  more = rows['more', 'accuracy']
  # 0.7, 0.81, 0.92 against 0.5, 0.6, 0.7: differences 0.2, 0.21, 0.22.
  assert float(more['mean']) == pytest.approx(0.81)
  assert float(more['sd']) == pytest.approx(0.11)
  assert float(more['difference']) == pytest.approx(0.21)
  assert float(more['se']) == pytest.approx(0.01 / math.sqrt(3))
  assert more['n'] == '3' and more['verdict'] == 'holds'
  assert rows['more', 'nll']['verdict'] == 'holds'  # lower is better
  assert rows['base', 'accuracy']['difference'] == ''
  text = (tmp_path / 's/sweep.md').read_text()
  assert text in out and '| more | accuracy | 0.81 ' in text
  shape = json.loads((tmp_path / 's/more-2/config.json').read_text())['shape']
  assert shape == [3, 4]

  # The same command runs nothing again; a further seed runs alone.
  CALLS.clear()
  argv = ['--config', stub_file, '--workdir', tmp_path / 's', '--arm', 'base',
          '--arm', 'more:bonus=0.2,shape=(3,4)', '--baseline', 'base']
  assert launch(*argv, '--seeds', '0,1,2')[0] == 0 and not CALLS
  assert (tmp_path / 's/sweep.md').read_text() == text
  assert launch(*argv, '--seeds', '0,1,2,3')[0] == 0
  assert CALLS == ['base-3', 'more-3']
  # Another config under the same name is refused before anything runs.
  argv[argv.index('more:bonus=0.2,shape=(3,4)')] = 'more:bonus=0.3'
  CALLS.clear()
  assert 'another config' in refused(launch(*argv, '--seeds', '7,0'))
  assert not CALLS


def test_sweep_stops_at_a_failed_run_or_keeps_going(launch, stub_file,
                                                    tmp_path):
  argv = ['--config', stub_file, '--workdir', tmp_path / 's', '--seeds',
          '0,1,2', '--arm', 'a', '--arm', 'b:fail=user']
  err = refused(launch(*argv))
  assert err.startswith('error: run b-1 (3 of 6 done): it broke here')
  assert CALLS == ['a-0', 'b-0', 'a-1', 'b-1']
  assert not (tmp_path / 's/sweep.md').exists()
  CALLS.clear()
  status, out, err = launch(*argv, '--keep_going')
  assert status == 2 and CALLS == ['b-1', 'a-2', 'b-2']
  assert err.splitlines()[-1] == 'error: 1 of 6 runs failed: b-1.'
  assert '| b   | accuracy | 0.6  ' in out


def test_every_arm_is_checked_before_the_first_runs(launch, stub_file,
                                                    tmp_path):
  err = refused(launch('--config', stub_file, '--workdir', tmp_path / 's',
                       '--arm', 'a', '--arm', 'b:name=wrong'))
  assert 'No model wrong' in err and not CALLS


def test_seeds_need_a_seed(launch, tmp_path):
  (tmp_path / 'c.py').write_text(
      'from ml_collections import config_dict\n'
      'def get_config(v="a"):\n  return config_dict.ConfigDict('
      f'dict(experiment="{HERE}:tabled"))\n')
  argv = ['--config', tmp_path / 'c.py', '--check']
  assert 'config.seeds' in refused(launch(*argv, '--seeds', '0,1'))
  assert launch(*argv, '--arm', 'a')[0] == 0


@pytest.mark.parametrize('a, b, verdict', [
    ([1, 1, 1], [2, 2, 2], 'holds'), ([2, 2, 2], [1, 1, 1], 'fails'),
    ([1, 1, 1], [1, 1, 1], 'undecided'), ([1, 1, 1], [2, 0, 3], 'undecided'),
    ([1, 1], [2, 2], 'n<3'), ([1, 1, 1], [2, 2, math.nan], 'undecided'),
    ([1, 1, 1], [2, 2, math.inf], 'undecided')])
def test_verdicts(a, b, verdict):
  found = {('a', i): dict(accuracy=x) for i, x in enumerate(a)}
  found |= {('b', i): dict(accuracy=x) for i, x in enumerate(b)}
  _, row = report.compare(found, 'a')
  assert row.verdict == verdict
  np.testing.assert_equal(row.mean, np.mean(b))
  if all(map(math.isfinite, b)):
    assert row.sd == pytest.approx(np.std(b, ddof=1))


def test_differences_are_paired_by_the_seeds_of_both():
  found = {('a', s): dict(x=float(s)) for s in (0, 1, 2)}
  found |= {('b', s): dict(x=s + 1.0) for s in (1, 2, 3)}
  _, row = report.compare(found, 'a')
  assert (row.difference, row.se, row.n, row.verdict) == (1.0, 0.0, 3, 'n<3')


def test_a_process_of_its_own(real_file, tmp_path):
  """stderr is quiet; what went wrong is one line and status 2."""
  command = [sys.executable, '-m', 'experiments.run', '--config', real_file]
  env = os.environ | {'KT_JAX_CACHE': str(tmp_path / 'cache')}
  go = lambda *argv: subprocess.run(
      [*command, *argv], cwd=ROOT, env=env, text=True, capture_output=True,
      check=False)
  done = go('--workdir', str(tmp_path / 'r'))
  assert done.returncode == 0, done.stderr
  assert 'accuracy' in done.stdout
  assert 'rror' not in done.stderr and 'arning' not in done.stderr
  assert refused((lambda d: (d.returncode, d.stdout, d.stderr))(
      go('--workdir', str(tmp_path / 'r'), '--config.loop.steps=3')))


OWN = """
import dataclasses
import jax
@dataclasses.dataclass(frozen=True)
class Spec:
  experiment: str
  answer: float
  variant: str = ''
def margin(student_logits, labels, *, by=1.0):
  return jax.nn.relu(by - student_logits[..., 0])
def run(config, workdir):
  return dict(answer=config.answer)
"""


def test_an_installed_command_elsewhere(tmp_path):
  """Built as setup.py says, run in a folder with modules of the user's own."""
  pytest.importorskip('setuptools')
  done = subprocess.run(
      [sys.executable, 'setup.py', '-q', 'build_py', '--build-lib',
       str(tmp_path / 'lib')], cwd=ROOT, text=True, capture_output=True,
      env=os.environ | {'PYTHONDONTWRITEBYTECODE': '1'}, check=False)
  assert done.returncode == 0, done.stderr
  here = tmp_path / 'here'
  here.mkdir()
  (here / 'own.py').write_text(OWN)
  (here / 'mine.py').write_text(
      REAL.replace("term('cross_entropy')", "term('own:margin', by=0.5)")
      .replace('VARIANTS =', 'from experiments import EXPERIMENTS\nVARIANTS ='))
  (tmp_path / 'kt-run').write_text(
      'import sys\nfrom kt_jax.launch import main\n'
      f'assert main.__file__.startswith({str(tmp_path)!r})\n'
      'sys.exit(main.main())\n')
  go = lambda *argv: subprocess.run(
      [sys.executable, tmp_path / 'kt-run', *argv], cwd=here, text=True,
      env=os.environ | {'PYTHONPATH': str(tmp_path / 'lib')},
      capture_output=True, check=False)
  done = go('--list')
  assert 'configs/roth2024fantastic/digits.py:small' in done.stdout, done.stderr
  done = go('--config', 'mine.py', '--check')
  assert 'mlp' in done.stdout, done.stderr
  done = go('--config', 'configs/roth2024fantastic/digits.py:tiny', '--check')
  assert 'transfer to mlp' in done.stdout, done.stderr


def test_names_of_the_current_folder(tmp_path, monkeypatch, launch):
  monkeypatch.setattr(sys, 'path', [p for p in sys.path if p])
  monkeypatch.chdir(tmp_path)
  (tmp_path / 'own.py').write_text(OWN)
  (tmp_path / 'json.py').write_text('1 / 0')  # does not hide the library's
  (tmp_path / 'mine.py').write_text(
      'from ml_collections import config_dict\ndef get_config():\n'
      '  return config_dict.ConfigDict('
      'dict(experiment="own:run", answer=4.5))\n')
  status, out, err = launch('--config', 'mine.py', '--workdir', 'w')
  assert (status, err) == (0, '') and out.startswith('answer 4.5\n')
