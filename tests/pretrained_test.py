"""Hugging Face directories: same numbers as torch, and bad ones refused."""
import json
import pathlib
import pickle
import shutil
import struct

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from kt_jax import core
from kt_jax import models
from kt_jax.checkpoint import safetensors as st

GOLDEN = pathlib.Path(__file__).parent / 'golden' / 'pretrained'
NAMES = ['resnet_basic', 'resnet_bottleneck', 'resnet_v1', 'vit', 'vit_sharded']


@pytest.mark.parametrize('name', NAMES)
def test_logits_are_those_of_torch(name):
  got = models.from_pretrained(GOLDEN / name)
  golden = np.load(GOLDEN / name / 'golden.npz')
  out = models.apply(got.net, got.params, got.stats, golden['x'])
  assert got.classes == 5
  assert np.abs(golden['logits']).max() > 0.1
  np.testing.assert_allclose(out.logits, golden['logits'], rtol=0, atol=1e-4)
  assert {v.dtype.name for v in got.params.values()} == {'float32'}


def test_what_comes_with_the_weights():
  got = models.from_pretrained(str(GOLDEN / 'resnet_basic'))
  assert got.input_shape == (33, 32, 3)
  np.testing.assert_allclose(got.mean, [0.4, 0.5, 0.6])
  np.testing.assert_allclose(got.std, [0.2, 0.25, 0.3])
  assert models.abstract(got.build) == got.net
  got = models.from_pretrained(GOLDEN / 'vit')
  assert got.input_shape == (12, 16, 3)
  assert got.mean is None and got.std is None and not got.stats


def _edit(path, **changes):
  value = json.loads(path.read_text()) if path.exists() else {}
  path.write_text(json.dumps({
      k: v for k, v in (value | changes).items() if v is not ...}))


@pytest.mark.parametrize('changes,mean,std,shape', [
    ({'do_normalize': False}, [0] * 3, [1] * 3, (33, 32, 3)),
    ({'do_rescale': False, 'image_mean': [51] * 3, 'image_std': [255] * 3},
     [0.2] * 3, [1] * 3, (33, 32, 3)),
    ({'rescale_factor': 1 / 127.5}, [0.2, 0.25, 0.3], [0.1, 0.125, 0.15],
     (33, 32, 3)),
    ({'size': {'shortest_edge': 40}, 'crop_size': 36}, [0.4, 0.5, 0.6],
     [0.2, 0.25, 0.3], (36, 36, 3)),
    ({'size': 40}, [0.4, 0.5, 0.6], [0.2, 0.25, 0.3], (40, 40, 3)),
])
def test_image_processor(tmp_path, changes, mean, std, shape):
  path = shutil.copytree(GOLDEN / 'resnet_basic', tmp_path / 'm')
  _edit(path / 'preprocessor_config.json', **changes)
  got = models.from_pretrained(path)
  np.testing.assert_allclose(got.mean, mean, 1e-6)
  np.testing.assert_allclose(got.std, std, 1e-6)
  assert got.input_shape == shape


def _rewrite(path, change, file='model.safetensors'):
  tensors = safetensors.numpy.load_file(path / file)
  change(tensors)
  safetensors.numpy.save_file(tensors, path / file)


def test_half_precision_weights(tmp_path):
  path = shutil.copytree(GOLDEN / 'vit', tmp_path / 'm')

  def halve(tensors):
    for name, value in tensors.items():
      tensors[name] = value.astype(ml_dtypes.bfloat16)

  _rewrite(path, halve)
  got = models.from_pretrained(path).params
  want = models.from_pretrained(GOLDEN / 'vit').params
  for name, value in got.items():
    assert value.dtype == np.float32
    np.testing.assert_array_equal(
        value, np.asarray(want[name]).astype(ml_dtypes.bfloat16))


def _header(header, data=b'', length=None):
  header = header if isinstance(header, bytes) else json.dumps(header).encode()
  length = len(header) if length is None else length
  return struct.pack('<Q', length) + header + data


def _entry(begin, end, shape=(1,)):
  return {'dtype': 'F32', 'shape': shape, 'data_offsets': [begin, end]}


def _config(**changes):
  return lambda path: _edit(path / 'config.json', **changes)


def _processor(**changes):
  return lambda path: _edit(path / 'preprocessor_config.json', **changes)


def _file(name, content):
  return lambda path: (path / name).write_bytes(content)


def _weights(content):
  return _file('model.safetensors', content)


def _truncate(path):
  file = path / 'model.safetensors'
  file.write_bytes(file.read_bytes()[:-100])


def _tensors(change):
  return lambda path: _rewrite(path, change)


def _only(name, content=b''):
  def act(path):
    (path / 'model.safetensors').unlink()
    (path / name).write_bytes(content)
  return act


def _shards(change):
  def act(path):
    file = path / 'model.safetensors.index.json'
    index = json.loads(file.read_text())
    change(index['weight_map'])
    file.write_text(json.dumps(index))
  return act


_SHARD = 'model-00002-of-00003.safetensors'
_HEAD = 'classifier.weight'

# What is done to a good directory -> what the one-line error must name.
BAD = {
    'no config': ('vit', lambda p: (p / 'config.json').unlink(),
                  ['config.json', 'has no']),
    'config no json': ('vit', _file('config.json', b'{"a":'), ['config.json']),
    'config no object': ('vit', _file('config.json', b'[1]'),
                         ['config.json', 'list']),
    'config not text': ('vit', _file('config.json', b'\xff\xfe\x00'),
                        ['config.json']),
    'config too deep': ('vit', _file('config.json', b'[' * 200000),
                        ['config.json']),
    'config number': ('vit', _file('config.json', b'1' * 9999),
                      ['config.json']),
    'model_type': ('vit', _config(model_type='vitt'),
                   ['model_type', "'vitt'", "mean 'vit'"]),
    'no model_type': ('vit', _config(model_type=...), ['model_type', 'resnet']),
    'odd model_type': ('vit', _config(model_type=['vit']), ['model_type']),
    'architecture': ('vit', _config(architectures=['ViTModel']),
                     ["['ViTModel']", "['ViTForImageClassification']"]),
    'odd architecture': ('vit', _config(architectures=5), ['architecture']),
    'act': ('vit', _config(hidden_act='gelu_new'),
            ['hidden_act', "'gelu_new'", "mean 'gelu'"]),
    'act resnet': ('resnet_basic', _config(hidden_act='silu'),
                   ['hidden_act', "'silu'", 'relu']),
    'layer_type': ('resnet_basic', _config(layer_type='basicc'),
                   ['layer_type', "mean 'basic'"]),
    'width no number': ('vit', _config(hidden_size='16'),
                        ['hidden_size', "'16'"]),
    'width vast': ('vit', _config(hidden_size=10 ** 30), ['hidden_size']),
    'depth vast': ('vit', _config(num_hidden_layers=60000),
                   ['num_hidden_layers', '60000']),
    'depth bool': ('vit', _config(num_hidden_layers=True),
                   ['num_hidden_layers', 'True']),
    'heads': ('vit', _config(num_attention_heads=3),
              ['config.json', 'heads 3']),
    'patch': ('vit', _config(patch_size=5), ['patch', '12x16']),
    'patch zero': ('vit', _config(patch_size=0), ['patch_size', '0']),
    'image triple': ('vit', _config(image_size=[1, 2, 3]), ['image_size']),
    'flag': ('vit', _config(qkv_bias='yes'), ['qkv_bias', "'yes'"]),
    'eps': ('vit', _config(layer_norm_eps='x'), ['layer_norm_eps', "'x'"]),
    'rate': ('vit', _config(hidden_dropout_prob=2), ['hidden_dropout_prob']),
    'labels': ('vit', _config(id2label=[1]), ['id2label']),
    'depths': ('resnet_basic', _config(depths=[]), ['depths']),
    'depths vast': ('resnet_basic', _config(depths=[50000, 2]), ['depths']),
    'stages': ('resnet_basic', _config(depths=[1, 2, 3]), ['depths', 'widths']),
    'mean': ('resnet_basic', _processor(image_mean=[1]),
             ['preprocessor_config.json', 'image_mean', '3']),
    'mean vast': ('resnet_basic', _processor(image_mean=[10 ** 400] * 3),
                  ['image_mean', 'finite']),
    'mean nan': ('resnet_basic', _processor(image_mean=[float('nan')] * 3),
                 ['image_mean', 'finite']),
    'std': ('resnet_basic', _processor(image_std=[0, 1, 1]),
            ['image_std', 'above 0']),
    'std null': ('resnet_basic', _processor(rescale_factor='a'),
                 ['rescale_factor']),
    'size': ('resnet_basic', _processor(size={'longest_edge': 3}),
             ['preprocessor_config.json', 'size']),
    'no weights': ('vit', lambda p: (p / 'model.safetensors').unlink(),
                   ['safetensors', 'has neither']),
    'pickle': ('vit', _only('pytorch_model.bin', pickle.dumps({})),
               ['pytorch_model.bin', 'pickle', 'convert', 'safetensors']),
    'which': ('vit', lambda p: [
        shutil.copy(p / 'model.safetensors', p / 'a.safetensors'),
        (p / 'model.safetensors').rename(p / 'b.safetensors')],
              ['a.safetensors', 'b.safetensors']),
    'empty': ('vit', _weights(b''), ['model.safetensors', 'damaged']),
    'short': ('vit', _weights(b'abc'), ['model.safetensors', 'damaged']),
    'lfs': ('vit', _weights(b'version https://git-lfs.github.com/spec/v1\n'),
            ['model.safetensors', 'git lfs pull']),
    'truncated': ('vit', _truncate, ['model.safetensors', 'damaged']),
    'header length': ('vit', _weights(_header({}, length=2 ** 63)),
                      ['model.safetensors', 'damaged']),
    'header past end': ('vit', _weights(_header({}, length=50)),
                        ['model.safetensors', 'damaged']),
    'header no json': ('vit', _weights(_header(b'{"a"')),
                       ['model.safetensors', 'damaged']),
    'overlap': ('vit', _weights(_header(
        {'a': _entry(0, 4), 'b': _entry(2, 6)}, bytes(6))),
                ['model.safetensors', 'damaged']),
    'past end': ('vit', _weights(_header({'a': _entry(0, 40, (10,))},
                                         bytes(8))),
                 ['model.safetensors', 'damaged']),
    'shape and bytes': ('vit', _weights(_header({'a': _entry(0, 8, (5,))},
                                                bytes(8))),
                        ['model.safetensors', 'damaged']),
    'vast shape': ('vit', _weights(_header(
        {'a': _entry(0, 8, (2 ** 40, 2 ** 40))}, bytes(8))),
                   ['model.safetensors', 'damaged']),
    'unknown name': ('vit', _tensors(lambda t: t.update(
        {'vit.pooler.dense.bias': np.zeros(3, np.float32)})),
                     ['In the weights only: vit.pooler.dense.bias',
                      'model only: none']),
    'name lacking': ('vit', _tensors(lambda t: t.pop(_HEAD)),
                     ['weights only: none', 'model only: head/kernel']),
    'layers lacking': ('vit', _config(num_hidden_layers=3),
                       ['model only: blocks/2/', 'and 8 more']),
    'layers too many': ('resnet_basic', _config(depths=[1, 1]),
                        ['weights only: resnet.encoder.stages.1.layers.1']),
    'kind': ('resnet_basic', _config(layer_type='bottleneck'),
             ['model only: stages/0/blocks/0/units/2/']),
    'classes': ('vit', _config(id2label={'0': 'a', '1': 'b'}),
                ['classifier.bias', 'head/bias', '(5,)', '(2,)']),
    'vast': ('vit', _config(hidden_size=65536, image_size=65536, patch_size=1),
             ['(65536']),
    'positions': ('vit', _config(image_size=[16, 16]),
                  ['position_embeddings', '(1, 13, 16)', '(1, 17, 16)']),
    'rank': ('vit', _tensors(lambda t: t.update(
        {_HEAD: t[_HEAD].reshape(-1)})), [_HEAD, '(80,)', '(16, 5)']),
    'dtype': ('vit', _tensors(lambda t: t.update(
        {_HEAD: t[_HEAD].astype(np.int32)})), [_HEAD, 'int32']),
    'nan': ('vit', _tensors(lambda t: t.update(
        {_HEAD: t[_HEAD] * np.float32(np.nan)})), [_HEAD, 'not finite']),
    'shard lacking': ('vit_sharded', lambda p: (p / _SHARD).unlink(),
                      [_SHARD, 'missing']),
    'shard damaged': ('vit_sharded', _file(_SHARD, b'abc'),
                      [_SHARD, 'damaged']),
    'shard above': ('vit_sharded', _shards(lambda m: m.update(
        {_HEAD: '../vit/model.safetensors'})), ['../vit', 'beside']),
    'shard absolute': ('vit_sharded', _shards(lambda m: m.update(
        {_HEAD: '/etc/x.safetensors'})), ['/etc/x', 'beside']),
    'shard pickle': ('vit_sharded', _shards(lambda m: m.update(
        {_HEAD: 'a.bin'})), ['a.bin']),
    'shard number': ('vit_sharded', _shards(lambda m: m.update({_HEAD: 3})),
                     ['shard 3']),
    'shard unlisted': ('vit_sharded', _shards(lambda m: m.pop(_HEAD)),
                       [_HEAD, 'unlisted']),
    'shard elsewhere': ('vit_sharded', _shards(lambda m: m.update(
        {_HEAD: _SHARD})), [_HEAD, 'not of one checkpoint']),
    'index empty': ('vit_sharded', _file('model.safetensors.index.json',
                                         b'{}'), ['weight_map']),
    'index no json': ('vit_sharded', _file('model.safetensors.index.json',
                                           b'{'), ['index.json']),
}


@pytest.mark.parametrize('case', BAD)
def test_refuses(tmp_path, case):
  name, change, words = BAD[case]
  path = shutil.copytree(GOLDEN / name, tmp_path / 'm')
  change(path)
  with pytest.raises(core.UserError) as e:
    models.from_pretrained(path)
  for word in words:
    assert word in str(e.value)


def test_refuses_what_is_not_there(tmp_path):
  with pytest.raises(core.UserError, match='config.json'):
    models.from_pretrained(tmp_path / 'nowhere')
  with pytest.raises(core.UserError, match='no such file'):
    st.open_safetensors(tmp_path / 'nowhere.safetensors')
  (tmp_path / 'a.bin').write_bytes(b'')
  with pytest.raises(core.UserError, match='pickle'):
    st.open_safetensors(tmp_path / 'a.bin')


def test_mapping_is_lazy_and_read_only(tmp_path):
  value = np.arange(6, dtype=ml_dtypes.bfloat16).reshape(2, 3)
  safetensors.numpy.save_file(
      {'a': value, 'b': np.float32([7]), 'c': np.zeros((), np.int64)},
      tmp_path / 'x.safetensors')
  got = st.open_safetensors(tmp_path)
  assert len(got) == 3 and set(got) == {'a', 'b', 'c'} and 'd' not in got
  assert got['a'].dtype == ml_dtypes.bfloat16
  np.testing.assert_array_equal(got['a'], value)
  assert got.shape('a') == (2, 3) and got.dtype('a') == 'BF16'
  assert got['c'].shape == got.shape('c') == ()
  assert got.get('d') is None
  with pytest.raises(KeyError):
    got['d']  # pylint: disable=pointless-statement
  with pytest.raises(TypeError):
    got['a'] = 1
  got['b'][:] = 0  # a copy of the caller's own
  assert got['b'] == 7


def test_one_file_and_its_index_are_one_mapping():
  whole = st.open_safetensors(GOLDEN / 'vit_sharded')
  same = st.open_safetensors(
      GOLDEN / 'vit_sharded' / 'model.safetensors.index.json')
  assert list(whole) == list(same) and len(whole) == 34
  shard = st.open_safetensors(GOLDEN / 'vit_sharded' / _SHARD)
  for name, value in shard.items():
    np.testing.assert_array_equal(value, whole[name])


def test_unreadable_dtype_is_named(tmp_path):
  entry = {'dtype': 'F8_E4M3', 'shape': [2], 'data_offsets': [0, 2]}
  (tmp_path / 'x.safetensors').write_bytes(_header({'a': entry}, bytes(2)))
  got = st.open_safetensors(tmp_path)
  assert got.dtype('a') == 'F8_E4M3'
  with pytest.raises(core.UserError, match="'a' .F8_E4M3"):
    got['a']  # pylint: disable=pointless-statement
