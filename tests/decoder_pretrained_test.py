"""Decoders of Hugging Face: numbers of torch, round trips, what is refused."""
import json
import pathlib
import shutil

from decoder_test import filled
import jax
from jax import numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from kt_jax import checkpoint
from kt_jax import core
from kt_jax import models
from kt_jax import train

GOLDEN = pathlib.Path(__file__).parent / 'golden' / 'decoders'
NAMES = sorted(path.name for path in GOLDEN.iterdir() if path.is_dir())


def params_of(model):
  return models.split(model)[1]


def assert_same(a, b):
  assert a.keys() == b.keys()
  for name, value in a.items():
    assert value.dtype == b[name].dtype, name
    np.testing.assert_array_equal(value, b[name], name)


def golden(name):
  return np.load(GOLDEN / name / 'golden.npz')


def logits_of(model, want):
  net, params, stats = models.split(model)
  segments = want['mask'].astype(np.int32)
  return np.asarray(jax.jit(lambda p: models.call(
      net, p, stats, lambda m: m(want['tokens'], segments))[0])(params))


@pytest.mark.parametrize('name', NAMES)
def test_logits_are_those_of_torch(name):
  """Left padding in two of three rows."""
  want = golden(name)
  got = logits_of(models.from_pretrained(GOLDEN / name), want)
  assert np.abs(want['logits']).max() > 2
  np.testing.assert_allclose(got[want['mask']], want['logits'][want['mask']],
                             rtol=0, atol=1e-4)


def test_greedy_tokens_are_those_of_torch():
  want, model = golden('gemma2'), models.from_pretrained(GOLDEN / 'gemma2')
  net, *arrays = models.split(model)
  found = jax.jit(lambda *a: models.generate(
      models.DecodeModel(net, *a), want['tokens'], where=want['mask'], steps=8)
                 )(*arrays)
  np.testing.assert_array_equal(found.tokens, want['greedy'])


def _edit(path, **changes):
  file = path / 'config.json'
  value = json.loads(file.read_text()) | changes
  file.write_text(json.dumps({k: v for k, v in value.items() if v is not ...}))


@pytest.mark.parametrize('name,changes', [
    ('llama3', dict(rope_parameters=dict(rope_theta=500.0))),
    ('llama_linear', dict(rope_scaling=None)),
    ('qwen2_yarn', dict(rope_parameters=dict(rope_theta=1000.0))),
])
def test_each_option_tells(tmp_path, name, changes):
  """Without it the numbers are others, so that agreement means something."""
  path = shutil.copytree(GOLDEN / name, tmp_path / 'm')
  _edit(path, **changes)
  sees = lambda p: models.decoder_settings(models.from_pretrained(p))
  assert sees(path) != sees(GOLDEN / name)
  want = golden(name)
  got = logits_of(models.from_pretrained(path), want)
  assert np.abs(got - want['logits'])[want['mask']].max() > 2e-4


@pytest.mark.parametrize('name', NAMES)
def test_round_trip(tmp_path, name):
  """As imported, and as if it were of our own settings; the same bits."""
  model = models.from_pretrained(GOLDEN / name)
  models.save_pretrained(model, tmp_path / 'a')
  old = json.loads((GOLDEN / name / 'config.json').read_text())
  new = json.loads((tmp_path / 'a/config.json').read_text())
  assert new.pop('torch_dtype') == 'float32'
  assert new.items() <= old.items() and len(old) - len(new) == 1
  model.hf = ''
  models.save_pretrained(model, tmp_path / 'b', shard_bytes=30_000)
  assert json.loads((tmp_path / 'b/config.json').read_text()
                   )['model_type'] == old['model_type']
  assert (tmp_path / 'b/model.safetensors.index.json').is_file()
  again = models.from_pretrained(tmp_path / 'b')
  assert_same(params_of(again), params_of(model))
  assert models.decoder_settings(again) == models.decoder_settings(model)
  files = lambda p: dict(checkpoint.open_safetensors(p))
  assert_same(files(tmp_path / 'a'), files(GOLDEN / name))


def _cast(path, dtype):
  for file in path.glob('*.safetensors'):
    safetensors.numpy.save_file(
        {k: v.astype(dtype) for k, v in
         safetensors.numpy.load_file(file).items()}, file)


@pytest.mark.parametrize('name', ['gpt2', 'llama_linear'])
def test_bfloat16_stays(tmp_path, name):
  path = shutil.copytree(GOLDEN / name, tmp_path / 'm')
  _cast(path, ml_dtypes.bfloat16)
  model = models.from_pretrained(path)
  assert {v.dtype for v in params_of(model).values()} == {
      jnp.dtype('bfloat16')}
  logits = jax.eval_shape(lambda: model(golden(name)['tokens']))
  assert logits.dtype == jnp.bfloat16
  models.save_pretrained(model, tmp_path / 'out')
  files = lambda p: dict(checkpoint.open_safetensors(p))
  assert_same(files(tmp_path / 'out'), files(path))
  assert json.loads((tmp_path / 'out/config.json').read_text()
                   )['torch_dtype'] == 'bfloat16'
  wide = models.from_pretrained(path, 'float32')
  assert_same(params_of(wide), {
      k: v.astype(jnp.float32) for k, v in params_of(model).items()})


def _decoder(**kw):
  net, params = filled(11, **dict(depth=2, width=8, heads=2) | kw)
  return models.call(net, params, {}, lambda m: m)[0]


@pytest.mark.parametrize('kind,kw', [
    ('llama', {}), ('llama', dict(mlp_bias=True, tied=False, kv_heads=1)),
    ('mistral', dict(window=3)), ('qwen2', dict(qkv_bias=True, window=(0, 3))),
    ('qwen3', dict(query_key_norm=True, dropout=0.1)),
    ('gemma', dict(norm_offset=1.0, embed_scale=8 ** 0.5)),
    ('gemma2', dict(norm_offset=1.0, embed_scale=8 ** 0.5, post_norms=True,
                    logit_softcap=9.0, query_scale=9 ** -0.5)),
    ('gpt2', dict(positions='learned', norm='layer', gated=False,
                  qkv_bias=True, out_bias=True, mlp_bias=True))])
def test_the_family_that_has_the_settings(tmp_path, kind, kw):
  model = _decoder(**kw)
  models.save_pretrained(model, tmp_path / 'm')
  assert json.loads((tmp_path / 'm/config.json').read_text()
                   )['model_type'] == kind
  assert_same(params_of(models.from_pretrained(tmp_path / 'm')),
              params_of(model))


@pytest.mark.parametrize('kw,words', [
    (dict(logit_softcap=9.0), ['llama', 'logit_softcap 9.0']),
    (dict(query_key_norm=True, mlp_bias=True),
     ['llama', 'query_key_norm True']),
    (dict(query_key_norm=True, window=(2, 3)), ['qwen3', 'window [2, 3]']),
    (dict(positions='learned'), ["positions 'learned'"])])
def test_settings_that_no_family_has(tmp_path, kw, words):
  with pytest.raises(core.UserError) as e:
    models.save_pretrained(_decoder(**kw), tmp_path / 'm')
  for word in words:
    assert word in str(e.value)
  assert not list(tmp_path.iterdir())


def test_saving_folds_lora_and_replaces_a_checkpoint(tmp_path):
  out = tmp_path / 'm'
  models.save_pretrained(_decoder(), out)
  model = _decoder(lora_rank=2)
  linear = model.blocks[1].mlp.up
  (tmp_path / 'words').mkdir()
  (tmp_path / 'words/tokenizer.json').write_text('{}')
  models.save_pretrained(model, out, tmp_path / 'words')
  assert {p.name for p in out.iterdir()} == {
      'config.json', 'model.safetensors', 'tokenizer.json'}
  got = params_of(models.from_pretrained(out))
  np.testing.assert_allclose(
      got['blocks/1/mlp/up/kernel'],
      linear.kernel + 2 * linear.lora_a @ linear.lora_b, atol=1e-6)
  np.testing.assert_array_equal(
      got['embed/embedding'], model.embed.embedding[...])
  assert {p.name for p in tmp_path.iterdir()} == {'m', 'words'}


def test_what_is_no_checkpoint_is_not_replaced(tmp_path):
  (tmp_path / 'notes').write_text('mine')
  with pytest.raises(core.UserError, match='name another directory'):
    models.save_pretrained(_decoder(), tmp_path)
  with pytest.raises(core.UserError, match='no such directory'):
    models.save_pretrained(_decoder(), tmp_path / 'a/b')
  with pytest.raises(core.UserError, match='tokenizer.json'):
    models.save_pretrained(_decoder(), tmp_path / 'm', tmp_path)
  with pytest.raises(core.UserError, match='takes a Decoder'):
    models.save_pretrained({}, tmp_path / 'm')
  assert [p.name for p in tmp_path.iterdir()] == ['notes']


def _tensors(change):
  def act(path):
    for file in path.glob('*.safetensors'):
      tensors = safetensors.numpy.load_file(file)
      change(tensors)
      safetensors.numpy.save_file(tensors, file)
  return act


def _bare(tensors):
  for name in list(tensors):
    for prefix in ('transformer.', 'model.'):
      if name.startswith(prefix):
        tensors[name[len(prefix):]] = tensors.pop(name)


def _buffers(tensors):
  tensors['h.0.attn.bias'] = np.ones((1, 1, 4, 4), np.float32)
  tensors['h.1.attn.masked_bias'] = np.array([-1e4], np.float32)


@pytest.mark.parametrize('name,change', [
    ('gpt2', _tensors(lambda t: (_bare(t), _buffers(t)))),
    ('qwen2', _tensors(_bare)),
    ('llama3', _tensors(lambda t: t.update(
        {'lm_head.weight': t['model.embed_tokens.weight']}))),
    ('mistral', _tensors(lambda t: t.update(
        {'model.layers.0.self_attn.rotary_emb.inv_freq': np.ones(4)}))),
    ('gemma', lambda path: _edit(path, hidden_act='gelu')),
    ('gemma', lambda path: _edit(path, hidden_act='gelu',
                                 hidden_activation='gelu_pytorch_tanh')),
    ('qwen2', lambda path: _edit(path, layer_types=...)),
    ('llama', lambda path: _edit(path, rope_parameters=..., rope_theta=1e4,
                                 partial_rotary_factor=1.0, head_dim=...)),
])
def test_other_files_of_the_same_model(tmp_path, name, change):
  path = shutil.copytree(GOLDEN / name, tmp_path / 'm')
  change(path)
  got, want = models.from_pretrained(path), models.from_pretrained(
      GOLDEN / name)
  assert_same(params_of(got), params_of(want))
  assert models.decoder_settings(got) == models.decoder_settings(want)


def _config(**changes):
  return lambda path: _edit(path, **changes)


BAD = {
    'family': ('llama', _config(model_type='lama'), ["mean 'llama'"]),
    'architecture': ('llama', _config(
        architectures=['LlamaForSequenceClassification']),
                     ['architectures', 'LlamaForCausalLM']),
    'quantized': ('llama', _config(quantization_config=dict(bits=4)),
                  ['quantization_config', 'bits']),
    'inverse': ('gpt2', _config(scale_attn_by_inverse_layer_idx=True),
                ['scale_attn_by_inverse_layer_idx', 'False']),
    'cross': ('gpt2', _config(add_cross_attention=True),
              ['add_cross_attention']),
    'both ways': ('gemma', _config(use_bidirectional_attention=True),
                  ['use_bidirectional_attention']),
    'partial': ('llama', _config(partial_rotary_factor=0.5),
                ['partial_rotary_factor', '0.5']),
    'partial within': ('llama', _config(
        rope_parameters=dict(partial_rotary_factor=0.5)),
                       ['rope_parameters', 'partial_rotary_factor']),
    'dynamic': ('llama', _config(rope_scaling=dict(type='dynamic', factor=2)),
                ['rope_scaling', "'dynamic'", 'yarn']),
    'of layers': ('llama', _config(
        rope_parameters=dict(full_attention=dict(rope_theta=1.0))),
                  ['rope_parameters', 'same for all layers']),
    'no factor': ('llama', _config(rope_scaling=dict(type='linear')),
                  ['rope_scaling', 'factor', 'None']),
    'bands': ('llama3', _config(rope_parameters=dict(
        rope_type='llama3', factor=2.0, low_freq_factor=4.0,
        high_freq_factor=4.0)), ['low_freq_factor', 'below']),
    'act': ('llama', _config(hidden_act='gelu_pytorch_tan'),
            ["mean 'gelu_pytorch_tanh'"]),
    'heads': ('llama', _config(num_key_value_heads=3), ['heads 4', '3']),
    'size lacking': ('llama', _config(hidden_size=...), ['hidden_size']),
    'layer types': ('qwen2', _config(layer_types=['full_attention']),
                    ['layer_types', '3']),
    'depth': ('llama', _config(num_hidden_layers=3),
              ['model only: blocks/2/', 'and 1 more']),
    'wide': ('llama', _config(hidden_size=24, head_dim=8),
             ['k_proj.weight', '(32, 16)', '(24, 16)']),
    'vocabulary': ('gpt2', _config(vocab_size=98), ['wte', '(97, 32)', '98']),
    'third': ('gpt2', _tensors(lambda t: t.update(
        {'transformer.h.0.attn.c_attn.bias': np.zeros(99, np.float32)})),
              ['c_attn.bias', '(33,)', '(32,)']),
    'no head': ('llama', _tensors(lambda t: t.pop('lm_head.weight')),
                ['model only: head/kernel']),
    'two heads': ('llama3', _tensors(lambda t: t.update(
        {'lm_head.weight': t['model.embed_tokens.weight'] + 1})),
                  ['tie_word_embeddings', 'differs']),
    'unknown': ('qwen3', _tensors(lambda t: t.update(
        {'model.layers.0.self_attn.sinks': np.zeros(4, np.float32)})),
                ['weights only: model.layers.0.self_attn.sinks']),
    'integers': ('llama', _tensors(lambda t: t.update(
        {'model.norm.weight': np.ones(32, np.int8)})), ['int8']),
    'shard': ('llama_linear', lambda path: (
        path / 'model-00002-of-00003.safetensors').unlink(),
              ['model-00002-of-00003.safetensors', 'missing']),
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
  assert '\n' not in str(e.value)


def test_refuses_a_dtype_that_is_none():
  with pytest.raises(core.UserError, match='int8'):
    models.from_pretrained(GOLDEN / 'llama', 'int8')


def test_load_trained_reads_both(tmp_path):
  """A directory of Hugging Face, and a run of ours made of it."""
  found = train.load_trained(GOLDEN / 'gemma2')
  assert (found.info.classes, found.info.input_shape) == (97, (64,))
  assert found.info.mean == found.info.std == () and not found.stats
  run = tmp_path / 'run'
  run.mkdir()
  (run / 'card.json').write_text(json.dumps(found.card()))
  with checkpoint.Run(run) as saved:
    saved.save(1, dict(params=found.params, stats=found.stats),
               dict(step=np.ones(1)))
  again = train.load_trained(run)
  assert_same(again.params, found.params)
  assert (again.digest, again.model, again.info) == (
      found.digest, found.model, found.info)
  want = golden('gemma2')
  model = models.call(again.net, again.params, {}, lambda m: m)[0]
  np.testing.assert_allclose(
      logits_of(model, want)[want['mask']], want['logits'][want['mask']],
      rtol=0, atol=1e-4)
