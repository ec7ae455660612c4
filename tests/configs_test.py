"""Every config loads and traces its tiny variant; one a protocol runs it.

With KT_JAX_ALL_CONFIGS=1 all of them run.
"""
import dataclasses
import os

import pytest

from kt_jax.launch import config as configs
from kt_jax.launch import main as launcher

FILES = configs.files()
NAMES = [f.relative_to(configs.ROOT).as_posix() for f in FILES]
RUNS = ['configs/basic/pretrain.py', 'configs/roth2024fantastic/digits.py',
        'configs/zhao2023limits/tabular.py', 'configs/mitchell2023eft/facts.py']
if os.environ.get('KT_JAX_ALL_CONFIGS'):
  RUNS = NAMES


@pytest.fixture(scope='module')
def checkpoint_dir(tmp_path_factory):
  """A finished tiny run, for the configs that start from one."""
  path = tmp_path_factory.mktemp('pretrain')
  status = launcher.main(['--config', 'configs/basic/pretrain.py:tiny',
                          '--workdir', str(path)])
  assert status == 0
  return str(path)


def _tiny(name, checkpoint_dir):
  """The spec of the tiny variant, and the flags that it needs."""
  spec, flags = configs.load(f'{name}:tiny'), []
  for key in ('init_from', 'checkpoint'):
    default = 'runs/pretrain' if key == 'init_from' else ''
    if getattr(spec, key, None) == default:
      spec = dataclasses.replace(spec, **{key: checkpoint_dir})
      flags.append(f'--config.{key}={checkpoint_dir}')
  return spec, flags


@pytest.mark.parametrize('name', NAMES)
def test_loads_and_traces(name, checkpoint_dir):
  module = configs._import(configs.ROOT / name)
  assert name in module.__doc__, 'the docstring gives the command'
  assert 'tiny' in module.VARIANTS
  for variant in module.VARIANTS:
    assert configs.load(f'{name}:{variant}').variant == variant
  with pytest.raises(ValueError, match='No variant'):
    module.get_config('nonsense')
  spec, _ = _tiny(name, checkpoint_dir)
  folder = name.split('/')[1]
  assert spec.paper == ('' if folder in ('basic', 'bench') else folder)
  configs.find(spec.experiment).check(spec)


@pytest.mark.parametrize('name', RUNS)
def test_runs(name, checkpoint_dir, tmp_path, capsys):
  argv = ['--config', f'{name}:tiny', '--workdir', str(tmp_path / 'run')]
  argv += _tiny(name, checkpoint_dir)[1]
  assert launcher.main(argv) == 0
  first = capsys.readouterr().out
  assert (tmp_path / 'run' / 'config.json').exists()
  assert launcher.main(argv) == 0, 'a finished run is not run again'
  again = capsys.readouterr().out
  assert first.splitlines()[-3:] == again.splitlines()[-3:]


def test_finetune_and_evaluate(checkpoint_dir, tmp_path, capsys):
  """Part of the parameters loaded, part of them trained; evaluation agrees."""
  import numpy as np

  from kt_jax import checkpoint
  argv = ['--config', 'configs/basic/finetune.py:tiny',
          f'--config.init_from={checkpoint_dir}']
  tuned = tmp_path / 'tuned'
  assert launcher.main([*argv, '--workdir', str(tuned), '--config.trainable',
                        '^head/', '--config.init.load', '^(?!head/)']) == 0
  before = checkpoint.read(checkpoint_dir).model['params']
  after = checkpoint.read(tuned).model['params']
  for name in before:
    same = np.array_equal(before[name], after[name])
    assert same != name.startswith('head/'), name

  assert launcher.main([
      '--config', 'configs/basic/evaluate.py:tiny', '--workdir',
      str(tmp_path / 'evaluated'), f'--config.checkpoint={tuned}']) == 0
  read = lambda path: np.load(path / 'predictions.npz')['logits']
  np.testing.assert_allclose(
      read(tuned), read(tmp_path / 'evaluated'), rtol=1e-5, atol=1e-5)
  card = checkpoint.read_json(tuned / 'card.json')
  assert card['parents'][0]['digest'] == checkpoint.digest(
      checkpoint.read(checkpoint_dir).model)
