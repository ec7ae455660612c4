"""Text: what is promised of tokenizers, rows, tasks, mixtures and alignment."""
import json
import sys
import types

import ml_collections
import numpy as np
import pytest

from kt_jax import data
from kt_jax.core import UserError
from kt_jax.data import _text_layout as text_layout
from kt_jax.data import sources
from kt_jax.data.toy import strings

CHARACTERS = data.tokenizer('characters')
VERSE = 'To be, or not to be:\nthat is the question.\n' * 30


def own(config, *, n):
  del config
  return [f'document {i} ' + 'x' * (i % 7) for i in range(n)]


def by_split(config):
  del config
  return {'train': [('a=', 'b')], 'test': [('c=', 'd')]}


def nothing(config):
  del config
  return 7


def pairs_config(**kw):
  return {'length': 32, 'prompt': 20, 'domains': {
      'sums': dict(source='task:add', train=40, validation=5, test=5),
      'words': dict(source='task:reverse', train=40, test=5, share=3.0)}} | kw


def read(row, arrays, mask):
  return CHARACTERS.decode(arrays.tokens[row][mask])


def same(a, b):
  assert a.keys() == b.keys()
  for k in a:
    assert a[k].dtype == b[k].dtype
    np.testing.assert_array_equal(a[k], b[k], err_msg=k)


def take(iterator, n):
  return [next(iterator) for _ in range(n)]


def refused(call, *says):
  with pytest.raises(UserError) as e:
    call()
  for x in says:
    assert x in str(e.value)
  assert '\n' not in str(e.value)


# Tokenizers.


def test_characters():
  text = ''.join(map(chr, range(32, 127))) + '\n'
  ids = CHARACTERS.encode(text)
  assert isinstance(ids, list) and isinstance(ids[0], int)
  assert CHARACTERS.size == 99 and sorted(ids) == list(range(3, 99))
  assert CHARACTERS.decode([1, *ids, 2, 0]) == text
  assert (CHARACTERS.pad, CHARACTERS.bos, CHARACTERS.eos) == (0, 1, 2)
  assert [CHARACTERS.vocabulary[i] for i in ids] == list(text)
  assert CHARACTERS.encode('') == [] and CHARACTERS.decode([]) == ''
  for bad in ('a\tb', 'a\u00e9b', 'a\U0001f600b', 'a\ud800b'):
    refused(lambda bad=bad: CHARACTERS.encode(bad), ascii(bad[1]),
            'position 1')
  refused(lambda: CHARACTERS.decode([99]), '98')


def test_bytes():
  x = data.tokenizer('bytes')
  text = 'a \u00e9t\u00e9\n\u4e16\U0001f600\0'
  ids = x.encode(text)
  assert x.size == 259 and [i - 3 for i in ids] == [*text.encode()]
  assert x.decode([1, *ids, 2, 0]) == text
  assert x.decode(ids[:3]) == 'a \ufffd'
  assert b''.join(x.pieces[i] for i in ids) == text.encode()
  # Every byte of a character ends where it does.
  assert x.ends(text) == [i for i, c in enumerate(text, 1)
                          for _ in c.encode()]
  assert len({*x.vocabulary}) == 259
  refused(lambda: x.encode('a\ud800'), 'position 1')
  refused(lambda: x.decode([259]), '258')
  ids = data.align_vocabularies(CHARACTERS, x)
  assert np.all(ids >= 0) and ids[2] == 2
  at = data.align_positions('t\u00e9', x, x)
  np.testing.assert_array_equal(at, [0, -1, 2])


def library(folder, kind, config=None, **files):
  """A tiny tokenizer of a kind, saved as others save theirs."""
  tk = pytest.importorskip('tokenizers')
  corpus = ['the cat sat on the mat', 'a cat, the dog \u00e9t\u00e9'] * 4
  kw = dict(show_progress=False, special_tokens=['<s>', '</s>', '[UNK]'])
  if kind == 'bytes':
    raw = tk.Tokenizer(tk.models.BPE())
    raw.pre_tokenizer = tk.pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = tk.decoders.ByteLevel()
    raw.post_processor = tk.processors.ByteLevel(trim_offsets=True)
    trainer = tk.trainers.BpeTrainer(
        vocab_size=275, initial_alphabet=tk.pre_tokenizers.ByteLevel.alphabet(),
        **kw)
  elif kind == 'metaspace':
    raw = tk.Tokenizer(tk.models.BPE(byte_fallback=True))
    raw.pre_tokenizer = tk.pre_tokenizers.Metaspace(prepend_scheme='never')
    raw.decoder = tk.decoders.Sequence([
        tk.decoders.ByteFallback(), tk.decoders.Metaspace(
            prepend_scheme='never')])
    kw['special_tokens'] += [f'<0x{i:02X}>' for i in range(256)]
    trainer = tk.trainers.BpeTrainer(vocab_size=290, **kw)
  else:
    raw = tk.Tokenizer(tk.models.WordPiece(unk_token='[UNK]'))
    raw.pre_tokenizer = tk.pre_tokenizers.BertPreTokenizer()
    raw.decoder = tk.decoders.WordPiece()
    trainer = tk.trainers.WordPieceTrainer(vocab_size=60, **kw)
  raw.train_from_iterator(corpus, trainer)
  raw.enable_truncation(3)
  raw.enable_padding(length=50)
  folder.mkdir()
  spec = json.loads(raw.to_str())
  # Spelled bytes are plain tokens of the vocabulary.
  spec['added_tokens'] = spec['added_tokens'][:3]
  (folder / 'tokenizer.json').write_text(json.dumps(spec))
  (folder / 'tokenizer_config.json').write_text(json.dumps(
      {'bos_token': '<s>', 'eos_token': {'content': '</s>'}}))
  for name, content in ({'config.json': config} | files).items():
    if content is not None:
      (folder / name).write_text(json.dumps(content))
  return data.tokenizer(str(folder))


def test_tokenizer_json(tmp_path):
  x = library(tmp_path / 'a', 'bytes', {'vocab_size': 300, 'eos_token_id': 7})
  text = 'the cat \u00e9  \U0001f600\n the mat'
  assert x.decode(x.encode(text)) == text and len(x.encode(text)) > 3
  assert (x.bos, x.eos, x.pad, x.size) == (0, 1, 1, 300)
  assert b''.join(x.pieces[i] for i in x.encode(text)) == text.encode()
  assert x.vocabulary[299] == '' and x.pieces[x.eos] == b''
  (tmp_path / 'a' / 'tokenizer_config.json').unlink()
  config = tmp_path / 'a' / 'config.json'
  config.write_text('{"eos_token_id": [7, 8], "pad_token_id": 3}')
  y = data.tokenizer(str(tmp_path / 'a'))
  assert (y.bos, y.eos, y.pad) == (None, 7, 3) and y.size < 300
  assert x.digest != y.digest != CHARACTERS.digest
  assert y.digest == data.tokenizer(str(tmp_path / 'a')).digest
  for text, says in [('{', 'not JSON'), ('[]', 'object'),
                     ('{"eos_token_id": 5000}', 'eos_token_id'),
                     ('{"bos_token_id": "a"}', 'bos_token_id'),
                     ('{"vocab_size": 100000000}', '100000000')]:
    config.write_text(text)
    refused(lambda: data.tokenizer(str(tmp_path / 'a')), says)


def test_hostile_tokenizers(tmp_path, monkeypatch):
  pytest.importorskip('tokenizers')
  path = tmp_path / 'tokenizer.json'
  refused(lambda: data.tokenizer(str(tmp_path)), 'no tokenizer.json')
  word = {'type': 'WordLevel', 'unk_token': 'x'}
  for content in ('', '{', '[]', '{"model": 3}', '[' * 10**5,
                  json.dumps({'model': word | {'vocab': {'a': 4 * 10**9}}}),
                  json.dumps({'model': word | {'vocab': {}}})):
    path.write_text(content)
    refused(lambda: data.tokenizer(str(tmp_path)), 'tokenizer.json')
  path.write_bytes(b'\xff\xfe')
  refused(lambda: data.tokenizer(str(tmp_path)), 'tokenizer.json')
  path.write_text(json.dumps({'model': word | {'vocab': {'a': 0}}}))
  lacking = data.tokenizer(str(tmp_path))
  refused(lambda: lacking.encode('\nb'), 'UNK', 'cannot be encoded')
  refused(lambda: data.load_text(pairs_config(tokenizer=str(tmp_path))),
          'data.domains.sums: example 1')
  monkeypatch.setitem(sys.modules, 'tokenizers', None)
  refused(lambda: data.tokenizer(str(tmp_path)),
          'pip install kt_jax[language]')
  refused(lambda: data.tokenizer('charcters'), "Did you mean 'characters'")
  refused(lambda: data.tokenizer(3), 'got 3')


# Rows.


@pytest.mark.parametrize('size', [2, 7, 8, 9, 15, 16, 40])
@pytest.mark.parametrize('prompt', [0, 1, 3])
def test_windows_predict_every_token_once(size, prompt):
  x = text_layout.windows(np.arange(size) + 5, 8, prompt, pad=0)
  shared = max(prompt, 1)
  np.testing.assert_array_equal(x.tokens[x.targets],
                                np.arange(shared, size) + 5)
  assert not x.targets[:, :shared].any()
  np.testing.assert_array_equal(x.segments == 1, x.tokens != 0)
  for row in x.tokens:
    assert np.all(np.diff(row[row > 0]) == 1)


@pytest.mark.parametrize('pack', [True, False])
@pytest.mark.parametrize('open_rows', [text_layout.OPEN, 2])
def test_packing_loses_and_splits_nothing(pack, open_rows, monkeypatch):
  monkeypatch.setattr(text_layout, 'OPEN', open_rows)
  r = np.random.default_rng(0)
  documents = [list(r.integers(1, 99, r.integers(2, 13))) for _ in range(60)]
  x = text_layout.documents(documents, 12, 0, pack)
  found = []
  for tokens, segments, targets in zip(*x):
    count = segments.max()
    assert list(np.unique(segments[segments > 0])) == list(range(1, count + 1))
    assert pack or count == 1
    inside = np.flatnonzero(segments)
    assert list(inside) == list(range(len(inside)))  # no gaps
    for k in range(1, count + 1):
      where = np.flatnonzero(segments == k)
      assert list(where) == list(range(where[0], where[-1] + 1))
      assert list(targets[where]) == [False] + [True] * (len(where) - 1)
      found.append(tokens[where].tolist())
    assert not targets[segments == 0].any()
  assert sorted(found) == sorted(map(list, documents))
  assert pack == (len(x.tokens) < 60)


def test_layouts_by_hand():
  x = text_layout.documents([[5, 6, 7], [8, 9, 1, 2], [3, 4]], 6, 0, True)
  np.testing.assert_array_equal(x.tokens, [[5, 6, 7, 3, 4, 0],
                                           [8, 9, 1, 2, 0, 0]])
  np.testing.assert_array_equal(x.segments, [[1, 1, 1, 2, 2, 0],
                                             [1, 1, 1, 1, 0, 0]])
  np.testing.assert_array_equal(x.targets, [[0, 1, 1, 0, 1, 0],
                                            [0, 1, 1, 1, 0, 0]])
  x = text_layout.pairs([[5, 6], [7, 8, 9]], [[1, 2], [3]], 6, 3, 0)
  np.testing.assert_array_equal(x.tokens, [[0, 5, 6, 1, 2, 0],
                                           [7, 8, 9, 3, 0, 0]])
  np.testing.assert_array_equal(x.segments, [[0, 1, 1, 1, 1, 0],
                                             [1, 1, 1, 1, 0, 0]])
  np.testing.assert_array_equal(x.targets, [[0, 0, 0, 1, 1, 0],
                                            [0, 0, 0, 1, 0, 0]])
  x = text_layout.windows([5, 6, 7, 8, 9], 4, 0, 0)
  np.testing.assert_array_equal(x.tokens, [[5, 6, 7, 8], [8, 9, 0, 0]])
  np.testing.assert_array_equal(x.targets, [[0, 1, 1, 1], [0, 1, 0, 0]])


# Sources.


def test_text_is_cut_by_position(tmp_path):
  (tmp_path / 'verse.txt').write_text(VERSE)
  config = ml_collections.ConfigDict({
      'length': 16, 'data_dir': str(tmp_path),
      'domains': {'verse': {'source': 'verse.txt'}}})
  splits = data.load_text(config)
  text = ''
  for part in splits[:3]:
    n = (part.segments[:, 1:] > 0).sum()
    assert part.targets.sum() == n
    tokens = part.tokens[:, 1:][part.segments[:, 1:] > 0]
    text += CHARACTERS.decode([part.tokens[0, 0], *tokens])
  assert text == VERSE
  info = splits.info
  assert (info.classes, info.input_shape, info.mean) == (99, (16,), ())
  assert info.sizes == {k: len(getattr(splits, k)) for k in info.sizes}
  assert info.fingerprint == data.load_text(config).info.fingerprint
  config.domains.verse.train = 0.5
  half = data.load_text(config)
  assert len(half.train) == round(len(splits.train) / 2)
  assert half.info.fingerprint != info.fingerprint
  np.testing.assert_array_equal(half.train.tokens,
                                splits.train.tokens[half.train.ids])
  assert data.abstract_text(config).sizes == half.info.sizes
  some = {k: 2 for k in info.sizes}
  config.domains.verse.update(some)
  assert data.load_text(config).info.sizes == some
  config.data_dir = ''
  assert data.abstract_text(config).sizes == some  # the file is not read
  refused(lambda: data.load_text(config), 'no file verse.txt')
  config.data_dir = str(tmp_path)
  config.domains.verse.train = 10**6
  refused(lambda: data.load_text(config), 'train=1000000', 'examples')
  (tmp_path / 'verse.txt').write_text('')
  refused(lambda: data.load_text(config), 'verse.txt is empty')
  (tmp_path / 'verse.txt').write_text('a\u00e9' * 99, encoding='utf-8')
  refused(lambda: data.load_text(config), 'data.domains.verse', r"'\xe9'",
          'position 1')
  (tmp_path / 'verse.txt').write_bytes(b'\xff')
  refused(lambda: data.load_text(config), 'UTF-8')


def test_tiny_shakespeare(tmp_path, monkeypatch):
  config = {'length': 16, 'domains': {'s': {'source': 'tiny_shakespeare'}}}
  monkeypatch.delenv('KT_JAX_TEXT_DIR', raising=False)
  monkeypatch.setenv('TFDS_DATA_DIR', str(tmp_path / 'tfds'))
  refused(lambda: data.load_text(config), 'tinyshakespeare.txt', 'the path')
  (tmp_path / 'text').mkdir()
  (tmp_path / 'tfds').mkdir()
  (tmp_path / 'text' / 'tinyshakespeare.txt').write_text(VERSE)
  first = data.load_text(config).info
  (tmp_path / 'text' / 'tinyshakespeare.txt').rename(tmp_path / 'text' / 'x')
  cuts = {'train': slice(0, 999), 'validation': slice(999, 1200),
          'test': slice(1200, None)}
  monkeypatch.setattr(sources, '_builder', lambda *args: types.SimpleNamespace(
      info=types.SimpleNamespace(splits=cuts),
      as_data_source=lambda k: [{'text': VERSE[cuts[k]].encode()}]))
  assert data.load_text(config).info == first
  (tmp_path / 'text' / 'x').rename(tmp_path / 'text' / 'tinyshakespeare.txt')
  monkeypatch.setenv('TFDS_DATA_DIR', '')
  monkeypatch.setenv('KT_JAX_TEXT_DIR', str(tmp_path / 'text'))
  assert data.load_text(config).info == first


def test_jsonl(tmp_path):
  path = tmp_path / 'a.jsonl'
  lines = [{'text': 'x' * (i % 9 + 1) + str(i)} for i in range(40)]
  path.write_text('\n'.join(map(json.dumps, lines)) + '\n\n')
  config = {'length': 16, 'domains': {'a': {'source': str(path)}}}
  splits = data.load_text(config)
  found = [CHARACTERS.decode(t[s == k]) for part in splits[:3]
           for t, s in zip(part.tokens, part.segments)
           for k in range(1, s.max() + 1)]
  assert sorted(found) == sorted(x['text'] for x in lines)
  assert len(splits.train) < 36
  row = splits.train
  assert (row.tokens == CHARACTERS.eos).sum() == 36
  assert data.abstract_text(config).sizes == splits.info.sizes
  config['pack'] = False
  assert data.load_text(config).info.sizes == {
      'train': 36, 'validation': 2, 'test': 2}
  config['add_bos'] = True
  assert np.all(data.load_text(config).train.tokens[:, 0] == CHARACTERS.bos)
  config['length'] = 10
  refused(lambda: data.load_text(config), 'documents', 'the longest 13')
  config['too_long'] = 'drop'
  kept = data.load_text(config).train
  assert 0 < len(kept) < 36 and np.all(kept.segments.sum(1) > 0)
  # Pairs: no prompt in two splits.
  path.write_text('\n'.join(json.dumps(
      {'prompt': f'{i % 30}=', 'response': str(i)}) for i in range(90)))
  config = {'length': 12, 'prompt': 6, 'domains': {'a': {'source': str(path)}}}
  splits = data.load_text(config)
  assert sum(splits.info.sizes.values()) == 90
  prompts = [{read(i, part, slice(0, 6)) for i in range(len(part))}
             for part in splits[:3]]
  assert all(prompts) and not (prompts[0] & prompts[1] or prompts[0]
                               & prompts[2] or prompts[1] & prompts[2])
  config['domains']['a']['disjoint'] = False
  assert set(data.load_text(config).info.sizes.values()) == {90}
  for line, says in [('{', 'line 2 is not JSON'), ('[1]', 'line 2 must be'),
                     ('[' * 10**5, 'line 2 is not JSON'),
                     ('{"text": 3}', 'line 2 must be'),
                     ('{"prompt": "a"}', 'line 2 must be'),
                     ('{"text": "a"}', 'line 2 has text')]:
    path.write_text('{"prompt": "a", "response": "b"}\n' + line)
    refused(lambda: data.load_text(config), says)
  path.write_text('\n')
  refused(lambda: data.load_text(config), 'a.jsonl is empty')
  config['domains']['a']['disjoint'] = True
  path.write_text('{"text": "abc"}')
  refused(lambda: data.load_text(config), 'takes 3')


def test_sources_of_the_user():
  config = {'length': 24, 'domains': {'a': {
      'source': 'text_test:own', 'kw': {'n': 50}}}}
  assert data.load_text(config).info.sizes['train'] > 5
  config['domains']['a']['kw'] = {'m': 50}
  refused(lambda: data.load_text(config), "No setting of own 'm'")
  config['domains']['a'] = {'source': 'text_test:nothing'}
  refused(lambda: data.load_text(config), 'text_test:nothing', 'int')
  config['domains']['a'] = {'source': 'text_test:by_split'}
  config['prompt'] = 4
  assert data.load_text(config).info.sizes == {
      'train': 1, 'validation': 0, 'test': 1}


# Tasks.


def test_pairs_are_laid_out_around_the_prompt():
  splits = data.load_text(pairs_config())
  x = splits.train
  assert list(x.domains.items()) == [('sums', 1.0), ('words', 3.0)]
  assert splits.info.sizes == {'train': 80, 'validation': 5, 'test': 10}
  assert data.abstract_text(pairs_config()).sizes == splits.info.sizes
  assert len(set(x.ids)) == 80 and list(np.bincount(x.domain)) == [40, 40]
  for row in range(80):
    prompt = read(row, x, np.arange(32) < 20)
    response = read(row, x, x.targets[row])
    if x.domain[row]:
      assert prompt == f'reverse {response[::-1]}='
    else:
      assert str(eval(prompt[:-1])) == response  # pylint: disable=eval-used
    real = np.flatnonzero(x.segments[row])
    assert list(real) == list(range(20 - len(prompt), 21 + len(response)))
    assert x.tokens[row, real[-1]] == CHARACTERS.eos
    assert np.all(np.flatnonzero(x.targets[row]) >= 20)
    assert not x.tokens[row][x.segments[row] == 0].any()


RIGHT = {
    'add': lambda p: str(sum(map(int, p[:-1].split('+')))),
    'reverse': lambda p: p.split()[1][-2::-1],
    'sort': lambda p: ''.join(sorted(p.split()[1][:-1])),
    'copy': lambda p: p.split()[1][:-1],
    'upper': lambda p: p.split()[1][:-1].upper(),
    'recall': lambda p: p[p.index(p[-2]) + 1],
    'shift': lambda p: ''.join(
        x if x == ' ' else chr((ord(x) - 100) % 26 + 97)
        for x in p.split(' ', 1)[1][:-1]),
    'substitution': None, 'facts': None, 'noise': None, 'style': None}


@pytest.mark.parametrize('name', RIGHT)
def test_tasks(name):
  rng = strings.generator(3)
  pairs = strings.pairs_of(name, rng, 50, {})
  assert pairs == strings.pairs_of(name, strings.generator(3), 50, {})
  assert len(pairs) == 50
  for prompt, response in pairs:
    CHARACTERS.encode(prompt + response)
    assert response and (not RIGHT[name] or response == RIGHT[name](prompt))
  known = {}
  if name not in ('noise',):
    assert all(known.setdefault(p, r) == r for p, r in pairs)
  refused(lambda: strings.pairs_of(name, rng, 5, {'digit': 1}), 'digit')


def test_ciphers_are_languages():
  draw = lambda **kw: strings.pairs_of('substitution', strings.generator(0), 40,
                                       kw)
  assert [x[1] for x in draw(key=1)] == [x[1] for x in draw(key=2)]
  assert [x[0][14:] for x in draw(key=1)] != [x[0][14:] for x in draw(key=2)]
  (p, r), = strings.pairs_of('shift', strings.generator(0), 1, {'key': 26})
  assert p == f'shift26 {r}='


def test_style_dresses_the_same_pairs():
  draw = lambda name, kw: strings.pairs_of(name, strings.generator(5), 9, kw)
  plain = draw('facts', {'table': 4})
  style = draw('style', {'task': 'facts', 'prefix': '<', 'suffix': '>',
                         'uppercase': True, 'kw': {'table': 4}})
  assert style == [(p, f'<{r.upper()}>') for p, r in plain]
  assert plain != draw('facts', {'table': 5})


def prompts_of(part):
  return [CHARACTERS.decode(t[:20]) for t in part.tokens]


def test_splits_of_tasks_share_no_prompt():
  config = pairs_config(domains={'a': dict(
      source='task:add', kw={'digits': 1}, train=80, validation=10, test=10)})
  parts = list(map(prompts_of, data.load_text(config)[:3]))
  assert len(set(sum(parts, []))) == 100
  config['domains']['a']['train'] = 40
  less = list(map(prompts_of, data.load_text(config)[:3]))
  assert less[1:] == parts[1:] and less[0] == parts[0][:40]
  config['split_seed'] = 5
  assert less != list(map(prompts_of, data.load_text(config)[:3]))
  config['domains']['a']['train'] = 81
  refused(lambda: data.load_text(config), 'has 100 prompts; 101')
  config['domains']['a'] = dict(source='task:facts', kw={'size': 30}, train=30,
                                test=10, disjoint=False)
  parts = list(map(prompts_of, data.load_text(config)[:3]))
  assert list(map(len, parts)) == [30, 0, 10] and set(parts[2]) < set(parts[0])


def test_tasks_as_text():
  config = pairs_config()
  del config['prompt']
  for domain in config['domains'].values():
    domain['as_text'] = True
  splits = data.load_text(config)
  x = splits.train
  text = ''.join(read(i, x, x.segments[i] > 0) for i in range(len(x)))
  lines = text.splitlines()
  assert len(lines) == 80 and len(x) < 80
  assert all(str(eval(p)) == r for p, r in (  # pylint: disable=eval-used
      line.split('=') for line in lines if '+' in line))
  assert data.abstract_text(config).sizes == splits.info.sizes
  config['too_long'] = 'drop'
  assert data.load_text(config).info == splits.info


def test_text_and_pairs_in_one_mixture(tmp_path):
  (tmp_path / 'v.txt').write_text(VERSE)
  config = pairs_config()
  config['domains']['verse'] = dict(source=str(tmp_path / 'v.txt'))
  x = data.load_text(config).train
  assert x.tokens.shape[1] == 32 and set(x.domain) == {0, 1, 2}
  assert not x.targets[:, :20].any()


@pytest.mark.parametrize('change, says', [
    ({'prompt': 5}, ('data.domains.sums', 'prompts', 'more than 5',
                     'data.prompt=5', "'drop'")),
    ({'length': 21}, ('responses', 'more than 1 ')),
    ({'lenght': 5}, ("Did you mean 'length'",)),
    ({'length': 1}, ('data.length',)), ({'prompt': 32}, ('data.prompt',)),
    ({'prompt': True}, ('data.prompt',)), ({'add_eos': 1}, ('data.add_eos',)),
    ({'too_long': 'cut'}, ('data.too_long', 'drop, refuse')),
    ({'tokenizer': 'words'}, ('tokenizer',)), ({'tokenizer': 3}, ('string',)),
    ({'split_seed': -1}, ('data.split_seed',)), ({'data_dir': 3}, ('string',)),
    ({'domains': {}}, ('at least one',)), ({'domains': 3}, ('mapping',)),
    ({'domains': {'a': 3}}, ('data.domains.a',)),
    ({'domains': {'a': {}}}, ('data.domains.a needs source',)),
    ({'domains': {'a': {'source': 'task:ad', 'train': 1}}}, ("mean 'add'",)),
    ({'domains': {'a': {'source': 'tiny_shakspeare'}}},
     ("mean 'tiny_shakespeare'",)),
    ({'domains': {'a': {'source': 'task:add'}}}, ('train >= 1',)),
    ({'domains': {'a': {'source': 'task:add', 'train': 1.5}}}, ('a.train',)),
    ({'domains': {'a': {'source': 'task:add', 'train': -1}}}, ('a.train',)),
    ({'domains': {'a': {'source': 'task:add', 'train': float('nan')}}},
     ('a.train',)),
    ({'domains': {'a': {'source': 'task:add', 'share': -1}}}, ('a.share',)),
    ({'domains': {'a': {'source': 'task:add', 'kw': 3}}}, ('a.kw',)),
    ({'domains': {'a': {'source': 'task:add', 'train': 3,
                        'kw': {'digit': 3}}}}, ("mean 'digits'",)),
    ({'domains': {'a': {'source': 'task:add', 'train': 3,
                        'kw': {'digits': 'x'}}}}, ("task 'add'",)),
    ({'domains': {'a': {'source': 'task:style', 'train': 3, 'kw': {
        'suffix': '\u00e9'}}}}, ('example 1', r"'\xe9'")),
])
def test_bad_config_is_one_clear_line(change, says):
  refused(lambda: data.load_text(pairs_config(**change)), *says)


def test_too_long_dropped_and_replaced():
  config = pairs_config(prompt=12, too_long='drop')
  splits = data.load_text(config)
  assert splits.info.sizes == data.abstract_text(config).sizes
  assert max(map(len, prompts_of(splits.train))) <= 20
  config['prompt'] = 2
  refused(lambda: data.load_text(config), 'has 0 prompts')


# Batches.


def make(**kw):
  return data.mixed_stream(data.load_text(pairs_config()).train, **{
      'batch_size': 8, 'seed': 5, **kw})


def test_stream_of_text():
  arrays = data.load_text(pairs_config()).train
  new = lambda **kw: data.stream(arrays, batch_size=8, seed=5, **kw)
  batches = take(new(), 12)
  x = batches[0]
  assert x.keys() == {'tokens', 'segments', 'targets', 'ids', 'domain',
                      'index'}
  same({k: x[k] for k in x if k != 'index'}, arrays.batch(x['index']))
  same(batches[7], next(new(start=7)))
  assert sorted(np.concatenate([x['ids'] for x in batches[:10]])) == sorted(
      arrays.ids)
  it = new(threads=2)
  take(it, 3)
  fresh = new()
  fresh.set_state(json.loads(json.dumps(it.get_state())))
  for want in batches[3:]:
    same(want, next(it))
    same(want, next(fresh))
  refused(lambda: new(augment={'flip': {}}), 'images')


def test_eval_batches_of_text():
  arrays = data.load_text(pairs_config()).test
  batches = list(data.batches_for_eval(arrays, 4))
  assert [x['where'].sum() for x in batches] == [4, 4, 2]
  joined = {k: np.concatenate([x[k] for x in batches]) for k in batches[0]}
  where = joined.pop('where')
  assert not joined['segments'][~where].any()
  same({k: v[where] for k, v in joined.items() if k != 'index'},
       arrays.batch(slice(None)))


def test_mixture_resumes_with_its_shares():
  def run(it, start):
    for step in range(start, 9):
      if step == 4:
        it.set_shares({'sums': 1})
      if step == 6:
        it.set_shares({'sums': np.float32(0.1), 'words': 3})
      state = json.loads(json.dumps(it.get_state()))
      yield next(it), state
  whole = list(run(make(), 0))
  for step, (batch, state) in enumerate(whole):
    assert state['next_index'] == step
    if 4 <= step < 6:
      assert not batch['domain'].any() and state['shares'] == {'sums': 1.0}
    again = make(threads=step % 3)
    take(again, 2)
    again.set_state(state)
    for (want, _), (got, _) in zip(whole[step:], run(again, step)):
      same(want, got)
    again.close()
  assert np.any(whole[0][0]['ids'] != next(make(seed=6))['ids'])
  same(whole[3][0], next(make(start=3)))


def test_mixture_follows_shares():
  it = make(batch_size=4000, threads=0)
  batch = next(it)
  assert abs(batch['domain'].mean() - 0.75) < 0.03
  counts = np.bincount(batch['index'], minlength=80)
  assert counts[:40].min() > 5 and counts[40:].min() > 40
  it.set_shares({'words': 2.0})
  assert next(it)['domain'].all()
  assert it.shares == {'words': 2.0}


@pytest.mark.parametrize('cuts', [(0, 4, 8), (0, 1, 5, 8)])
def test_slices_of_rows_join_to_the_whole(cuts):
  whole = take(make(), 4)
  parts = [take(make(rows=slice(*x)), 4) for x in zip(cuts, cuts[1:])]
  for want, got in zip(whole, zip(*parts)):
    same(want, {k: np.concatenate([x[k] for x in got]) for k in want})


@pytest.mark.parametrize('shares, says', [
    ({'sum': 1}, "Did you mean 'sums'"), ({'sums': -1}, 'shares.sums'),
    ({'sums': float('nan')}, 'shares.sums'), ({'sums': 'x'}, 'shares.sums'),
    ({'sums': 0}, 'not all be 0'), ({}, 'not all be 0'), (3, 'mapping')])
def test_bad_shares(shares, says):
  refused(lambda: make(shares=shares), says)
  it = make()
  refused(lambda: it.set_shares(shares), says)
  same(next(it), next(make()))  # it goes on as before


def test_bad_mixtures():
  refused(lambda: make(batch_size=0), 'batch_size')
  refused(lambda: make(seed=-1), 'seed')
  refused(lambda: make(rows=slice(8, 9)), 'rows')
  splits = data.load_text(pairs_config())
  refused(lambda: data.mixed_stream(splits.validation, batch_size=2, seed=0),
          'shares.words=3.0', 'no rows')
  empty = splits.train.take([])
  refused(lambda: data.mixed_stream(empty, batch_size=2, seed=0), 'no examples')
  refused(lambda: data.TextArrays(**{**vars(empty), 'ids': np.zeros(3, int)}),
          'ids')


# Alignment.


def test_alignment_of_vocabularies(tmp_path):
  a = library(tmp_path / 'a', 'bytes')
  b = library(tmp_path / 'b', 'metaspace', {'bos_token_id': 1})
  c = library(tmp_path / 'c', 'words')
  for x in (a, b, c, CHARACTERS):
    np.testing.assert_array_equal(
        np.array(data.align_vocabularies(x, x))[:3], [0, 1, 2])
  ids = data.align_vocabularies(a, b)
  assert ids.dtype == np.int32 and ids.shape == (a.size,)
  of = lambda x, token: x.vocabulary.index(token)
  space = '\u2581'
  assert ids[of(a, '\u0120cat')] == of(b, space + 'cat')
  assert ids[of(a, 'the')] == of(b, 'the')
  assert ids[of(a, 't')] == of(b, 't') != of(b, '<0x74>')
  assert ids[of(a, '\u010a')] == of(b, '<0x0A>')
  assert ids[a.eos] == b.eos and ids[a.bos] == b.bos
  for i, j in enumerate(ids):
    assert j < 0 or a.pieces[i] == b.pieces[j]
  ids = data.align_vocabularies(a, c)
  assert ids[of(a, '\u0120cat')] == of(c, 'cat')
  assert ids[of(a, 't')] == of(c, '##t')
  ids = data.align_vocabularies(CHARACTERS, a)
  assert ids[CHARACTERS.encode('t')[0]] == of(a, 't') and ids[2] == a.eos
  assert np.all(ids >= 0)
  assert np.any(data.align_vocabularies(a, CHARACTERS) == -1)


def test_rows_in_other_tokens(tmp_path):
  """Where a token has a place, both have read the same text."""
  a = library(tmp_path / 'a', 'bytes')
  b = library(tmp_path / 'b', 'metaspace')
  (tmp_path / 'text.txt').write_text('the cat \u00e9t\u00e9, the dog ' * 40)
  for mine, theirs in [(a, b), (b, a), (a, a)]:
    arrays = data.load_text(dict(
        length=40, tokenizer=mine.name, add_bos=True, domains=dict(
            own=dict(source='text_test:own', kw=dict(n=9)),
            read=dict(source=str(tmp_path / 'text.txt'))))).train
    rows = data.retokenize(arrays, mine, theirs, 80)
    assert rows.places.dtype == np.int32 and (rows.places >= 0).sum() > 50
    for x, s, tokens, segments, places in zip(
        arrays.tokens, arrays.segments, *rows):
      assert set(s) - {0} == set(segments) - {0}
      for i, j in enumerate(places):
        if j >= 0:
          assert s[i] == segments[j]
          assert mine.decode(x[:i + 1][s[:i + 1] == s[i]]) == theirs.decode(
              tokens[:j + 1][segments[:j + 1] == s[i]])
    if mine is theirs:
      real = (arrays.segments > 0) & (arrays.domain == 0)[:, None]
      ends = arrays.tokens == mine.eos
      assert np.all((rows.places >= 0)[real] | ends[real])
      np.testing.assert_array_equal(
          np.take_along_axis(rows.tokens, np.maximum(rows.places, 0), 1)[
              real & ~ends], arrays.tokens[real & ~ends])
  refused(lambda: data.retokenize(arrays, mine, theirs, 5), 'data.length')


def test_alignment_of_positions(tmp_path):
  a = library(tmp_path / 'a', 'bytes')
  b = library(tmp_path / 'b', 'metaspace')
  text = 'the cat \u00e9t\u00e9 on \u4e16 mat'
  for x, y in [(a, b), (b, a), (a, a)]:
    at = data.align_positions(text, x, y)
    mine, theirs = x.encode(text), y.encode(text)
    assert at.dtype == np.int32 and at.shape == (len(mine),)
    assert at[-1] == len(theirs) - 1
    for i, j in enumerate(at):
      if j >= 0:
        assert b''.join(x.pieces[k] for k in mine[:i + 1]) == b''.join(
            y.pieces[k] for k in theirs[:j + 1])
    found = at[at >= 0]
    assert np.all(np.diff(found) > 0) and len(found) > 4
  at = data.align_positions('the cat', a, CHARACTERS)
  np.testing.assert_array_equal(at, [2, 6])
  at = data.align_positions('the cat', CHARACTERS, a)
  np.testing.assert_array_equal(at, [-1, -1, 0, -1, -1, -1, 1])
  # The bytes of one character are several tokens: only the last one ends it.
  at = data.align_positions('\u4e16', a, a)
  np.testing.assert_array_equal(at, [-1, -1, 2])
