"""Views of examples, and outputs of teachers for them on disk."""
import json
import time

from data_test import assert_same
from data_test import EVERYTHING
from data_test import some
from data_test import take
import jax
from jax import numpy as jnp
import numpy as np
import pytest

from kt_jax import data
from kt_jax.core import UserError
from kt_jax.data import records

K = 12


def outputs(batch):
  """A teacher: logits and a map, functions of the images alone."""
  x = jnp.asarray(batch['images'], jnp.float32) / 255
  logits = x.reshape(len(x), -1) @ jnp.sin(jnp.arange(x[0].size * K)).reshape(
      -1, K)
  return {'logits': logits, 'pool': x[:, ::4, ::4]}


KEY = dict(teacher='abc', data='123')
SETTINGS = dict(views=3, seed=5, augment=EVERYTHING)
# A stream with those views, in an order of its own.
SHOWN = dict(views=3, view_seed=5, seed=1, augment=EVERYTHING)


def write(folder, arrays=None, fn=outputs, key=KEY, **kw):
  return data.write_cache(folder, fn, arrays or some(), key=key,
                          **{'batch_size': 8, **SETTINGS, **kw})


def read(folder, key=KEY, **kw):
  return data.read_cache(folder, data.full_key(key, **{**SETTINGS, **kw}))


# Views.


def test_views_repeat_every_k_epochs_and_only_then():
  n, k, epochs = 37, 3, 7
  it = data.stream(some(n), batch_size=8, seed=5, augment=EVERYTHING, views=k)
  batches = take(it, -(-n * epochs // 8))
  joined = {name: np.concatenate([x[name] for x in batches])[:n * epochs]
            for name in batches[0]}
  assert joined['view'].dtype == joined['index'].dtype == np.int32
  np.testing.assert_array_equal(
      joined['view'], np.repeat(np.arange(epochs) % k, n))
  images = np.zeros((epochs, n, 8, 8, 3), np.uint8)
  images[np.repeat(np.arange(epochs), n), joined['index']] = joined['images']
  for epoch in range(k, epochs):
    np.testing.assert_array_equal(images[epoch], images[epoch - k])
  assert all((images[0, i] != images[1, i]).any() for i in range(n))
  # The seed of the stream changes their order alone.
  other = next(data.stream(some(n), batch_size=n, seed=6, augment=EVERYTHING,
                           views=k))
  assert (other['index'] != joined['index'][:n]).any()
  np.testing.assert_array_equal(other['images'], images[0, other['index']])
  new = next(data.stream(some(n), batch_size=n, seed=6, augment=EVERYTHING,
                         views=k, view_seed=1))
  assert all((new['images'] != other['images']).any((1, 2, 3)))
  # Order and labels are those of a stream without views.
  plain = data.stream(some(n), batch_size=8, seed=5)
  for x, y in zip(batches, take(plain, 9)):
    for name in ('labels', 'ids', 'index'):
      np.testing.assert_array_equal(x[name], y[name])
  np.testing.assert_array_equal(joined['ids'], joined['index'] + 1000)


@pytest.mark.parametrize('augmentation', [(), *({x: {}} for x in (
    'random_resized_crop', 'rotate', 'color_jitter', 'noise')), EVERYTHING])
def test_views_in_order_are_those_of_the_stream(augmentation):
  arrays = some(21)
  of = {}
  for view in range(2):
    for batch in data.views(arrays, view, batch_size=5 + view, seed=5,
                            augment=augmentation):
      assert batch['images'].shape[0] == 5 + view
      assert not batch['images'][~batch['where']].any()
      for i in np.flatnonzero(batch['where']):
        of[batch['index'][i], batch['view'][i]] = batch['images'][i]
  assert len(of) == 42
  # Another batch, another slice of it, other neighbours: the same bits.
  for rows in (slice(None), slice(3, 4)):
    for batch in take(data.stream(
        arrays, batch_size=8, seed=5, augment=augmentation, views=2,
        view_seed=5, rows=rows), 10):
      for i, image in enumerate(batch['images']):
        np.testing.assert_array_equal(
            image, of[batch['index'][i], batch['view'][i]])
  # An example is known by its id, wherever it stands.
  part = next(data.views(arrays.take(np.array([7, 2])), 1, batch_size=2,
                         seed=5, augment=augmentation))
  np.testing.assert_array_equal(part['images'][0], of[7, 1])


def test_views_resume_and_other_seeds_differ():
  make = lambda **kw: data.stream(some(), **{**dict(
      batch_size=8, seed=5, augment=EVERYTHING, views=2), **kw})
  it = make()
  take(it, 6)
  state, rest = it.get_state(), take(it, 3)
  fresh = make()
  fresh.set_state(state)
  for a, b in zip(rest, take(fresh, 3)):
    assert_same(a, b)
  a, b = (next(data.views(some(), 0, batch_size=8, seed=seed,
                          augment=EVERYTHING)) for seed in (5, 6))
  assert all((x != y).any() for x, y in zip(a['images'], b['images']))


def test_augmented_is_deterministic_and_keeps_the_rest():
  arrays = some(300)
  a = data.augmented(arrays, {'shift': {'pixels': 2}}, 7)
  b = data.augmented(arrays, {'shift': {'pixels': 2}}, 7)
  np.testing.assert_array_equal(a.images, b.images)
  np.testing.assert_array_equal(a.ids, arrays.ids)
  np.testing.assert_array_equal(a.labels, arrays.labels)
  assert 200 < sum((x != y).any() for x, y in zip(a.images, arrays.images))
  np.testing.assert_array_equal(
      data.augmented(arrays, {}, 7).images, arrays.images)


# Cache.


@pytest.mark.parametrize('resident', [True, False])
def test_cache_holds_the_outputs_of_the_teacher(tmp_path, monkeypatch,
                                                resident):
  if not resident:
    monkeypatch.setattr(records, 'RESIDENT', 0)
  cache = write(tmp_path / 'a', dtype='float32')
  assert (cache.examples, cache.views) == (37, 3)
  assert set(cache.names) == {'logits', 'pool'}
  again = read(tmp_path / 'a', dtype='float32')
  stream = data.stream(some(), batch_size=8, lookup=data.attach_cached(
      {'big': again}), **SHOWN)
  for batch in take(stream, 30):
    # The very images of the stream, by the same teacher.
    want = outputs(batch)
    got = again.lookup(batch['index'], batch['view'])
    for name in want:
      assert got[name].dtype == np.float32
      np.testing.assert_allclose(got[name], want[name], rtol=1e-5, atol=1e-5)
      np.testing.assert_array_equal(got[name], batch[f'cached/big/{name}'])
  half = write(tmp_path / 'half')  # float16
  got = half.lookup([3, 3, 0], [2, 1, 0])['logits']
  want = again.lookup([3, 3, 0], [2, 1, 0])['logits']
  np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-3)
  assert half.lookup(np.zeros(0, int), 0)['pool'].shape == (0, 2, 2, 3)


def test_written_once_and_whole(tmp_path):
  calls = []
  def counted(batch):
    calls.append(len(batch['images']))
    return outputs(batch)
  write(tmp_path / 'a', fn=counted)
  assert calls == [8] * (3 * 5), 'one shape for all batches'
  write(tmp_path / 'a', fn=counted)
  assert len(calls) == 15
  def fails(batch):
    calls.append(len(batch['images']))
    if len(calls) > 20:
      raise RuntimeError('killed')
    return outputs(batch)
  with pytest.raises(RuntimeError, match='killed'):
    write(tmp_path / 'b', fn=fails)
  assert not (tmp_path / 'b').exists()
  assert not list(tmp_path.glob('.*part*'))
  with pytest.raises(UserError, match='no cached outputs'):
    read(tmp_path / 'b')


def test_resumes_with_its_stream(tmp_path):
  cache = write(tmp_path / 'a')
  make = lambda: data.stream(some(), batch_size=8, threads=2, lookup=(
      data.attach_cached({'t': cache})), **SHOWN)
  it = make()
  take(it, 4)
  state, rest = json.loads(json.dumps(it.get_state())), take(it, 3)
  fresh = make()
  fresh.set_state(state)
  for a, b in zip(rest, take(fresh, 3)):
    assert 'cached/t/logits' in a
    assert_same(a, b)
  fresh.close()


def test_one_view_serves_all_and_several_want_as_many(tmp_path):
  one = write(tmp_path / 'one', views=1, augment=())
  many = write(tmp_path / 'many')
  plain = data.stream(some(), batch_size=8, seed=0)
  batch = data.attach_cached({'t': one})(next(plain))
  np.testing.assert_array_equal(batch['cached/t/logits'],
                                one.lookup(batch['index'], 0)['logits'])
  with pytest.raises(UserError, match='3 views'):
    data.attach_cached({'t': many})(next(plain))


@pytest.mark.parametrize('top_k', [1, 3, K - 1])
def test_top_k_keeps_probabilities(tmp_path, top_k):
  full = write(tmp_path / 'full', dtype='float32').lookup(np.arange(37), 1)
  cut = write(tmp_path / 'cut', dtype='float32', top_k=top_k).lookup(
      np.arange(37), 1)
  assert cut['logits'].shape == cut['logits/class'].shape == (37, top_k)
  filled = data.fill_logits(cut['logits'], cut['logits/class'],
                            cut['logits/rest'], K)
  p, q = (np.asarray(jax.nn.softmax(x, -1)) for x in (full['logits'], filled))
  order = np.argsort(-p, axis=1)
  top = lambda x: np.take_along_axis(x, order[:, :top_k], 1)
  rest = lambda x: np.take_along_axis(x, order[:, top_k:], 1)
  np.testing.assert_allclose(top(q), top(p), rtol=2e-5)
  np.testing.assert_allclose(
      rest(q), np.broadcast_to(rest(p).mean(1, keepdims=True), rest(q).shape),
      rtol=2e-4, atol=1e-7)
  np.testing.assert_array_equal(full['pool'], cut['pool'])


@pytest.mark.parametrize('change, says', [
    (dict(key=KEY | {'teacher': 'xyz'}), "teacher was 'abc', now 'xyz'"),
    (dict(key=KEY | {'data': '7'}), "data was '123', now '7'"),
    (dict(key={'data': '123'}), "teacher was 'abc', now 'absent'"),
    (dict(augment={'flip': {}}), 'augment was'), (dict(seed=6), 'seed was 5'),
    (dict(views=2), 'views was 3, now 2'), (dict(top_k=2), 'top_k was 0'),
    (dict(dtype='float32'), "dtype was 'float16', now 'float32'"),
])
def test_a_cache_of_something_else_is_refused(tmp_path, change, says):
  write(tmp_path / 'a')
  for call in (read, write):
    with pytest.raises(UserError) as e:
      call(tmp_path / 'a', **change)
    assert says in str(e.value) and '\n' not in str(e.value)


@pytest.mark.parametrize('file, damage', [
    ('outputs.array_record', lambda b: b[:-10]),
    ('outputs.array_record', lambda b: b''),
    ('outputs.array_record',
     lambda b: b[:len(b) // 2] + bytes([b[len(b) // 2] ^ 1])
     + b[len(b) // 2 + 1:]),
    ('outputs.array_record', None), ('meta.json', lambda b: b[:-9])])
def test_a_damaged_cache_is_refused_and_written_again(tmp_path, file, damage):
  want = write(tmp_path / 'a').lookup(np.arange(37), 2)
  path = tmp_path / 'a' / file
  if damage:
    path.write_bytes(damage(path.read_bytes()))
  else:
    path.unlink()
  with pytest.raises(UserError, match='damaged'):
    read(tmp_path / 'a')
  assert_same(want, write(tmp_path / 'a').lookup(np.arange(37), 2))


def test_damage_in_a_large_file_shows_where_it_is_read(tmp_path, monkeypatch):
  monkeypatch.setattr(records, 'RESIDENT', 0)
  write(tmp_path / 'a', some(3000), views=1, augment=())
  path = tmp_path / 'a' / 'outputs.array_record'
  content = bytearray(path.read_bytes())
  content[len(content) // 2] ^= 1
  path.write_bytes(content)
  cache = read(tmp_path / 'a', views=1, augment=())
  with pytest.raises(UserError, match='damaged'):
    cache.lookup(np.arange(3000), 0)


def test_a_folder_of_others_is_left_alone(tmp_path):
  (tmp_path / 'mine').mkdir()
  (tmp_path / 'mine' / 'thesis.tex').write_text('x')
  with pytest.raises(UserError, match='no cached outputs'):
    write(tmp_path / 'mine')
  assert (tmp_path / 'mine' / 'thesis.tex').exists()
  (tmp_path / 'empty').mkdir()
  assert write(tmp_path / 'empty').examples == 37


def constant(value):
  return lambda batch: {'logits': np.where(
      np.arange(len(batch['images']))[:, None] == 3, value, np.zeros((1, K)))}


@pytest.mark.parametrize('settings, says', [
    (dict(fn=constant(7e4)), "does not fit float16: set dtype='float32'"),
    (dict(fn=constant(np.nan)), 'big: logits of example 1003, view 0, is nan'),
    (dict(fn=constant(np.inf), dtype='float32'), 'is not finite'),
    (dict(fn=lambda x: {'logits': x['images'][:2, 0, 0]}), 'shape (2, 3)'),
    (dict(fn=lambda x: {'logits': x['images']}), 'logits are [b, K]'),
    (dict(top_k=K), 'top_k must be from 0 (all) to 11'),
    (dict(top_k=-1), 'top_k'), (dict(views=0), 'views'),
    (dict(views=True), 'views'), (dict(dtype='int8'), 'dtype'),
    (dict(batch_size=0), 'batch_size'), (dict(augment={'flop': {}}), 'flip'),
])
def test_bad_outputs_are_one_clear_line_and_leave_nothing(
    tmp_path, settings, says):
  with pytest.raises(UserError) as e:
    write(tmp_path / 'a', name='big', **settings)
  assert says in str(e.value) and '\n' not in str(e.value)
  assert not (tmp_path / 'a').exists() and not list(tmp_path.glob('.*part*'))


def test_large_values_fit_float32(tmp_path):
  got = write(tmp_path / 'a', fn=constant(7e4), dtype='float32').lookup(3, 0)
  assert got['logits'].shape == (K,) and np.all(got['logits'] == 7e4)


@pytest.mark.parametrize('index, view', [(37, 0), (-1, 0), (0, 3), (0, -1)])
def test_look_up_beyond_the_end(tmp_path, index, view):
  with pytest.raises(UserError, match='37 examples in 3 view'):
    write(tmp_path / 'a').lookup(index, view)


def test_look_up_is_fast(tmp_path):
  n = 4000
  logits = np.random.default_rng(0).normal(size=(n, 100))
  arrays = data.Arrays(np.zeros((n, 1, 1, 1), np.uint8), np.zeros(n, np.int32),
                       np.arange(n))
  rows = iter(np.split(logits, 8))
  cache = data.write_cache(tmp_path / 'a', lambda x: {'logits': next(rows)},
                           arrays, key=KEY, batch_size=500)
  index = np.random.default_rng(1).integers(0, n, (50, 128))
  np.testing.assert_allclose(cache.lookup(index[0], 0)['logits'],
                             logits[index[0]], rtol=1e-3, atol=1e-3)
  times = []
  for rows in index:
    start = time.perf_counter()
    cache.lookup(rows, 0)
    times.append(time.perf_counter() - start)
  assert np.median(times) < 1e-3


@pytest.mark.parametrize('top_k', [0, 2])
def test_outputs_for_tokens(tmp_path, top_k):
  """A row of S tokens has logits [S, V]; where text is cached, in one view."""
  rows, length, size = 11, 6, 9
  rng = np.random.default_rng(0)
  tokens = rng.integers(0, size, (rows, length)).astype(np.int32)
  arrays = data.TextArrays(
      tokens, np.ones_like(tokens), np.ones(tokens.shape, bool),
      np.arange(rows), np.zeros(rows, np.int32), {'only': 1.0})
  table = rng.normal(size=(size, size)).astype(np.float32)
  kw = dict(key=KEY, batch_size=4, dtype='float32', top_k=top_k)
  cache = data.write_cache(tmp_path / 'a', lambda batch: {
      'logits': table[batch['tokens']]}, arrays, **kw)
  index = np.array([7, 0, 10])
  got = cache.lookup(index, 0)
  logits = got['logits']
  if top_k:
    assert got['logits/class'].shape == (3, length, top_k)
    logits = data.fill_logits(logits, got['logits/class'], got['logits/rest'],
                              size)
  want = table[tokens[index]]
  kept = np.argsort(-want, -1)[..., :top_k or size]
  np.testing.assert_allclose(
      np.take_along_axis(np.asarray(jax.nn.log_softmax(logits)), kept, -1),
      np.take_along_axis(np.asarray(jax.nn.log_softmax(want)), kept, -1),
      rtol=1e-5, atol=1e-6)
  with pytest.raises(UserError, match='views must be 1 for text'):
    data.write_cache(tmp_path / 'b', lambda batch: {}, arrays, views=2, **kw)
