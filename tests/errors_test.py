"""Bad input through the one command: one clear line and exit status 2.

What functions refuse stands in their own tests; here is what a user sees.
"""
import json
import pathlib
import shutil

import pytest

from kt_jax.launch import main as launcher

GOLDEN = pathlib.Path(__file__).parent / 'golden' / 'pretrained'
PRETRAIN = ['--config', 'configs/basic/pretrain.py:tiny']
FINETUNE = ['--config', 'configs/basic/finetune.py:tiny']
EVALUATE = ['--config', 'configs/basic/evaluate.py:tiny']
DISTILL = ['--config', 'configs/hinton2015kd/cifar10.py:tiny']
SIMILAR = ['--config', 'configs/tung2019sp/cifar10.py:tiny']
MERGE = ['--config', 'configs/ilharco2022task/negation.py:tiny']
TRANSFER = ['--config', 'configs/roth2024fantastic/digits.py:tiny']


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
  """The workdir of a finished tiny run."""
  path = tmp_path_factory.mktemp('trained')
  assert launcher.main([*PRETRAIN, '--workdir', str(path)]) == 0
  return path


def copy_of(trained, tmp_path):
  return pathlib.Path(shutil.copytree(trained, tmp_path / 'copy'))


def flip_bit(run):
  """In the largest file of every checkpoint's model."""
  for model in run.glob('checkpoints/*/model'):
    path = max((p for p in model.rglob('*') if p.is_file()
                and p.name not in ('_METADATA', '_sharding')),
               key=lambda p: p.stat().st_size)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
  return [f'--config.checkpoint={run}'], 'damaged'


def truncate(run):
  for path in run.rglob('*'):
    if path.is_file() and '/d/' in str(path):
      path.write_bytes(path.read_bytes()[:10])
  return [f'--config.checkpoint={run}'], 'damaged'


def no_checkpoints(run):
  shutil.rmtree(run / 'checkpoints')
  return [f'--config.checkpoint={run}'], 'No checkpoints under'


def unfinished(run):
  for step in (run / 'checkpoints').iterdir():
    for mark in ('_CHECKPOINT_METADATA', 'commit_success.txt'):
      (step / mark).unlink(missing_ok=True)
  return [f'--config.checkpoint={run}'], 'No finished checkpoint'


def no_such_step(run):
  return [f'--config.checkpoint={run}', '--config.step=7'], 'step 7'


def broken_card(run):
  (run / 'card.json').write_text('{"model": ')
  return [f'--config.checkpoint={run}'], 'card.json'


def other_card(run):
  (run / 'card.json').write_text('{}')
  return [f'--config.checkpoint={run}'], 'not a card'


def other_sizes(run):
  card = json.loads((run / 'card.json').read_text())
  card['model']['kw']['widths'] = [4, 8, 16]
  (run / 'card.json').write_text(json.dumps(card))
  return [f'--config.checkpoint={run}'], 'do not fit'


def not_a_run(run):
  shutil.rmtree(run)
  run.mkdir()
  return [f'--config.checkpoint={run}'], 'neither'


@pytest.mark.parametrize('spoil', [
    flip_bit, truncate, no_checkpoints, unfinished, no_such_step, broken_card,
    other_card, other_sizes, not_a_run], ids=lambda f: f.__name__)
def test_checkpoint_of_a_run(spoil, trained, tmp_path, capsys):
  argv, says = spoil(copy_of(trained, tmp_path))
  refused([*EVALUATE, '--workdir', str(tmp_path / 'w'), *argv], says, capsys)
  assert not (tmp_path / 'w' / 'predictions.npz').exists()


def pickled(folder):
  (folder / 'model.safetensors').rename(folder / 'pytorch_model.bin')
  return 'safetensors'


def cut_short(folder):
  path = folder / 'model.safetensors'
  path.write_bytes(path.read_bytes()[:-100])
  return 'model.safetensors'


def huge_header(folder):
  (folder / 'model.safetensors').write_bytes(b'\xff' * 8 + b'{}')
  return 'model.safetensors'


def unknown_architecture(folder):
  config = json.loads((folder / 'config.json').read_text())
  config |= dict(model_type='resnett', architectures=['ResNettModel'])
  (folder / 'config.json').write_text(json.dumps(config))
  return 'resnet'


def no_weights(folder):
  (folder / 'model.safetensors').unlink()
  return 'safetensors'


def other_classes(folder):
  return 'has classes 5'


@pytest.mark.parametrize('spoil', [
    pickled, cut_short, huge_header, unknown_architecture, no_weights,
    other_classes], ids=lambda f: f.__name__)
def test_imported_weights(spoil, tmp_path, capsys):
  name = sorted(p.parent.name for p in GOLDEN.glob('*/model.safetensors')
                if 'resnet' in p.parent.name)[0]
  folder = pathlib.Path(shutil.copytree(GOLDEN / name, tmp_path / 'hf'))
  says = spoil(folder)
  refused([*EVALUATE, '--workdir', str(tmp_path / 'w'),
           f'--config.checkpoint={folder}'], says, capsys)


@pytest.mark.parametrize('argv, says', [
    ([*EVALUATE], 'checkpoint is empty'),
    ([*EVALUATE, '--config.checkpoint=/nowhere'], '/nowhere'),
    ([*FINETUNE], 'runs/pretrain'),
    ([*FINETUNE, '--config.init_from=/nowhere'], '/nowhere'),
    ([*FINETUNE, '--config.init_from=TRAINED', '--config.trainable=^haed'],
     'matches no parameter'),
    ([*FINETUNE, '--config.init_from=TRAINED',
      '--config.model.kw.widths=(4,8,8)'], 'init.load'),
    ([*PRETRAIN, '--config.data.name=imagenet2012', '--config.data.size=32'],
     'imagenet2012'),
    ([*PRETRAIN, '--config.data.name=cifar11'], 'cifar10,'),
    ([*PRETRAIN, '--config.data.train=trian'], "'train'"),
    ([*PRETRAIN, '--config.data.subset=1e9'], 'subset'),
    ([*PRETRAIN, '--config.batch.augment.flipp.p=1'], "'flip'"),
    ([*PRETRAIN, '--config.batch.size=7', '--config.mesh.data=8'], '7'),
    ([*PRETRAIN, '--config.batch.size=0'], 'batch'),
    ([*PRETRAIN, '--config.optimizer.schedule.name=cosine'], 'cosine'),
    ([*PRETRAIN, '--config.optimizer.kw.momentm=1'], "'momentum'"),
    ([*PRETRAIN, '--config.model.kw.depth=9'], '9'),
    ([*PRETRAIN, '--config.mesh.model=3'], 'mesh'),
    ([*PRETRAIN, "--config.sharding=(('head/kernel',(None,'modle')),)"],
     "'model'"),
    ([*PRETRAIN, '--config.train.compute_dtype=float17'], 'float17'),
    ([*PRETRAIN, '--config.terms.task.kw.smooth=1'], 'smooth'),
    ([*TRANSFER, '--config.pool.mlp.changes.model.name=mpl'], "'mlp'"),
    ([*TRANSFER, '--config.pool.mlp.changes.lop.steps=3'], "'loop'"),
    ([*TRANSFER, '--config.pool.mlp.checkpoint=/nowhere'], '/nowhere'),
    ([*TRANSFER, '--config.methods.kl.weights.dpp=1'], "'dp'"),
    ([*TRANSFER, '--config.batch.mixup=1'], 'mixup'),
    ([*TRANSFER, '--config.multi.method=dpp'], "'dp'"),
    ([*TRANSFER, '--config.multi.teachers=9'], 'from 1 to 2'),
    ([*DISTILL, '--config.run.terms.kd.loss=kdd'], "'kd'"),
    ([*DISTILL, '--config.run.terms.kd.teacher=teachr'], "'teacher'"),
    ([*DISTILL, '--config.run.terms.kd.kw.temprature=2'], "'temperature'"),
    ([*DISTILL, '--config.run.teachers.teacher.init_from=/nowhere'],
     '/nowhere'),
    ([*DISTILL, '--config.run.teachers.teacher.init_from=TRAINED'],
     'Set data.size'),
    ([*DISTILL, '--config.run.teachers.teacher.classes=(1,2)'], 'classes'),
    ([*DISTILL, '--config.run.pool.teacher.changes.modle.name=mlp'],
     'config.pool.teacher.changes'),
    ([*DISTILL, '--config.run.cache.views=-1'], 'views'),
    ([*DISTILL, '--config.run.modules.m.name=Projectr'], 'no arm uses it'),
    ([*DISTILL, '--config.arms.kd.terms=task,dkd'], "'kd'"),
    ([*DISTILL, '--config.claims.kd.than=labels'], "'label'"),
    ([*SIMILAR, '--config.run.terms.sp.taps=blocks/9'], "'blocks/2'"),
    ([*SIMILAR, '--config.run.terms.sp.teacher_taps=stage/2'], "'stages/2'"),
    ([*SIMILAR, '--config.run.terms.sp.loss=hint'], 'shape'),
    ([*SIMILAR, '--config.run.terms.sp.module=projector'], 'module'),
    ([*PRETRAIN, '--config.terms.task.teacher=t'], "network (config.terms"),
    ([*MERGE, '--config.arms.negated.op=task_aritmetic'], "'task_arithmetic'"),
    ([*MERGE, '--config.arms.negated.settings.scal=2'], "'scale'"),
    ([*MERGE, '--config.arms.negated.experts=turnd'], "'turned'"),
    ([*MERGE, '--config.tasks.turned.changes.data.rotaton=9'], "'rotation'"),
    ([*MERGE, '--config.tasks.turned.changes.data.classes=10'],
     'changes.data.classes must be a tuple'),
    ([*MERGE, '--config.tasks.turned.changes.data.classes=(10,)'],
     'from 0 to 9'),
    ([*MERGE, '--config.base=/nowhere'], '/nowhere'),
], ids=lambda x: x[-1] if isinstance(x, list) else '')
def test_config(argv, says, trained, tmp_path, capsys, monkeypatch):
  monkeypatch.delenv('TFDS_DATA_DIR', raising=False)
  argv = [a.replace('TRAINED', str(trained)) for a in argv]
  refused([*argv, '--workdir', str(tmp_path / 'w')], says, capsys)


def test_changed_config(trained, tmp_path, capsys):
  run = copy_of(trained, tmp_path)
  refused([*PRETRAIN, '--workdir', str(run),
           '--config.optimizer.learning_rate=0.3'],
          'optimizer.learning_rate was 0.1, now 0.3', capsys)


def test_workdir_that_cannot_be_written(tmp_path, capsys):
  (tmp_path / 'file').write_text('')
  refused([*PRETRAIN, '--workdir', str(tmp_path / 'file')], 'file', capsys)
  refused([*PRETRAIN, '--workdir', '/proc/nowhere'], '/proc/nowhere', capsys)


def refused(argv, says, capsys):
  """Exit status 2, and one line on stderr that names the thing."""
  capsys.readouterr()
  assert launcher.main(argv) == 2
  lines = capsys.readouterr().err.strip().splitlines()
  assert len(lines) == 1, lines
  assert lines[0].startswith('error: ')
  assert says in lines[0], lines[0]
