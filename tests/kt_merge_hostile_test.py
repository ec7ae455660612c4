"""Bad input to kt-merge: exit status 2 and one line that names the thing.

The errors of functions are in recipe_test and kt_merge_files_test.
"""
import json
import os
import pathlib
import re
import signal

from golden.merge import llamas
import numpy as np
import pytest

from kt_jax.cli import main as command

SHAPES = {'model.embed_tokens.weight': (6, 4), 'model.norm.weight': (4,),
          'model.layers.0.mlp.weight': (4, 4),
          'model.layers.1.mlp.weight': (4, 4)}
LINEAR = 'merge_method: linear\nmodels: [{model: a}, {model: b}]\n' \
         'parameters: {weight: 0.5}\n'
TIES = 'merge_method: ties\nbase_model: base\nmodels: [{model: a}, {model: b}' \
       ']\nparameters: {weight: 1, density: 0.5}\n'
NAME = 'model.norm.weight'


def arrays(seed, **changes):
  r = np.random.default_rng(seed)
  found = {n: r.standard_normal(s).astype(np.float32)
           for n, s in SHAPES.items()}
  return found | changes


def save(folder, values):
  llamas.save(folder, values, dict(num_hidden_layers=2, vocab_size=6))


def raw(header, data=b'', length=None):
  """Puts a safetensors file of any header in place of a's."""
  def change():
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    size = len(text) if length is None else length
    pathlib.Path('a/model.safetensors').write_bytes(
        size.to_bytes(8, 'little') + text + data)
  return change


def one(**entry):
  """A header with one tensor of 16 bytes."""
  return {'x': dict(dtype='F32', shape=[4], data_offsets=[0, 16]) | entry}


def put(path, content):
  def change():
    file = pathlib.Path(path)
    if isinstance(content, bytes):
      file.write_bytes(content)
    else:
      file.write_text(content if isinstance(content, str)
                      else json.dumps(content))
  return change


def index(weight_map, also=lambda: None):
  """Makes a a sharded checkpoint."""
  def change():
    pathlib.Path('a/model.safetensors').rename('a/part.safetensors')
    put('a/model.safetensors.index.json', dict(weight_map=weight_map))()
    also()
  return change


def recipe(text):
  return put('recipe.yml', text)


def weights(**changes):
  return lambda: save('a', arrays(1, **{
      k.replace('__', '.'): v for k, v in changes.items()}))


def bad(value, **more):
  """One entry of the norm."""
  norm = arrays(1)[NAME]
  norm[2] = value
  return lambda: save('a', arrays(1, **{NAME: norm}, **more))


def pickled(name='pytorch_model.bin'):
  def change():
    os.remove('a/model.safetensors')
    put(f'a/{name}', b'\x80\x02cos\nsystem\n')()
  return change


def adapter(values, **config):
  """'a+lora' in place of a."""
  def change():
    os.mkdir('lora')
    llamas.save('lora', values)
    os.rename('lora/model.safetensors', 'lora/adapter_model.safetensors')
    put('lora/adapter_config.json',
        dict(peft_type='LORA', r=2, lora_alpha=2) | config)()
    recipe(LINEAR.replace('model: a', 'model: a+lora'))()
  return change


def lora(module, rows=4, columns=4, rank=2):
  return {f'base_model.model.{module}.lora_A.weight':
          np.ones((rank, columns), np.float32),
          f'base_model.model.{module}.lora_B.weight':
          np.ones((rows, rank), np.float32)}


def tokens(text):
  def change():
    recipe(LINEAR + 'tokenizer_source: union\n')()
    if text is not None:
      put('a/tokenizer.json', text)()
  return change


def replaced(path, make):
  def change():
    if os.path.lexists(path):
      os.remove(path)
    make(path)
  return change


def loop(path):
  os.symlink(os.path.basename(path), path)


ALL = {n: 'part.safetensors' for n in SHAPES}
BOMB = 'a: &a [x, x, x, x, x, x, x, x, x]\n' + ''.join(
    f'{y}: &{y} [{", ".join(["*" + x] * 9)}]\n'
    for x, y in zip('abcdefgh', 'bcdefghi'))
LFS = (b'version https://git-lfs.github.com/spec/v1\noid sha256:'
       + b'0' * 64 + b'\nsize 123\n')

CASES = {
    # Files of weights.
    'empty': (put('a/model.safetensors', b''), 'a/model.safetensors'),
    'few bytes': (put('a/model.safetensors', b'\x01\x02'),
                  'a/model.safetensors'),
    'cut': (lambda: os.truncate('a/model.safetensors', 400),
            'a/model.safetensors'),
    'cut by one': (lambda: os.truncate('a/model.safetensors', os.path.getsize(
        'a/model.safetensors') - 1), 'a/model.safetensors'),
    'cut header': (lambda: os.truncate('a/model.safetensors', 50),
                   'a/model.safetensors'),
    'more behind': (raw(one(), b'\0' * 17), 'a/model.safetensors'),
    'header of 2^60': (raw(one(), length=2 ** 60), 'a/model.safetensors'),
    'header of 2^64': (raw(one(), length=2 ** 64 - 1), 'a/model.safetensors'),
    'header no JSON': (raw(b'{"x": '), 'a/model.safetensors'),
    'header no text': (raw(b'\xff\xfe{}'), 'a/model.safetensors'),
    'header a list': (raw([1, 2]), 'a/model.safetensors'),
    'header nested': (raw(b'{"x":' + b'[' * 100_000), 'a/model.safetensors'),
    'overlapping': (raw(one() | {'y': dict(
        dtype='F32', shape=[4], data_offsets=[8, 24])}, b'\0' * 24),
                    'a/model.safetensors'),
    'same bytes': (raw(one() | {'y': one()['x']}, b'\0' * 16),
                   'a/model.safetensors'),
    'hole': (raw(one() | {'y': dict(
        dtype='F32', shape=[4], data_offsets=[20, 36])}, b'\0' * 36),
             'a/model.safetensors'),
    'beyond the file': (raw(one(data_offsets=[0, 16]), b'\0' * 8),
                        'a/model.safetensors'),
    'offsets of 2^62': (raw(one(shape=[2 ** 60], data_offsets=[0, 2 ** 62]),
                            b'\0' * 8), 'a/model.safetensors'),
    'offsets reversed': (raw(one(data_offsets=[16, 0]), b'\0' * 16),
                         'a/model.safetensors'),
    'offsets below 0': (raw(one(data_offsets=[-16, 0]), b'\0' * 16),
                        'a/model.safetensors'),
    'offsets text': (raw(one(data_offsets=['0', '16']), b'\0' * 16),
                     'a/model.safetensors'),
    'shape below 0': (raw(one(shape=[-2, -2]), b'\0' * 16),
                      'a/model.safetensors'),
    'shape overflows': (raw(one(shape=[2 ** 33, 2 ** 33]), b'\0' * 16),
                        'a/model.safetensors'),
    'shape text': (raw(one(shape='4'), b'\0' * 16), 'a/model.safetensors'),
    'shape of another size': (raw(one(shape=[5]), b'\0' * 16),
                              'a/model.safetensors'),
    'dtype unknown': (raw(one(dtype='F12'), b'\0' * 16), 'a/model.safetensors'),
    'dtype of half bytes': (raw(one(dtype='F4', shape=[32]), b'\0' * 16),
                            'a/model.safetensors'),
    'dtype missing': (raw({'x': dict(shape=[4], data_offsets=[0, 16])},
                          b'\0' * 16), 'a/model.safetensors'),
    'duplicate names': (raw(
        b'{"x":{"dtype":"F32","shape":[4],"data_offsets":[0,16]},'
        b'"x":{"dtype":"F32","shape":[4],"data_offsets":[16,32]}}', b'\0' * 32),
                        'a/model.safetensors'),
    'metadata no text': (raw(one() | {'__metadata__': {'a': 1}}, b'\0' * 16),
                         'a/model.safetensors'),
    'no tensors': (raw({}), 'lacks'),
    'zero bytes of 2^62': (raw(one(shape=[0, 2 ** 62], data_offsets=[0, 0])),
                           'lacks'),
    'LFS pointer': (put('a/model.safetensors', LFS), 'git lfs pull'),
    'pickle': (pickled(), 'convert it to safetensors'),
    'pickle .pt': (pickled('model.pt'), 'convert it to safetensors'),
    'pickle named': (lambda: (pickled()(), recipe(LINEAR.replace(
        'model: a', 'model: a/pytorch_model.bin'))()),
                     'convert it to safetensors'),
    'sharded pickle': (lambda: (pickled('pytorch_model-00001-of-2.bin')(), put(
        'a/pytorch_model.bin.index.json', {'weight_map': {}})()),
                       'convert it to safetensors'),
    'pickle as safetensors': (put('a/model.safetensors', b'\x80\x02cos\n' * 9),
                              'a/model.safetensors'),
    # Indices.
    'index above': (index(ALL | {NAME: '../b/model.safetensors'}), r'\.\./b'),
    'index absolute': (index(ALL | {NAME: '/etc/passwd'}), '/etc/passwd'),
    'index of no safetensors': (index(ALL | {NAME: 'part.bin'}), 'part.bin'),
    'index lists too much': (index(ALL | {'more': 'part.safetensors'}), 'more'),
    'index lists too little': (index({NAME: 'part.safetensors'}), 'unlisted'),
    'shard missing': (index(ALL | {NAME: 'gone.safetensors'}), 'gone.*missing'),
    'shard a folder': (index(ALL | {NAME: 'dir.safetensors'}, lambda: os.mkdir(
        'a/dir.safetensors')), 'dir.safetensors'),
    'shard a loop': (index(ALL | {NAME: 'l.safetensors'}, lambda: loop(
        'a/l.safetensors')), 'l.safetensors'),
    'index a number': (index(ALL | {NAME: 3}), 'shard 3'),
    'index with a newline': (index(ALL | {NAME: 'a\n\x1b[2Jb'}), 'shard'),
    'index empty': (index({}), 'weight_map'),
    'index no JSON': (lambda: (index({})(), put(
        'a/model.safetensors.index.json', '{')()), 'index.json'),
    'index no text': (lambda: (index({})(), put(
        'a/model.safetensors.index.json', b'\xff\xfe')()), 'index.json'),
    'index nested': (lambda: (index({})(), put(
        'a/model.safetensors.index.json', '[' * 10 ** 5)()), 'index.json'),
    'two indices': (lambda: (index({})(), os.rename(
        'a/model.safetensors.index.json', 'a/x.safetensors.index.json'), put(
            'a/y.safetensors.index.json', {})()), 'which of'),
    # Recipes.
    'recipe missing': (lambda: os.remove('recipe.yml'), 'recipe.yml'),
    'recipe a folder': (replaced('recipe.yml', os.mkdir), 'recipe.yml'),
    'recipe a loop': (replaced('recipe.yml', loop), 'recipe.yml'),
    'recipe a FIFO': (replaced('recipe.yml', os.mkfifo), 'recipe.yml'),
    'recipe empty': (recipe(''), 'no recipe'),
    'recipe binary': (recipe(b'\x80\x81' * 99), 'UTF-8'),
    'recipe with NUL': (recipe('a\0b'), 'Not YAML'),
    'recipe of 2 MB': (recipe('a: ' + 'x' * 2_000_000), 'bytes'),
    'YAML bomb': (recipe(BOMB), 'values'),
    'YAML tag': (recipe('merge_method: !!python/object/apply:os.system [ls]'),
                 'tag'),
    'YAML in itself': (recipe('a: &a [*a]'), 'itself'),
    'YAML nested': (recipe('a: ' + '[' * 50_000), 'nested'),
    'YAML nested blocks': (recipe('- ' * 5_000), 'nested'),
    'YAML keys twice': (recipe(LINEAR + 'parameters: {}'), 'parameters'),
    'YAML a list': (recipe('[1, 2]'), 'recipe'),
    'YAML unfinished': (recipe('a: "'), 'Not YAML'),
    'YAML date': (recipe(LINEAR.replace('0.5', '2001-01-01')), 'weight'),
    'method unknown': (recipe(LINEAR.replace('linear', 'linar')), 'linear'),
    'method of Python': (recipe(LINEAR.replace('linear', 'os:system')),
                         'os:system'),
    'key unknown': (recipe(LINEAR + 'dtpe: float32'), 'dtype'),
    'dtype of recipe': (recipe(LINEAR + 'dtype: float8'), 'dtype'),
    'weight NaN': (recipe(LINEAR.replace('0.5', '.nan')), 'finite'),
    'weight 1e999': (recipe(LINEAR.replace('0.5', '1e+999')), 'finite'),
    'weight text': (recipe(LINEAR.replace('0.5', 'heavy')), 'heavy'),
    'weight nan as text': (recipe(LINEAR.replace('0.5', '"nan"')), 'nan'),
    'weights sum to 0': (recipe(LINEAR.replace('0.5', '0')), 'sum to 0'),
    'density 2': (recipe(TIES.replace('0.5', '2')), 'density'),
    'no base': (recipe(TIES.replace('base_model: base\n', '')), 'base_model'),
    'name with a newline': (recipe(LINEAR.replace('model: a', r'model: "a\nb"')
                                   ), 'no such file'),
    'name with NUL': (recipe(LINEAR.replace('model: a', r'model: "a\0b"')),
                      'no such file'),
    'name too long': (recipe(LINEAR.replace('model: a', 'model: ' + 'a' * 5000)
                             ), 'aaa'),
    'model missing': (recipe(LINEAR.replace('model: a', 'model: nowhere')),
                      'nowhere'),
    'model of the hub': (recipe(LINEAR.replace('model: a', 'model: org/name')),
                         'org/name'),
    # Models.
    'NaN': (bad(np.nan), f'a.*{NAME}.*NaN'),
    'Inf': (bad(-np.inf), f'a.*{NAME}.*infinite'),
    'shape of another model': (weights(model__norm__weight=np.ones(
        5, np.float32)), NAME),
    'rank of another model': (weights(model__norm__weight=np.ones(
        (2, 2), np.float32)), NAME),
    'tensor missing': (lambda: save('a', {
        k: v for k, v in arrays(1).items() if k != NAME}), f'a lacks .{NAME}'),
    'tensor more': (weights(more=np.ones(3, np.float32)), 'more'),
    'name of a tensor': (weights(**{'x\n\x1b[2Jy': np.ones(3, np.float32)}),
                         'b lacks'),
    'other layers': (weights(model__layers__2__mlp__weight=np.ones(
        (4, 4), np.float32)), 'layers'),
    'int8 weights': (raw({NAME: dict(dtype='I8', shape=[4], data_offsets=[0, 4])
                          }, b'\0' * 4), NAME),
    'too large for float16': (lambda: (bad(3e5)(), recipe(
        LINEAR + 'out_dtype: float16')()), f'{NAME}.*float16'),
    'config a list': (put('a/config.json', '[1]'), 'a/config.json'),
    'config no JSON': (put('a/config.json', '{'), 'a/config.json'),
    'config no text': (put('a/config.json', b'\xff'), 'a/config.json'),
    'config nested': (put('a/config.json', '{"a":' * 10 ** 5),
                      'a/config.json'),
    'config of a number': (put('a/config.json', '{"a": 1' + '0' * 9999 + '}'),
                           'a/config.json'),
    # Adapters.
    'adapter of another model': (adapter(lora('other')), 'other.*base'),
    'adapter of another shape': (adapter(lora('model.layers.0.mlp', 5)),
                                 'does not fit'),
    'adapter of another rank': (adapter(lora('model.layers.0.mlp'), r=3),
                                'rank 3'),
    'adapter lacks a half': (adapter({
        'base_model.model.model.layers.0.mlp.lora_A.weight': np.ones(
            (2, 4), np.float32)}), 'lora_B'),
    'adapter of a kind': (adapter(lora('model.layers.0.mlp'), use_dora=True),
                          'DoRA'),
    'adapter without config': (lambda: (
        adapter(lora('x'))(), os.remove('lora/adapter_config.json')),
                               'adapter_config.json'),
    'adapter config a list': (lambda: (
        adapter(lora('x'))(), put('lora/adapter_config.json', '[]')()),
                              'adapter_config.json'),
    'adapter pickled': (lambda: (adapter(lora('x'))(), os.rename(
        'lora/adapter_model.safetensors', 'lora/adapter_model.bin')),
                        'convert it to safetensors'),
    'adapter missing': (recipe(LINEAR.replace('model: a', 'model: a+gone')),
                        'gone'),
    'adapter with NaN': (adapter({k: v * np.nan for k, v in lora(
        'model.layers.0.mlp').items()}), r'a\+lora: .*mlp.*NaN'),
    # Tokenizers.
    'tokenizer missing': (tokens(None), 'tokenizer.json'),
    'tokenizer no JSON': (tokens('{'), 'tokenizer.json'),
    'tokenizer a list': (tokens('[]'), 'tokenizer.json'),
    'tokenizer without model': (tokens('{}'), 'tokenizer.json'),
    'tokenizer of a type': (tokens('{"model": {"type": "X", "vocab": {}}}'),
                            'tokenizer type'),
    'ids no numbers': (tokens('{"model": {"type": "BPE", "vocab": {"a": "1"}, '
                              '"merges": []}}'), 'whole number'),
    'ids of 2^40': (tokens('{"model": {"type": "WordLevel", "vocab": {"a": '
                           f'{2 ** 40}}}}}}}'), 'whole number'),
    # The file system.
    'model a loop': (lambda: (loop('loop'), recipe(
        LINEAR.replace('model: a', 'model: loop'))()), 'loop'),
    'weights a loop': (replaced('a/model.safetensors', loop),
                       'a/model.safetensors'),
    'weights a FIFO': (replaced('a/model.safetensors', os.mkfifo), 'a'),
    'weights a folder': (replaced('a/model.safetensors', os.mkdir), 'a'),
    'named FIFO': (lambda: (os.mkfifo('f.safetensors'), recipe(LINEAR.replace(
        'model: a', 'model: f.safetensors'))()), 'f.safetensors'),
    'config a FIFO': (replaced('a/config.json', os.mkfifo), 'config.json'),
    'tokenizer a FIFO': (lambda: (tokens(None)(), os.mkfifo(
        'a/tokenizer.json')), 'tokenizer.json'),
    'empty folder': (lambda: (os.mkdir('c'), recipe(
        LINEAR.replace('model: a', 'model: c'))()), 'c: has neither'),
    'out there': (lambda: (os.mkdir('out'), put('out/x', '')()), 'out.*exists'),
    'out a file': (put('out', ''), 'out'),
}


@pytest.fixture
def place(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  for seed, model in enumerate(('base', 'a', 'b')):
    save(model, arrays(seed))
  recipe(LINEAR)()
  return tmp_path


@pytest.fixture
def watch():
  """No case may hang."""
  def late(*_):
    raise AssertionError('hangs')
  old = signal.signal(signal.SIGALRM, late)
  signal.alarm(20)
  yield
  signal.alarm(0)
  signal.signal(signal.SIGALRM, old)


def refused(capsys, argv, match, place):
  before = {p for p in place.rglob('*')}
  assert command.main(argv) == 2
  # Warnings show if an earlier test in this process has set up the launcher.
  err = ''.join(x for x in capsys.readouterr().err.splitlines(True)
                if not x.startswith('warning: '))
  assert err.count('\n') == 1 and err.endswith('\n'), err
  assert err[:-1].isprintable() and len(err) < 1100, err
  assert err.startswith('kt-merge: ') and re.search(match, err), err
  assert {p for p in place.rglob('*')} == before
  return err


@pytest.mark.parametrize('name', CASES)
def test_hostile_input(name, place, watch, capsys):
  change, match = CASES[name]
  change()
  print(refused(capsys, ['recipe.yml', 'out', '--quiet'], match, place))


LORA = ['--extract-lora', 'a', 'b', 'out']


@pytest.mark.parametrize('argv,change,match', [
    (['--diff', 'a', 'nowhere'], None, 'nowhere'),
    (['--diff', 'a', 'b'], raw(b'{'), 'a/model.safetensors'),
    (['--diff', 'a', '~nobody_at_all/b'], None, 'nobody_at_all'),
    (LORA, lambda: save('a', {n: x * np.nan for n, x in arrays(1).items()}),
     'layers.0.mlp.*finite'),
    (LORA + ['--rank', '0'], None, 'rank'),
    (LORA + ['--energy', '2'], None, 'energy'),
    (LORA + ['--modules', '('], None, 'modules'),
    (LORA, lambda: os.mkdir('out'), 'out: already exists'),
    (LORA, weights(more=np.ones(3, np.float32)), 'more'),
    (LORA[:3] + ['recipe.yml/out'], None, 'recipe.yml/out'),
    (['--check', 'gone.yml'], None, 'gone.yml')])
def test_other_actions(argv, change, match, place, watch, capsys):
  if change:
    change()
  refused(capsys, [*argv, '--quiet'], match, place)


def test_check_lists_hostile_names(place, capsys):
  """On stdout, a line each, whatever the names are."""
  weights(**{'x\n\x1b[2Jy': np.ones(3, np.float32)})()
  assert command.main(['--check', 'recipe.yml', '--quiet']) == 2
  out = capsys.readouterr().out
  assert len(out.splitlines()) == 4 and out.replace('\n', '').isprintable()


@pytest.mark.parametrize('method,value', [
    ('ties', np.nan), ('sce', np.inf), ('nearswap', -np.inf)])
def test_not_finite_is_named(method, value, place, capsys):
  """Also by methods that would choose other entries."""
  bad(value)()
  text = TIES.replace('ties', method).replace('weight: 1', 'weight: 1, t: 0.1')
  recipe(text.replace(', {model: b}', '' if method == 'nearswap' else
                      ', {model: b}'))()
  refused(capsys, ['recipe.yml', 'out', '--quiet'], f'a: {NAME}.*NaN', place)
