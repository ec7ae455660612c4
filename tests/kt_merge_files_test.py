"""Files of kt-merge beside weights: adapters, tokens, diffs, cards."""
import json
import pathlib
import re
import shutil

import ml_dtypes
import numpy as np
import orbax.checkpoint as ocp
import pytest
import safetensors.numpy as st

from kt_jax import checkpoint
from kt_jax import core
from kt_jax.cli import adapter_config
from kt_jax.cli import card
from kt_jax.cli import diff
from kt_jax.cli import embeddings
from kt_jax.cli import extract_lora
from kt_jax.cli import tokens
from kt_jax.cli import union
from kt_jax.cli import vocabulary
from kt_jax.cli.open_model import open_model
from kt_jax.cli.tokenizer_option import read_tokenizer
from kt_jax.cli.tokenizer_option import TokenizerOption
from kt_jax.cli.tokenizer_option import TokenOption

GOLDEN = pathlib.Path(__file__).parent / 'golden' / 'merge'
LORA, TOKENS = GOLDEN / 'lora', GOLDEN / 'tokens'
MERGED = np.load(TOKENS / 'merged.npz')
ADAPTERS = sorted(p.name for p in LORA.iterdir())
CASES = sorted({name.partition('/')[0] for name in MERGED.files})


def refuses(match, fn, *args, **kw):
  """The call raises one clear line."""
  with pytest.raises(core.UserError, match=match) as e:
    fn(*args, **kw)
  assert '\n' not in str(e.value) and len(str(e.value)) < 700


def edit(path, **changes):
  value = json.loads(path.read_text()) if path.exists() else {}
  path.write_text(json.dumps({
      k: v for k, v in (value | changes).items() if v is not ...}))


def stretches(tensor, *, length):
  """All of a tensor, read in pieces."""
  flat = np.empty(tensor.size, tensor.dtype)
  for start in range(0, tensor.size, length):
    tensor.read(start, flat[start:start + length])
  return flat.reshape(tensor.shape)


def save(folder, **arrays):
  folder.mkdir(parents=True, exist_ok=True)
  st.save_file(arrays, folder / 'model.safetensors')
  return folder


# Adapters.


@pytest.mark.parametrize('name', ADAPTERS)
def test_adapter_folds_as_in_peft(name):
  folder = LORA / name
  got = open_model(f'{folder}/base+{folder}/adapter').tensors
  base = open_model(folder / 'base').tensors
  want = st.load_file(folder / 'merged.safetensors')
  changed = set()
  for key, tensor in got.items():
    array = tensor.array()
    assert array.dtype == base[key].dtype and array.shape == base[key].shape
    # peft rounds the product too where the adapter is bfloat16.
    tolerance = 1e-2 if array.dtype == ml_dtypes.bfloat16 else 1e-6
    np.testing.assert_allclose(array.astype(np.float32), want[key],
                               rtol=tolerance, atol=tolerance)
    for length in (1, 7):
      np.testing.assert_array_equal(stretches(tensor, length=length), array)
    if not np.array_equal(array, base[key].array()):
      changed.add(key)
  assert changed == {k for k in want if not np.array_equal(
      want[k], base[k].array().astype(np.float32))}
  assert len(changed) > 1


def test_adapter_bits_do_not_depend_on_stretches(tmp_path):
  r = np.random.default_rng(0)
  real = lambda *shape: r.normal(size=shape).astype(np.float32)
  save(tmp_path / 'base', **{'x.weight': real(300, 700)})
  _adapter(tmp_path, {'x': (real(8, 700), real(300, 8))}, r=8)
  tensor = open_model(f'{tmp_path}/base+{tmp_path}/lora').tensors[
      'x.weight']
  whole = tensor.array()
  for length in (999, 2 ** 15 + 3, 2 ** 20):
    np.testing.assert_array_equal(stretches(tensor, length=length), whole)
  tensor.read(5, np.empty(0, np.float32))


def _adapter(tmp_path, modules, **config):
  folder = tmp_path / 'lora'
  folder.mkdir(exist_ok=True)
  st.save_file({f'base_model.model.{m}.lora_{x}.weight': v
                for m, pair in modules.items() for x, v in zip('AB', pair)},
               folder / 'adapter_model.safetensors')
  edit(folder / 'adapter_config.json', **{
      'peft_type': 'LORA', 'r': 2, 'lora_alpha': 2} | config)
  return folder


@pytest.mark.parametrize('changes,match', [
    ({'peft_type': 'IA3'}, 'peft_type.*IA3'),
    ({'peft_type': ['LORA']}, 'peft_type'),
    ({'use_dora': True}, 'DoRA'),
    ({'target_parameters': ['w']}, 'single parameters'),
    ({'trainable_token_indices': [1]}, 'trainable tokens'),
    ({'layer_replication': [[0, 1]]}, 'replicated'),
    ({'init_lora_weights': 'pissa_niter_4'}, 'changed the base'),
    ({'r': 3}, 'rank 3'), ({'r': 0}, 'r must be'), ({'r': 2.0}, 'r must be'),
    ({'r': 10 ** 30}, 'r must be'), ({'r': True}, 'r must be'),
    ({'lora_alpha': '2'}, 'lora_alpha'), ({'lora_alpha': 1e30}, 'lora_alpha'),
    ({'lora_alpha': float('nan')}, 'lora_alpha'),
    ({'use_rslora': 'yes'}, 'use_rslora'),
    ({'rank_pattern': {'(a+)+$': 2}}, 'rank_pattern'),
    ({'rank_pattern': {'[': 2}}, 'rank_pattern'),
    ({'rank_pattern': {'x': 4}}, 'rank 4'),
    ({'alpha_pattern': [1]}, 'alpha_pattern')])
def test_adapter_configs_refused(tmp_path, changes, match):
  save(tmp_path / 'base', **{'x.weight': np.zeros((3, 4), np.float32)})
  pair = np.zeros((2, 4), np.float32), np.zeros((3, 2), np.float32)
  _adapter(tmp_path, {'x': pair}, **changes)
  refuses(match, open_model, f'{tmp_path}/base+{tmp_path}/lora')


@pytest.mark.parametrize('name,shape,match', [
    ('x.lora_A.weight', (2, 5), 'does not fit'),
    ('x.lora_A.weight', (2,), 'A must be'),
    ('x.lora_A.weight', (3, 4), 'A must be'),
    ('x.lora_B.weight', (3, 2, 2, 2), 'A must be'),
    ('x.lora_B.weight', None, 'lora_B is missing'),
    ('y.lora_A.weight', (2, 4), "No base tensor 'y.weight'"),
    ('x.lora_magnitude_vector', (3,), 'No base tensor'),
    ('x.lora_B.bias', (3,), 'No base tensor'),
    ('x.weight', (4, 3), 'resize the base'),
    ('n.lora_A.weight', (2, 4), 'int64'),
    ('z.lora_A.bias', (3,), 'has a bias'),
    ('z.lora_B.bias', (4,), 'has a bias'),
    ('../x.lora_A.weight', (2, 4), 'No base tensor')])
def test_adapter_tensors_refused(tmp_path, name, shape, match):
  save(tmp_path / 'base', **{'x.weight': np.zeros((3, 4), np.float32),
                             'n.weight': np.zeros((3, 4), np.int64),
                             'z.bias': np.zeros(3, np.float32)})
  pair = np.zeros((2, 4), np.float32), np.zeros((3, 2), np.float32)
  folder = _adapter(tmp_path, {'x': pair})
  held = st.load_file(folder / 'adapter_model.safetensors')
  held['base_model.model.' + name] = np.zeros(shape or (), np.float32)
  if shape is None:
    del held['base_model.model.' + name]
  st.save_file(held, folder / 'adapter_model.safetensors')
  refuses(match, open_model, f'{tmp_path}/base+{tmp_path}/lora')


@pytest.mark.parametrize('text', [
    '', '{', '[]', '"LORA"', '{"r": 1e999}', '[' * 10 ** 5])
def test_adapter_config_damaged(tmp_path, text):
  save(tmp_path / 'base', **{'x.weight': np.zeros((3, 4), np.float32)})
  pair = np.zeros((2, 4), np.float32), np.zeros((3, 2), np.float32)
  _adapter(tmp_path, {'x': pair})
  (tmp_path / 'lora' / 'adapter_config.json').write_text(text)
  refuses('adapter_config|rank', open_model,
          f'{tmp_path}/base+{tmp_path}/lora')


@pytest.mark.parametrize('module,value', [
    ('q', 3), ('layers.0.q', 3), ('layers.0.xq', 8), ('q.up', 8), ('qx', 8),
    ('layers.1.k', 5), ('layers.2.k', 8)])
def test_patterns_are_ends_of_names(module, value):
  table = {'q': 3, r'[01]\.k': 5}
  assert adapter_config.value_for(table, module, 8) == value


# Models on disk.


def test_kinds_of_source(tmp_path):
  tree = {'a': {'kernel': np.arange(6, dtype=np.float32).reshape(2, 3)},
          'b': [np.ones(2, ml_dtypes.bfloat16), np.asarray(3)]}
  names = ['a/kernel', 'b/0', 'b/1']
  with ocp.StandardCheckpointer() as saver:
    saver.save(tmp_path / 'bare', tree)
    saver.save(tmp_path / 'steps' / '9' / 'default', tree)
    saver.save(tmp_path / 'steps' / '10' / 'default', tree)
  with checkpoint.Run(tmp_path / 'run') as run:
    run.save(4, tree, {'x': np.zeros(1)})
  for folder, kind in ('bare', 'orbax'), ('steps', 'orbax'), ('run', 'run'):
    found = open_model(str(tmp_path / folder))
    assert found.kind == kind and list(found.tensors) == names
    np.testing.assert_array_equal(found.tensors['a/kernel'].array(),
                                  tree['a']['kernel'])
    assert found.tensors['b/0'].dtype == ml_dtypes.bfloat16
  found = open_model(LORA / 'plain' / 'base')
  assert found.kind == 'huggingface' and found.config['model_type'] == 'llama'
  found = open_model(LORA / 'plain' / 'base' / 'model.safetensors')
  assert found.kind == 'safetensors' and found.config is None
  (tmp_path / 'bare' / '_METADATA').write_text('{')
  refuses('Orbax pytree', open_model, tmp_path / 'bare')


def test_a_plus_in_a_path(tmp_path):
  folder = save(tmp_path / 'c++', x=np.ones(2, np.float32))
  assert open_model(folder).tensors
  shutil.copytree(LORA / 'plain', tmp_path / 'a+b')
  both = f'{tmp_path}/a+b/base+{tmp_path}/a+b/adapter'
  assert open_model(both).kind == 'huggingface'


@pytest.mark.parametrize('reference,match', [
    ('org/model@main', r'hf download org/model --revision main'),
    ('org/model', r'hf download org/model --local-dir model'),
    ('/no/such/place', 'no such file'), ('', 'must be a path'),
    (' ', 'must be a path'), ('a\0b', 'must be a path'), ('+', 'both sides'),
    ('x+', 'both sides')])
def test_absent_sources(reference, match):
  refuses(match, open_model, reference)


def test_damaged_sources(tmp_path):
  refuses('neither', open_model, tmp_path)
  base = shutil.copytree(LORA / 'plain' / 'base', tmp_path / 'm')
  refuses('no such', open_model, f'{base}+{tmp_path}/none')
  refuses('adapter_config', open_model, f'{base}+{base}')
  (base / 'config.json').write_text('{"a": ')
  refuses('config.json', open_model, base)
  (tmp_path / 'x.bin').write_bytes(b'')
  refuses('pickle', open_model, tmp_path / 'x.bin')
  index = {'weight_map': {'w': '../m/model.safetensors'}}
  (tmp_path / 'i.safetensors.index.json').write_text(json.dumps(index))
  refuses('beside the index', open_model,
          tmp_path / 'i.safetensors.index.json')


# Tokens.


def _case(name):
  weights, base, options = json.loads(str(MERGED[f'{name}/case']))
  names = ([base] if base else []) + [model for model, _ in weights]
  models = {n: open_model(TOKENS / n) for n in names}
  return dict(weights), base, read_tokenizer(options), models


@pytest.mark.parametrize('name', CASES)
def test_tokens_as_in_mergekit(name):
  """The merge of aligned rows is mergekit's, token by token."""
  weights, base, option, models = _case(name)
  plan = tokens.plan_tokens(models, base, option)
  listed = [str(t) for t in MERGED[f'{name}/tokens']]
  assert sorted(plan.vocab) == listed
  order = [plan.vocab[t] for t in listed]
  order += sorted(set(range(plan.vocab_size)) - set(order))
  for part, key in (('embed', 'model.embed_tokens.weight'),
                    ('head', 'lm_head.weight')):
    assert embeddings.is_vocabulary(key)
    rows = plan.align(key, {m: s.tensors[key] for m, s in models.items()}, base)
    arrays = {m: t.array() for m, t in rows.items()}
    for m, t in rows.items():
      for length in (3, 11):
        np.testing.assert_array_equal(stretches(t, length=length), arrays[m])
    got = sum(w * arrays[m] for m, w in weights.items())
    if base:
      got += (1 - sum(weights.values())) * arrays[base]
    np.testing.assert_allclose(got[order], MERGED[f'{name}/{part}'],
                               rtol=1e-5, atol=1e-6)


def _cut(spec, word):
  """BPE as it is defined: the merge of lowest rank first."""
  ranks = {vocabulary.merge_pair(m): i
           for i, m in enumerate(spec['model']['merges'])}
  parts = list(word)
  while True:
    found = [(ranks[p], i) for i, p in enumerate(zip(parts, parts[1:]))
             if p in ranks]
    if not found:
      return parts
    _, i = min(found)
    parts[i:i + 2] = [parts[i] + parts[i + 1]]


def test_union_cuts_text_as_its_base():
  read = [vocabulary.read_vocabulary(TOKENS / n, 99) for n in 'abc']
  made = union.grow_vocabulary(read[0], read[1:], ['<mine>'])
  for word in ('abc', 'Gabc', 'babca'):
    assert _cut(made.spec, word) == _cut(read[0].spec, word)
  assert _cut(made.spec, 'Gbd') == ['Gb', 'd']
  assert _cut(made.spec, 'cda') == ['cd', 'a']
  assert {t: made.tokens[t] for t in read[0].tokens} == read[0].tokens
  assert sorted(made.tokens.values()) == list(range(len(made.tokens)))
  # The library numbers by the model: added tokens must be in it.
  assert made.spec['model']['vocab'] == made.tokens
  assert made.added['<|im|>']['special'] and not made.added['<mine>']['special']


def test_merges_of_tokens_without_rows_go():
  for rows in range(1, 14):
    cut = vocabulary.read_vocabulary(TOKENS / 'a', rows)
    vocab, model = set(cut.spec['model']['vocab']), cut.spec['model']
    assert max(cut.tokens.values()) < rows
    for left, right in map(vocabulary.merge_pair, model['merges']):
      assert {left, right, left + right} <= vocab, rows


@pytest.mark.parametrize('entry,option', [
    ({}, TokenOption('default')),
    ({'force': True}, TokenOption('default', force=True)),
    ({'source': 'm', 'force': True}, TokenOption('model', 'm', force=True)),
    ({'source': {'kind': 'zero'}, 'force': True},
     TokenOption('zero', force=True)),
    ({'source': {'kind': 'model_token', 'model': 'm', 'token_id': 3}},
     TokenOption('model_token', 'm', 3)),
    ({'source': {'kind': 'model_token', 'model': 'm', 'token': 'y'},
      'force': True}, TokenOption('model_token', 'm', None, 'y', True))])
def test_options_of_tokens(entry, option):
  tokenizer = dict(source='base', tokens={'x': entry}, pad_to_multiple_of=8)
  assert read_tokenizer(dict(tokenizer=tokenizer)) == TokenizerOption(
      'base', {'x': option}, 8)


def test_files_of_tokens(tmp_path):
  _, _, option, models = _case('union')
  files = tokens.plan_tokens(models, None, option).files
  for name, data in files.items():
    (tmp_path / name).write_bytes(data)
  again = vocabulary.read_vocabulary(tmp_path, 99)
  plan = tokens.plan_tokens(models, None, option)
  assert again.tokens == plan.vocab and plan.files == files
  assert files['chat_template.jinja'] == b'{# a #}{{ messages }}'
  assert json.loads(files['tokenizer_config.json'])['eos_token'] == '</s>'
  # With no option, and where nothing changes, files stay bit for bit.
  own = {p.name: p.read_bytes() for p in (TOKENS / 'a').iterdir()
         if p.name not in ('config.json', 'model.safetensors')}
  assert tokens.plan_tokens(models, 'a').files == own
  assert tokens.plan_tokens(
      models, 'a', TokenizerOption('base')).files == own


def test_chat_templates(tmp_path):
  _, _, _, models = _case('union')
  shutil.copytree(TOKENS / 'c', tmp_path / 'd')
  models['d'] = open_model(tmp_path / 'd')
  files = tokens.plan_tokens(models, 'a', None, 'auto').files
  assert files['chat_template.jinja'] == b'{# c #}{{ messages }}'
  assert json.loads(files['tokenizer_config.json'])['chat_template'] == (
      '{# c #}{{ messages }}')
  files = tokens.plan_tokens(models, 'a', None, '{{ 1 }}').files
  assert files['chat_template.jinja'] == b'{{ 1 }}'
  refuses('Jinja', tokens.plan_tokens, models, 'a', None, 'chatml')
  (tmp_path / 'd' / 'chat_template.jinja').unlink()
  edit(tmp_path / 'd' / 'tokenizer_config.json', chat_template=[
      {'name': 'default', 'template': ' {{ 2 }} '}, 3])
  files = tokens.plan_tokens({'d': models['d']}, None, None, 'auto').files
  assert files['chat_template.jinja'] == b'{{ 2 }}'


def test_tokens_without_options():
  _, _, _, models = _case('union')
  plan = tokens.plan_tokens(models, 'a')
  key = 'lm_head.weight'
  held = {m: s.tensors[key] for m, s in models.items()}
  refuses('tokenizer_source', plan.align, key, held)
  assert plan.align(key, {'a': held['a']})['a'] is held['a']
  assert plan.vocab_size is None


def test_tokens_named_wrongly():
  _, _, _, models = _case('union')
  token = lambda *a, **k: TokenizerOption(
      'union', {'e': TokenOption(*a, **k)})
  plan = lambda option: tokens.plan_tokens(models, None, option)
  refuses("No model 'q'", plan, token('model', 'q'))
  refuses('no token', plan, token('model', 'a'))
  refuses('no token', plan, token('model_token', 'a', token='zz'))
  refuses('no such', plan, TokenizerOption('/no/such/model'))
  key = 'lm_head.weight'
  held = {m: s.tensors[key] for m, s in models.items()}
  wide = plan(token('model_token', 'a', 10 ** 9))
  refuses('no row', wide.align, key, held)
  other = plan(token('model_token', 'c', 0))
  refuses('no such tensor', other.align, key, {'a': held['a']})
  held['a'] = checkpoint.ArrayTensor(key, np.zeros((9, 5), np.float32))
  refuses('beyond the vocabulary', other.align, key, held)


def test_rows_that_a_model_lacks():
  """Own row; else the option, the only one, the base's, the mean, zero."""
  r = np.random.default_rng(0)
  arrays = {m: r.normal(size=(5, 2)).astype(np.float32) for m in 'abc'}
  # Tokens: all have it; a and b, c only, b and c, none, a option, forced, a pad
  ids = dict(a=[2, 1, -1, -1, -1, -1, 3, -1],
             b=[1, 3, -1, 0, -1, -1, 4, -1],
             c=[3, -1, 2, 4, -1, 1, 0, -1])
  want = {m: np.zeros((8, 2)) for m in 'abc'}
  for m, x in arrays.items():
    own = lambda token, x=x, m=m: x[ids[m][token]]
    want[m][0] = own(0)
    want[m][1] = own(1) if m != 'c' else arrays['a'][1]  # the base's
    want[m][2] = arrays['c'][2]
    want[m][3] = own(3) if m != 'a' else (
        arrays['b'][0] + np.float64(arrays['c'][4])) / 2
    want[m][5] = own(5) if m == 'c' else arrays['b'][2]
    want[m][6] = arrays['a'][4]
    want[m][7] = want[m][:7].mean(0)
  rows = embeddings.align_rows(
      'x', {m: checkpoint.ArrayTensor(m, x) for m, x in arrays.items()},
      {m: np.array(i) for m, i in ids.items()}, np.arange(8) < 7,
      {5: (False, 'b', 2), 6: (True, 'a', 4)}, 'a')
  for m in 'abc':
    np.testing.assert_allclose(rows[m].array(), want[m], rtol=1e-6)


def test_models_of_other_dtypes_and_without_tokenizer(tmp_path):
  _, _, option, models = _case('union_of_two')
  folder = shutil.copytree(TOKENS / 'a', tmp_path / 'm')
  (folder / 'tokenizer.json').unlink()
  models['m'] = open_model(folder)
  plan = tokens.plan_tokens(models, None, option)
  np.testing.assert_array_equal(plan.ids['m'], plan.ids['a'])
  refuses('no tokenizer.json', tokens.plan_tokens, models, 'm', option)
  half = checkpoint.ArrayTensor('x', np.ones((16, 1), ml_dtypes.bfloat16))
  full = checkpoint.ArrayTensor('x', np.ones((16, 1), np.float32) / 3)
  found = plan.align('x', {'a': half, 'b': full})
  assert {t.dtype.name for t in found.values()} == {'float32'}
  assert found['a'].array()[plan.vocab['<|im|>'], 0] == np.float32(1) / 3
  flat = checkpoint.ArrayTensor('x', np.arange(16, dtype=np.float32))
  assert plan.align('x', {'a': flat})['a'].shape == (plan.vocab_size,)


def test_unused_ids_are_the_mean(tmp_path):
  folder = shutil.copytree(TOKENS / 'a', tmp_path / 'm')
  spec = json.loads((folder / 'tokenizer.json').read_text())
  del spec['model']['vocab']['Ga']
  spec['model']['vocab']['zz'] = 12
  spec['model']['merges'] = spec['model']['merges'][:2]
  (folder / 'tokenizer.json').write_text(json.dumps(spec))
  edit(folder / 'config.json', vocab_size=13)
  values = np.random.default_rng(0).normal(size=(13, 3))
  save(folder, **{'embed_tokens.weight': values})
  models = {'m': open_model(folder)}
  plan = tokens.plan_tokens(models, None, TokenizerOption('base'))
  assert plan.vocab_size == 13 and not plan.used[[9, 10, 11]].any()
  got = plan.align('embed_tokens.weight', {
      'm': models['m'].tensors['embed_tokens.weight']})['m'].array()
  values[[9, 10, 11]] = values[[*range(9), 12]].mean(0)
  np.testing.assert_allclose(got, values)


@pytest.mark.parametrize('kind', ['Unigram', 'WordPiece'])
def test_other_kinds_of_tokenizer(tmp_path, kind, caplog):
  def make(name, words, score=0.0):
    vocab = ([[w, score - i] for i, w in enumerate(words)] if kind == 'Unigram'
             else {w: i for i, w in enumerate(words)})
    (tmp_path / name).mkdir()
    (tmp_path / name / 'tokenizer.json').write_text(json.dumps({
        'model': {'type': kind, 'vocab': vocab}, 'added_tokens': [
            {'id': len(words), 'content': f'<{name}>', 'special': True}]}))
    return vocabulary.read_vocabulary(tmp_path / name, 99)
  a, b = make('a', ['x', 'y']), make('b', ['y', 'z'], -3.0)
  made = union.grow_vocabulary(a, [b])
  assert made.tokens == {'x': 0, 'y': 1, '<a>': 2, 'z': 3, '<b>': 4}
  if kind == 'Unigram':
    assert made.spec['model']['vocab'][1:4] == [
        ['y', -1.0], ['<a>', -1.0], ['z', -4.0]]
  assert not caplog.records
  made = union.grow_vocabulary(vocabulary.read_vocabulary(TOKENS / 'a', 9), [b])
  assert 'spell tokens differently' in caplog.text and 'z' in made.tokens
  cut = vocabulary.read_vocabulary(tmp_path / 'b', 1)
  assert cut.tokens == {'y': 0} and not cut.complete and not cut.added


def _put(*path_and_value):
  """Sets an entry of a tokenizer; ... deletes it."""
  *path, last, value = path_and_value

  def change(spec):
    part = spec
    for key in path:
      part = part[key]
    if value is ...:
      del part[last]
    else:
      part[last] = value
  return change


_SPOILT = dict(
    twice=_put('model', 'vocab', 'z', 3),
    negative=_put('model', 'vocab', 'z', -1),
    huge=_put('model', 'vocab', 'z', 10 ** 40),
    float=_put('model', 'vocab', 'z', 1.5),
    bool=_put('model', 'vocab', 'z', True),
    surrogate=_put('model', 'vocab', '\ud800', 40),
    list=_put('model', 'vocab', ['a']),
    none=_put('model', 'vocab', ...),
    type=_put('model', 'type', 'Magic'),
    merge=_put('model', 'merges', 0, 'a b c'),
    merges=_put('model', 'merges', {'a': 'b'}),
    merge_int=_put('model', 'merges', 0, [1, 2]),
    no_merges=_put('model', 'merges', ...),
    model=_put('model', 7),
    added=_put('added_tokens', 7),
    added_int=_put('added_tokens', [7]),
    added_name=_put('added_tokens', 0, 'content', 5),
    added_twice=lambda spec: spec['added_tokens'].extend(spec['added_tokens']),
    added_id=_put('added_tokens', 0, 'id', 3),
    added_shared=lambda spec: spec['added_tokens'].append(
        {'id': 0, 'content': 'q'}),
    unigram=_put('model', dict(type='Unigram', vocab=[[1, 2]])),
    unigram_twice=_put('model', dict(type='Unigram', vocab=[['a', 2.]] * 2)))


@pytest.mark.parametrize('change', _SPOILT)
def test_tokenizers_refused(tmp_path, change):
  folder = shutil.copytree(TOKENS / 'a', tmp_path / 'm')
  spec = json.loads((folder / 'tokenizer.json').read_text())
  _SPOILT[change](spec)
  (folder / 'tokenizer.json').write_text(json.dumps(spec))
  refuses('tokenizer.json', vocabulary.read_vocabulary, folder, 99)


@pytest.mark.parametrize('text', ['', '{', '[]', '{"model": ', '[' * 10 ** 5])
def test_tokenizers_damaged(tmp_path, text):
  for name in ('tokenizer.json', 'tokenizer_config.json'):
    folder = shutil.copytree(TOKENS / 'a', tmp_path / name)
    (folder / name).write_text(text)
    refuses(name, vocabulary.read_vocabulary, folder, 99)


def test_tokenizers_of_another_format(tmp_path, monkeypatch):
  (tmp_path / 'tokenizer.model').write_bytes(b'\x0a')
  refuses('write one', vocabulary.read_vocabulary, tmp_path, 99)
  monkeypatch.setattr(vocabulary, '_LARGEST', 10)
  refuses('bytes', vocabulary.read_vocabulary, TOKENS / 'a', 99)


def test_tokens_that_only_the_config_has(tmp_path):
  folder = shutil.copytree(TOKENS / 'a', tmp_path / 'm')
  entry = {'content': '<late>', 'special': True}
  edit(folder / 'tokenizer_config.json', pad_token='<none>',
       added_tokens_decoder={'11': entry, '3': dict(entry, content='q')})
  found = vocabulary.read_vocabulary(folder, 12)
  assert found.tokens['<late>'] == 11 and 'q' not in found.tokens
  models = {'m': open_model(folder)}
  made = tokens.plan_tokens(models, None, TokenizerOption('base'))
  config = json.loads(made.files['tokenizer_config.json'])
  assert 'pad_token' not in config  # it would be an id without a row
  for table in ({'x': entry}, {'1': 5}, [entry], {'9' * 99: entry}):
    edit(folder / 'tokenizer_config.json', added_tokens_decoder=table)
    refuses('added_tokens_decoder', vocabulary.read_vocabulary, folder, 12)


# Differences.


def _tensors(**arrays):
  return {k: checkpoint.ArrayTensor(k, v) for k, v in arrays.items()}


def test_diff():
  a = _tensors(same=np.ones(4, np.float32), away=np.ones(1), shape=np.ones(2),
               kind=np.ones(2, np.float32), w=np.array([1., 2., 2.]),
               n=np.array([1., np.nan, np.inf, 1.]), e=np.ones((0, 3)),
               i=np.array([1, 2]), zero=np.zeros(2))
  b = _tensors(same=np.ones(4, np.float32), new=np.ones(1), shape=np.ones(3),
               kind=np.ones(2, ml_dtypes.bfloat16), w=np.array([1., 2., 5.]),
               n=np.array([2., np.nan, 0., np.nan]), e=np.ones((0, 3)),
               i=np.array([1, 4]), zero=-np.zeros(2))
  rows = {r.name: r for r in diff.diff(a, b)}
  assert {k: r.status for k, r in rows.items()} == dict(
      same='equal', away='only in a', shape='shape', kind='dtype', w='differs',
      n='differs', e='equal', i='differs', zero='differs', new='only in b')
  assert rows['w'].max_abs == 3 and rows['w'].relative == 1
  assert rows['w'].differing == 1 / 3
  np.testing.assert_allclose(rows['w'].cosine, 15 / (3 * 30 ** 0.5))
  assert rows['n'].not_finite == (2, 2) and rows['n'].max_abs == 1
  assert rows['n'].differing == 0.75  # a NaN of the same bits is the same
  assert rows['zero'].relative == 0 and rows['zero'].differing == 1
  assert rows['kind'].differing == 0
  text = diff.format_diff(list(rows.values()), 'difference')
  assert 'total' in text and '10 leaves, 8 not equal, 1 only in a' in text
  order = re.findall(r'^(\w+) ', text, re.M)
  assert order[1:6] == ['away', 'new', 'shape', 'n', 'w']
  refuses('name', diff.format_diff, [], 'nam')
  assert diff.differ(list(rows.values()))
  assert not diff.differ(diff.diff(a, a))
  assert diff.format_diff([]).endswith('0 leaves, 0 not equal.')


def test_diff_in_stretches(monkeypatch):
  r = np.random.default_rng(0)
  x, y = r.normal(size=(2, 7, 11)).astype(np.float32)
  whole, = diff.diff(_tensors(x=x), _tensors(x=y))
  monkeypatch.setattr(diff, '_CHUNK', 5)
  parts, = diff.diff(_tensors(x=x), _tensors(x=y))
  np.testing.assert_allclose(whole[3:7], parts[3:7], rtol=1e-12)
  back, = diff.diff(_tensors(x=y), _tensors(x=x))
  assert whole.max_abs == back.max_abs == abs(x - y).max()
  np.testing.assert_allclose(whole.relative,
                             np.linalg.norm(x - y) / np.linalg.norm(x), 1e-6)


# Adapters from differences.


def _tuned(tmp_path, rank=2):
  """A model, and one that is away from it by matrices of rank 2."""
  r = np.random.default_rng(0)
  real = lambda *shape: r.normal(size=shape).astype(np.float32)
  base = {'a.q.weight': real(12, 8), 'a.q.bias': real(12),
          'b.q.weight': real(8, 12), 'norm.weight': real(8),
          'embed_tokens.weight': real(9, 8), 'still.weight': real(4, 4)}
  tuned = {k: v + 0.1 * real(*v.shape) for k, v in base.items()}
  tuned['still.weight'] = base['still.weight']
  for name in ('a.q.weight', 'b.q.weight'):
    rows, columns = base[name].shape
    tuned[name] = base[name] + real(rows, rank) @ real(rank, columns)
  return [open_model(save(tmp_path / n, **m))
          for n, m in (('base', base), ('tuned', tuned))]


def test_extract_and_fold_back(tmp_path):
  base, tuned = _tuned(tmp_path)
  out = tmp_path / 'out'
  found = extract_lora.extract_lora(base, tuned, out, rank=4)
  assert found.ranks == {'a.q': 2, 'b.q': 2}  # no more than there is
  assert max(found.errors.values()) < 1e-5
  assert set(found.left) == {'a.q.bias', 'norm.weight', 'embed_tokens.weight'}
  back = open_model(f'{tmp_path}/base+{out}').tensors
  for name in ('a.q.weight', 'b.q.weight', 'still.weight'):
    np.testing.assert_allclose(back[name].array(), tuned.tensors[name].array(),
                               rtol=1e-4, atol=1e-5)
  np.testing.assert_array_equal(back['norm.weight'].array(),
                                base.tensors['norm.weight'].array())
  assert sorted(p.name for p in tmp_path.iterdir()) == ['base', 'out', 'tuned']
  refuses('already exists', extract_lora.extract_lora, base, tuned, out)


def test_extract_saves_the_rest(tmp_path):
  base, tuned = _tuned(tmp_path)
  found = extract_lora.extract_lora(base, tuned, tmp_path / 'out', rank=2,
                                    modules='^a', save_rest=True)
  assert found.ranks == {'a.q': 2} and found.left == ['a.q.bias']
  back = open_model(f'{tmp_path}/base+{tmp_path}/out').tensors
  for name in ('b.q.weight', 'norm.weight', 'embed_tokens.weight'):
    np.testing.assert_array_equal(back[name].array(),
                                  tuned.tensors[name].array())
  config = json.loads((tmp_path / 'out/adapter_config.json').read_text())
  assert config['modules_to_save'] == ['b.q', 'embed_tokens', 'norm']


@pytest.mark.parametrize('shape', [(40, 30), (700, 600)])
def test_extract_is_the_best_of_its_rank(tmp_path, shape):
  """Eckart and Young; the larger one is randomised."""
  r = np.random.default_rng(1)
  size = min(shape)
  left, _ = np.linalg.qr(r.normal(size=(shape[0], size)))
  right, _ = np.linalg.qr(r.normal(size=(shape[1], size)))
  values = 0.7 ** np.arange(size)
  delta = (left * values) @ right.T
  base = save(tmp_path / 'base', **{'x.weight': np.zeros(shape)})
  tuned = save(tmp_path / 'tuned', **{'x.weight': delta})
  opened = [open_model(p) for p in (base, tuned)]
  found = extract_lora.extract_lora(*opened, tmp_path / 'out', rank=4)
  best = np.linalg.norm(values[4:]) / np.linalg.norm(values)
  np.testing.assert_allclose(found.errors['x'], best, rtol=1e-4)
  if size < 500:
    share = np.cumsum(values ** 2) / (values ** 2).sum()
    found = extract_lora.extract_lora(*opened, tmp_path / 'energy', rank=None,
                                      energy=0.9)
    assert found.ranks['x'] == 1 + int((share < 0.9).sum())


def test_extract_for_conv1d(tmp_path):
  folder = LORA / 'conv1d'
  base = open_model(folder / 'base')
  tuned = open_model(f'{folder}/base+{folder}/adapter')
  found = extract_lora.extract_lora(base, tuned, tmp_path / 'out', rank=2)
  assert len(found.ranks) == 3 and found.left == ['lm_head.weight']
  back = open_model(f'{folder}/base+{tmp_path}/out').tensors
  for module in found.ranks:
    np.testing.assert_allclose(back[module + '.weight'].array(),
                               tuned.tensors[module + '.weight'].array(),
                               rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('settings,match', [
    (dict(rank=0), 'rank'), (dict(rank=1.5), 'rank'), (dict(rank=None), 'rank'),
    (dict(energy=0.0), 'energy'), (dict(energy=1.1), 'energy'),
    (dict(energy=float('nan')), 'energy'), (dict(modules='('), 'modules'),
    (dict(modules='none'), 'No matrix')])
def test_extract_refuses(tmp_path, settings, match):
  base, tuned = _tuned(tmp_path)
  refuses(match, extract_lora.extract_lora, base, tuned, tmp_path / 'out',
          **settings)
  lacking = tuned._replace(tensors=dict(list(tuned.tensors.items())[1:]))
  refuses('only', extract_lora.extract_lora, base, lacking, tmp_path / 'out')
  assert not (tmp_path / 'out').exists()


# Cards.


def test_card_names_no_directory(tmp_path):
  parents = {'/data/me/llama': 'aa', '/data/you/llama': 'bb',
             'x/base+/data/me/lora': 'cc'}
  recipe = ('models:\n- model: /data/me/llama\n- model: "/data/you/llama"\n'
            '- model: x/base+/data/me/lora\n- model: /elsewhere/deep/one\n'
            'parameters: {filter: a/b/c, t: 1/2}\n# ``` in a comment\n')
  got = card.write_card(
      tmp_path, method='ties', recipe=recipe, parents=parents, seed=3,
      command=['kt-merge', '/home/me/my recipe.yml', '--out=/home/me/out'],
      score=np.float32(0.5))
  text = (tmp_path / 'README.md').read_text()
  stored = (tmp_path / 'card.json').read_text()
  assert json.loads(stored) == got and got['seed'] == 3 and got['score'] == 0.5
  for part in ('/data', '/home', '/elsewhere', str(tmp_path)):
    assert part not in text and part not in stored
  assert [p['name'] for p in got['parents']] == ['llama', 'llama-2',
                                                 'base+lora']
  assert 'a/b/c' in text and 't: 1/2' in text and '````yaml' in text
  assert got['command'] == "kt-merge 'my recipe.yml' --out=out"
  assert 'model: llama\n' in got['recipe'] and '"llama-2"' in got['recipe']
