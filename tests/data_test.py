"""Data: what is promised of splits, batches, augmentation and mixing."""
from concurrent import futures
import io
import json
import time

import jax
from jax import numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec
import ml_collections
import numpy as np
from PIL import Image
import pytest

from kt_jax import data
from kt_jax.core import UserError
from kt_jax.data import _skew as skew
from kt_jax.data import arrays as arrays_lib
from kt_jax.data import augment
from kt_jax.data import cache
from kt_jax.data import sources
from kt_jax.data.load import parse_split

EVERYTHING = {'random_resized_crop': {}, 'rotate': {}, 'crop': {}, 'shift': {},
              'flip': {}, 'color_jitter': {}, 'grayscale': {}, 'noise': {},
              'cutout': {'size': 4}}


def some(n=37, h=8, w=8, c=3, classes=5, seed=0):
  rng = np.random.default_rng(seed)
  return data.Arrays(rng.integers(0, 256, (n, h, w, c), np.uint8),
                     rng.integers(0, classes, n).astype(np.int32),
                     np.arange(n) + 1000)


def assert_same(a, b):
  assert a.keys() == b.keys()
  for k in a:
    assert a[k].dtype == b[k].dtype
    np.testing.assert_array_equal(a[k], b[k], err_msg=k)


def take(iterator, n):
  return [next(iterator) for _ in range(n)]


def own(config, *, own_setting=3):
  """A data set of the user's, named 'data_test:own'."""
  assert own_setting == 3
  x = some(60, classes=3)
  names = ('ant', 'bee', 'cat')
  return data.from_arrays(config['name'], {
      'train': (x.images[:40], x.labels[:40]),
      'extra': (x.images[40:50], x.labels[40:50]),
      'test': (x.images[50:], x.labels[50:])}, class_names=names)


def ragged(config):
  return data.Source(config['name'], ('a',), (None, None, 3),
                     {'train': 4, 'test': 4}, lambda pieces, size: 1 / 0)


def unlabelled(config):
  x = some(10)
  return data.from_arrays('secret', {'train': (x.images, x.labels),
                                     'test': (x.images, x.labels * 0 - 1)})


def not_a_source(config):
  return config


# Splits.


def test_digits_is_the_same_everywhere():
  splits = data.load({})
  assert [len(x) for x in splits[:3]] == [1167, 130, 500]
  assert splits.info.input_shape == (8, 8, 1) and splits.info.classes == 10
  assert splits.train.images.max() == 255
  assert splits.info.fingerprint == '0e2bc4775543e7a092e5976029cd1fb1'
  whole = data.load({'validation': 0})
  assert len(whole.validation) == 0
  x = whole.train.images / 255
  np.testing.assert_allclose(x.mean(), splits.info.mean[0], atol=1e-4)
  np.testing.assert_allclose(x.std(), splits.info.std[0], atol=1e-4)


def test_ids_are_positions_in_the_original_split():
  whole = data.load({'validation': 0}).train
  splits = data.load({'subset': 300, 'train': 'train[10%:]'})
  for part in splits[:2]:
    np.testing.assert_array_equal(part.images, whole.images[part.ids])
    np.testing.assert_array_equal(part.labels, whole.labels[part.ids])
  assert not set(splits.train.ids) & set(splits.validation.ids)
  assert min(splits.train.ids) >= 130


@pytest.mark.parametrize('config', [
    {'validation': 0.1}, {'validation': 101},
    {'validation': 0, 'subset': 0.25}, {'validation': 0.5, 'subset': 7},
    {'test_limit': 33}])
def test_splits_are_stratified_to_one_example(config):
  whole = data.load({'validation': 0})
  splits = data.load(config)
  for part, of in [(splits.train, whole.train), (splits.test, whole.test),
                   (splits.validation, whole.train)]:
    exact = np.bincount(of.labels) * len(part) / len(of)
    counts = np.bincount(part.labels, minlength=10)
    # A subset is taken from what validation leaves, itself off by up to one.
    assert np.all(np.abs(counts - exact) < (2 if part is splits.train else 1))


def test_quota_is_exact_and_permutation_frozen():
  rng = np.random.default_rng(0)
  for _ in range(50):
    counts = rng.integers(0, 100, 7)
    total = int(rng.integers(0, counts.sum() + 1))
    share = arrays_lib.quota(counts, total)
    assert share.sum() == total and np.all(share <= counts)
    assert np.all(np.abs(share - counts * total / counts.sum()) < 1)
  # Frozen: another order would silently be another experiment.
  np.testing.assert_array_equal(arrays_lib.permutation(8, 3, 1),
                                FROZEN_PERMUTATION)


FROZEN_PERMUTATION = [5, 6, 3, 7, 0, 1, 2, 4]


def test_split_seed_and_fingerprint():
  base = data.load({}).info.fingerprint
  assert data.load({'name': 'digits'}).info.fingerprint == base
  others = [{'split_seed': 1}, {'subset': 100}, {'size': 6}, {'test_limit': 50},
            {'validation': 0}, {'train': 'train[:90%]'}, {'imbalance': 9},
            {'label_noise': 0.1}, {'label_noise': 0.2}, {'pad': 1}, {'pad': 2}]
  prints = {data.load(x).info.fingerprint for x in others}
  assert len(prints | {base}) == len(others) + 1


@pytest.mark.parametrize('config', [
    {}, {'size': 12, 'validation': 0.2, 'subset': 0.5}, {'test_limit': 50},
    {'train': 'train[:50%]', 'test': 'train[50%:]', 'mean': (0.1,)},
    {'imbalance': 20, 'label_noise': 0.2, 'pad': 3, 'subset': 0.5},
    {'classes': (0, 3), 'class_shares': (1, 0, 0, 0.1, 0, 0, 0, 0, 0, 0),
     'size': 12, 'rotation': 45, 'subset': 0.1},
    {'name': 'data_test:own', 'train': 'train+extra',
     'kw': {'own_setting': 3}}])
def test_abstract_is_what_load_finds(config):
  config = ml_collections.ConfigDict(config)
  splits, info = data.load(config), data.abstract(config)
  assert info.fingerprint == '' and splits.info.fingerprint
  assert info == data.Info(**{**vars(splits.info), 'fingerprint': ''})
  assert info.sizes == {k: len(getattr(splits, k)) for k in info.sizes}
  assert splits.train.images.shape[1:] == info.input_shape


def test_own_data_set_and_sums_of_splits():
  config = {'name': 'data_test:own', 'train': 'train[-10:]+extra[:5]',
            'validation': 0}
  splits = data.load(config)
  np.testing.assert_array_equal(splits.train.ids, np.r_[30:45])
  assert splits.info.class_names == ('ant', 'bee', 'cat')
  np.testing.assert_array_equal(splits.train.images, some(60).images[30:45])


def test_a_large_selection_stays_on_disk(monkeypatch):
  small = data.load({'subset': 200})
  monkeypatch.setattr(arrays_lib, 'IN_MEMORY', 0)
  large = data.load({'subset': 200})
  assert isinstance(large.train.images, arrays_lib.Rows)
  for a, b in zip(small[:3], large[:3]):
    np.testing.assert_array_equal(a.images, np.asarray(b.images))
  for kind in (lambda x: next(data.stream(x, batch_size=16, seed=1)),
               lambda x: list(data.batches_for_eval(x, 48))[-1]):
    assert_same(kind(small.train), kind(large.train))


# TFDS.


def test_mnist_and_slices_as_tfds_cuts_them(tfds_dir):
  config = {'name': 'mnist', 'data_dir': tfds_dir, 'validation': 100,
            'train': 'train[1%:2%]', 'test': 'test[-200:]'}
  start = time.time()
  info = data.abstract(config)
  assert time.time() - start < 5
  splits = data.load(config)
  assert splits.info.input_shape == (28, 28, 1)
  assert [len(x) for x in splits[:3]] == [500, 100, 200]
  assert splits.train.ids.min() >= 600 and splits.test.ids[0] == 9800
  assert info == data.Info(**{**vars(splits.info), 'fingerprint': ''})
  first = data.load({**config, 'train': 'train[:10]', 'validation': 0})
  assert first.train.labels.tolist() == [4, 1, 0, 7, 8, 1, 2, 7, 1, 6]

  import tensorflow_datasets as tfds
  builder = tfds.builder('mnist', data_dir=tfds_dir)
  source = sources.tfds_images('mnist', tfds_dir)
  for text in ('train[:33%]', 'train[7%:9%]', 'train[-3:]', 'train[:-90%]',
               'train[10:20]+test'):
    pieces = parse_split(source, 'train', text)
    assert (sum(b - a for _, a, b in pieces)
            == builder.info.splits[text].num_examples), text


def test_cifar_resized_and_cached(tfds_dir, tmp_path, monkeypatch):
  monkeypatch.setenv('KT_JAX_CACHE', str(tmp_path))
  config = {'name': 'cifar10', 'data_dir': tfds_dir, 'train': 'train[:300]',
            'test': 'test[:20]', 'size': 24, 'validation': 0}
  a = data.load(config)
  assert a.train.images.shape == (300, 24, 24, 3)
  assert a.info.class_names[0] == 'airplane'
  files = sorted(tmp_path.glob('data/*train*/images.npy'))
  assert len(files) == 1
  with open(files[0], 'r+b') as f:
    f.truncate(1000)
  b = data.load(config)
  assert b.info.fingerprint == a.info.fingerprint
  np.testing.assert_array_equal(a.test.images, b.test.images)
  assert files[0].stat().st_size > 300 * 24 * 24 * 3


@pytest.mark.parametrize('kind', ['PNG', 'JPEG'])
@pytest.mark.parametrize('mode, channels', [('RGB', 3), ('L', 1), ('L', 3)])
def test_decode_keeps_the_middle_of_the_shorter_side(kind, mode, channels):
  y, x = np.mgrid[:90, :150]
  gray = np.where((x >= 30) & (x < 120), 100 + y, 255).astype(np.uint8)
  image, file = Image.fromarray(gray).convert(mode), io.BytesIO()
  image.save(file, kind, quality=95)
  out = sources.decode(file.getvalue(), 30, channels)
  assert out.shape == (30, 30, channels) and out.dtype == np.uint8
  # 30 pixels at the left and the right are gone, the ramp is three times as
  # steep; the border takes in a little of its neighbours.
  want = np.broadcast_to(101 + 3 * np.arange(30)[:, None, None], out.shape)
  np.testing.assert_allclose(out[1:-1, 1:-1], want[1:-1, 1:-1], atol=4)
  assert sources.decode(file.getvalue(), 0, channels).shape == (
      90, 150, channels)


# Cache on disk.


def _fill(calls, to):
  calls.append(1)
  time.sleep(0.05)
  to.images[:] = np.arange(to.images.size).reshape(to.images.shape) % 251
  to.labels[:] = np.arange(len(to.labels))
  to.crcs[:] = arrays_lib.crc_of_each(to.images)


@pytest.mark.parametrize('file, damage', [
    ('images.npy', lambda b: b[:-10]), ('images.npy', lambda b: b''),
    ('images.npy', lambda b: b[:200] + b'\0' * len(b[200:])),
    ('labels.npy', lambda b: b[:-1]), ('crcs.npy', lambda b: b'rubbish'),
    ('crcs.npy', None)])
def test_a_damaged_cache_is_made_again(tmp_path, monkeypatch, file, damage):
  monkeypatch.setenv('KT_JAX_CACHE', str(tmp_path))
  calls, shape = [], (20, 4, 4, 1)
  make = lambda: cache.cached('key', shape, lambda to: _fill(calls, to))
  want = [np.array(x) for x in make()]
  make()
  assert len(calls) == 1
  path = tmp_path / 'data' / 'key' / file
  if damage:
    path.write_bytes(damage(path.read_bytes()))
  else:
    path.unlink()
  for a, b in zip(want, make()):
    np.testing.assert_array_equal(a, b)
  assert len(calls) == 2
  assert not list(tmp_path.glob('data/.key.part-*'))


def test_concurrent_readers_decode_once(tmp_path, monkeypatch):
  monkeypatch.setenv('KT_JAX_CACHE', str(tmp_path))
  (tmp_path / 'data' / '.key.part-killed').mkdir(parents=True)
  calls = []
  with futures.ThreadPoolExecutor(4) as pool:
    jobs = [pool.submit(cache.cached, 'key', (20, 4, 4, 1),
                        lambda to: _fill(calls, to)) for _ in range(4)]
    assert len({x.result().images.tobytes() for x in jobs}) == 1
  assert len(calls) == 1
  assert not list(tmp_path.glob('data/.key.part-*'))


def test_a_failed_decode_leaves_nothing(tmp_path, monkeypatch):
  monkeypatch.setenv('KT_JAX_CACHE', str(tmp_path))
  def fail(to):
    raise UserError('no')
  with pytest.raises(UserError, match='no'):
    cache.cached('key', (20, 4, 4, 1), fail)
  assert [x.name for x in (tmp_path / 'data').iterdir()] == ['.key.lock']


def test_cache_dir(monkeypatch):
  monkeypatch.setenv('KT_JAX_CACHE', '')
  monkeypatch.setenv('XDG_CACHE_HOME', '/x')
  assert str(data.cache_dir()) == '/x/kt_jax'
  monkeypatch.delenv('XDG_CACHE_HOME')
  assert str(data.cache_dir()).endswith('/.cache/kt_jax')


# Batches.


@pytest.mark.parametrize('augmentation', [(), EVERYTHING])
@pytest.mark.parametrize('threads', [0, 3])
def test_batches_depend_on_seed_and_step_only(augmentation, threads):
  make = lambda **k: data.stream(some(), **{
      'batch_size': 8, 'seed': 5, 'augment': augmentation, 'threads': threads,
      **k})
  a = take(make(), 12)
  for x, y in zip(a, take(make(threads=2), 12)):
    assert_same(x, y)
  assert_same(a[7], next(make(start=7)))
  other = next(make(seed=6))
  assert np.any(other['ids'] != a[0]['ids'])
  if augmentation:
    assert np.any(a[0]['images'] != next(make(augment=()))['images'])
  x = a[0]
  assert (x['images'].dtype, x['labels'].dtype, x['ids'].dtype) == (
      np.uint8, np.int32, np.int64)


def test_state_restores_exactly_and_at_once():
  make = lambda: data.stream(some(), batch_size=8, seed=5, augment=EVERYTHING,
                             threads=3)
  it = make()
  take(it, 3)  # mid-epoch, with batches waiting
  state = json.loads(json.dumps(it.get_state()))
  rest = take(it, 6)
  fresh = make()
  take(fresh, 5)
  fresh.set_state(state)
  for x, y in zip(rest, take(fresh, 6)):
    assert_same(x, y)
  start = time.time()
  far = data.stream(some(), batch_size=8, seed=5, start=10**6)
  assert next(far)['ids'].shape == (8,)
  assert far.get_state() == {'next_index': 10**6 + 1}
  assert time.time() - start < 1


@pytest.mark.parametrize('cuts', [(0, 8), (0, 4, 8), (0, 1, 5, 8)])
def test_slices_of_processes_join_to_the_whole(cuts):
  make = lambda rows: data.stream(some(), batch_size=8, seed=5, rows=rows,
                                  augment=EVERYTHING, threads=1)
  whole = take(make(slice(None)), 6)
  parts = [take(make(slice(*x)), 6) for x in zip(cuts, cuts[1:])]
  for want, got in zip(whole, zip(*parts)):
    assert_same(want, {k: np.concatenate([x[k] for x in got]) for k in want})


@pytest.mark.parametrize('n, batch', [(37, 8), (5, 12), (16, 16), (1, 3)])
def test_every_epoch_visits_each_example_once(n, batch):
  it = data.stream(some(n), batch_size=batch, seed=0, threads=0)
  ids = np.concatenate([x['ids'] for x in take(it, n * 3)])
  epochs = ids.reshape(-1, n)
  np.testing.assert_array_equal(np.sort(epochs, 1),
                                np.tile(np.arange(n) + 1000, (len(epochs), 1)))
  if n > 4:
    assert np.any(epochs[0] != epochs[1])


def test_eval_batches_pad_the_tail():
  arrays = some(10)
  batches = list(data.batches_for_eval(arrays, 4))
  assert [x['where'].sum() for x in batches] == [4, 4, 2]
  assert all(x['images'].shape == (4, 8, 8, 3) for x in batches)
  joined = {k: np.concatenate([x[k] for x in batches]) for k in batches[0]}
  where = joined.pop('where')
  assert_same({k: v[where] for k, v in joined.items()},
              {'index': np.arange(10, dtype=np.int32),
               **{k: np.asarray(v) for k, v in vars(arrays).items()}})
  assert not joined['images'][~where].any()


# Augmentation.


@pytest.mark.parametrize('channels', [1, 3])
@pytest.mark.parametrize('name', augment.ORDER)
def test_augmentation_keeps_shape_dtype_and_its_input(name, channels):
  images = some(16, 10, 6, channels).images
  before = images.copy()
  (_, made), = augment.parse_augment([name])
  drawn = made.draw(np.random.default_rng(0), 16, images.shape[1:])
  assert all(len(x) == 16 for x in drawn)
  out = made.apply(images, *drawn)
  assert out.shape == images.shape and out.dtype == np.uint8
  np.testing.assert_array_equal(images, before)
  if name != 'grayscale' or channels == 3:
    assert np.any(out != images)
  # Each row by itself is what it is in the batch.
  one = made.apply(images[5:6], *(x[5:6] for x in drawn))
  np.testing.assert_array_equal(one, out[5:6])


@pytest.mark.parametrize('name, settings', [
    ('random_resized_crop', {'scale': (1, 1), 'ratio': (1, 1)}),
    ('rotate', {'degrees': 0}), ('crop', {'padding': 0}), ('flip', {'p': 0}),
    ('color_jitter', {'p': 0}), ('grayscale', {'p': 0}), ('noise', {'std': 0}),
    ('color_jitter', {'brightness': 0, 'contrast': 0, 'saturation': 0,
                      'hue': 0, 'p': 1})])
def test_neutral_settings_change_nothing(name, settings):
  images = some(16).images
  (_, made), = augment.parse_augment({name: settings})
  drawn = made.draw(np.random.default_rng(0), 16, images.shape[1:])
  np.testing.assert_array_equal(made.apply(images, *drawn), images)


def test_crop_moves_content_and_shows_zeros():
  images = some(3).images + np.uint8(1) | 1  # no zeros of its own
  made = augment.crop(padding=2)
  corners, = made.draw(np.random.default_rng(0), 2000, (8, 8, 3))
  assert set(map(tuple, corners)) == {(y, x) for y in range(5)
                                      for x in range(5)}
  out = made.apply(images, np.array([[2, 2], [0, 3], [4, 1]]))
  np.testing.assert_array_equal(out[0], images[0])
  want = np.zeros_like(images[1])
  want[2:, :7] = images[1, :6, 1:]
  np.testing.assert_array_equal(out[1], want)
  want = np.zeros_like(images[2])
  want[:6, 1:] = images[2, 2:, :7]
  np.testing.assert_array_equal(out[2], want)


def test_flip_twice_is_nothing():
  images = some(6).images
  made, chosen = augment.flip(), np.arange(6) % 2 == 0
  once = made.apply(images, chosen)
  np.testing.assert_array_equal(once[0], images[0, :, ::-1])
  np.testing.assert_array_equal(once[1], images[1])
  np.testing.assert_array_equal(made.apply(once, chosen), images)


def test_random_resized_crop_boxes():
  made = augment.random_resized_crop(scale=(0.2, 0.5))
  boxes, = made.draw(np.random.default_rng(0), 3000, (32, 48, 3))
  w, h = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
  assert boxes.min() >= 0 and boxes[:, 2].max() <= 48
  assert boxes[:, 3].max() <= 32 and boxes[:, 2].max() > 46
  share = w * h / (32 * 48)
  assert 0.18 < share.min() < 0.22 and 0.48 < share.max() < 0.52
  assert abs(share.mean() - 0.35) < 0.01
  assert 0.7 < (w / h).min() and (w / h).max() < 1.43
  # A box of one color, enlarged, has that color only.
  image = np.zeros((1, 8, 8, 3), np.uint8)
  image[:, 2:6, 4:8] = 200
  assert np.all(made.apply(image, np.array([[4, 2, 8, 6]])) == 200)


def test_color_jitter_against_its_definition():
  images = some(4).images
  made = augment.color_jitter()
  yes, none = np.ones(4, bool), np.zeros(4)
  x = images.astype(float)
  gray = x @ augment.LUMA.astype(float)
  one = np.ones(4)
  cases = {
      'brightness': ((1.3, 1, 1), 1.3 * x),
      'contrast': ((1, 0.6, 1), 0.6 * x + 0.4 * gray.mean(
          (1, 2))[:, None, None, None]),
      'saturation': ((1, 1, 0.2), 0.2 * x + 0.8 * gray[..., None]),
  }
  for name, (factors, want) in cases.items():
    out = made.apply(images, *(f * one for f in factors), none, yes)
    np.testing.assert_allclose(out, np.clip(want, 0, 255), atol=0.51,
                               err_msg=name)
  # A turn of the hue keeps the luma, where nothing is clipped, and gray.
  soft = (100 + images // 8).astype(np.uint8)
  out = made.apply(soft, one, one, one, one * 0.3, yes)
  assert np.any(out != soft)
  np.testing.assert_allclose(out @ augment.LUMA, soft @ augment.LUMA, atol=1)
  flat = np.repeat(images[..., :1], 3, -1)
  np.testing.assert_array_equal(
      made.apply(flat, one, one, 1.4 * one, one * 0.3, yes), flat)


def test_cutout_grayscale_and_noise():
  white = np.full((500, 12, 12, 3), 255, np.uint8)
  made = augment.cutout(size=4)
  at, = made.draw(np.random.default_rng(0), 500, (12, 12, 3))
  holes = (made.apply(white, at) == 0)[..., 0].sum((1, 2))
  assert holes.max() == 16 and holes.min() == 4  # a corner keeps a quarter
  images = some(4).images
  out = augment.grayscale().apply(images, np.array([1, 0, 1, 0], bool))
  assert np.all(out[::2] == out[::2, :, :, :1])
  np.testing.assert_array_equal(out[1::2], images[1::2])
  middle = np.full((50, 12, 12, 1), 128, np.uint8)
  made = augment.noise(std=0.05)
  out = made.apply(middle, *made.draw(np.random.default_rng(0), 50,
                                      (12, 12, 1)))
  assert abs(out.std() / 255 - 0.05) < 0.002


def test_adding_an_augmentation_changes_no_other():
  draw = lambda augmentation: next(data.stream(
      some(), batch_size=8, seed=1, augment=augmentation))['images']
  flip, off = {'p': 1}, None
  np.testing.assert_array_equal(
      draw({'crop': {}, 'flip': flip}), draw({'crop': {}})[:, :, ::-1])
  np.testing.assert_array_equal(
      draw({'flip': off, 'crop': {}}), draw(['crop']))


# Mixing in the step.


def _classes_as_channels(n=16, k=5):
  """Images whose pixels are the one-hot label: pixel mass is label mass."""
  labels = jax.nn.one_hot(np.random.default_rng(0).integers(0, k, n), k)
  return jnp.broadcast_to(labels[:, None, None], (n, 9, 7, k)), labels


@pytest.mark.parametrize('alpha', [0.2, 1.0, 8.0])
@pytest.mark.parametrize('mix', [data.mixup, data.cutmix])
def test_label_mass_is_pixel_mass(mix, alpha):
  images, labels = _classes_as_channels()
  step = jax.jit(mix, static_argnums=3)
  changed = 0
  for seed in range(8):
    x, y = step(jax.random.key(seed), images, labels, alpha)
    np.testing.assert_allclose(x.mean((1, 2)), y, atol=1e-6)
    np.testing.assert_allclose(y.sum(1), 1, atol=1e-6)
    changed += int(jnp.any(y != labels))
  assert changed > 4


@pytest.mark.parametrize('mix', [data.mixup, data.cutmix])
def test_mixing_is_the_same_on_eight_devices(mix):
  images = jnp.asarray(some(16).images)
  labels = jax.nn.one_hot(some(16).labels, 5)
  mesh = jax.make_mesh((8,), ('data',),
                       axis_types=(jax.sharding.AxisType.Auto,))
  place = NamedSharding(mesh, PartitionSpec('data'))
  step = jax.jit(mix, static_argnums=3)
  want = step(jax.random.key(3), images, labels, 1.0)
  got = step(jax.random.key(3), *jax.device_put((images, labels), place), 1.0)
  assert len(got[0].sharding.device_set) == 8
  for a, b in zip(want, got):
    np.testing.assert_array_equal(a, b)


def test_mixing_nothing_and_dtypes():
  images, labels = jnp.asarray(some(4).images), jax.nn.one_hot(np.arange(4), 4)
  for mix in (data.mixup, data.cutmix):
    x, y = mix(jax.random.key(0), images, labels.astype(jnp.bfloat16), 0)
    np.testing.assert_array_equal(x, images)
    np.testing.assert_array_equal(y, labels)
    assert y.dtype == jnp.float32
  assert data.cutmix(jax.random.key(0), images, labels, 1)[0].dtype == jnp.uint8
  assert data.mixup(jax.random.key(0), images, labels, 1)[0].dtype == (
      jnp.float32)


def test_normalize():
  images = some(4).images
  out = data.normalize(images, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
  want = (images / 255 - [0.5, 0.4, 0.3]) / [0.2, 0.3, 0.4]
  assert out.dtype == jnp.float32
  np.testing.assert_allclose(out, want, atol=1e-5)


# Skewed training sets, canvases, aspects.


@pytest.mark.parametrize('total, classes, ratio, want', [
    (50_000, 10, 100, [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50]),
    (40, 4, 8, [10, 5, 2, 1]), (30, 3, 1, [10] * 3), (7, 1, 50, [7]),
    (10, 10, 50, [1] * 10)])
def test_long_tailed_profile(total, classes, ratio, want):
  assert skew.long_tailed(total, classes, ratio).tolist() == want


def test_imbalance_is_deterministic_and_only_of_train():
  whole = data.load({})
  few = data.load({'imbalance': 50})
  counts = np.bincount(few.train.labels)
  want = skew.long_tailed(1167, 10, 50)
  assert counts.sum() == want.sum() == few.info.sizes['train'] == len(few.train)
  assert np.all(np.abs(counts - want) <= 4) and counts[-1] == want[-1] == 2
  assert set(few.train.ids) < set(whole.train.ids)
  np.testing.assert_array_equal(few.test.images, whole.test.images)
  np.testing.assert_array_equal(few.validation.ids, whole.validation.ids)
  again = data.load({'imbalance': 50.0})
  np.testing.assert_array_equal(again.train.ids, few.train.ids)
  assert again.info == few.info
  # A longer tail is part of a shorter one; the seed says which.
  more = set(data.load({'imbalance': 10}).train.ids)
  assert len(more & set(few.train.ids)) > 0.95 * len(few.train)
  other = data.load({'imbalance': 50, 'split_seed': 3})
  assert len(other.train) == len(few.train)
  assert set(other.train.ids) != set(few.train.ids)
  both = data.load({'imbalance': 5, 'subset': 500})
  assert set(both.train.ids) < set(data.load({'subset': 500}).train.ids)


def test_imbalance_wants_classes_of_a_size():
  with pytest.raises(UserError, match='data.imbalance needs 20 examples of '
                     'class 0, there are 2'):
    data.load({'name': 'data_test:lopsided', 'validation': 0, 'imbalance': 2})


def lopsided(config):
  x = some(40)
  labels = np.r_[np.zeros(2), np.ones(38)].astype(np.int32)
  return data.from_arrays('lopsided', {'train': (x.images, labels),
                                       'test': (x.images, labels)})


def test_label_noise():
  clean, noisy = data.load({}), data.load({'label_noise': 0.4})
  wrong = clean.train.labels != noisy.train.labels
  assert wrong.sum() == round(0.4 * len(clean.train))
  np.testing.assert_array_equal(clean.train.ids, noisy.train.ids)
  np.testing.assert_array_equal(clean.train.images, noisy.train.images)
  assert 0 <= noisy.train.labels.min() and noisy.train.labels.max() <= 9
  assert noisy.train.labels.dtype == np.int32
  for name in ('validation', 'test'):
    np.testing.assert_array_equal(getattr(clean, name).labels,
                                  getattr(noisy, name).labels)
  other = data.load({'label_noise': 0.4, 'split_seed': 1})
  assert other.info.fingerprint != noisy.info.fingerprint
  np.testing.assert_array_equal(
      data.load({'label_noise': 0.4}).train.labels, noisy.train.labels)
  # Uniform over the other classes, whatever the class.
  labels = np.repeat(np.arange(5), 4000)
  found = skew.mislabeled(labels, 5, 1.0, 0)
  table = np.bincount(labels * 5 + found, minlength=25).reshape(5, 5)
  assert not table.diagonal().any()
  assert np.all(np.abs(table[~np.eye(5, dtype=bool)] - 1000) < 150)


def test_classes():
  """Of all splits; labels and what is known of the set stay."""
  whole, few = data.load({'validation': 0}), data.load(
      {'validation': 0, 'classes': (7, 2)})
  assert few.info.classes == 10 and few.info.class_names[7] == '7'
  for name in ('train', 'test'):
    a, b = getattr(whole, name), getattr(few, name)
    keep = np.isin(a.labels, (2, 7))
    np.testing.assert_array_equal(a.labels[keep], b.labels)
    np.testing.assert_array_equal(a.images[keep], b.images)
  splits = data.load({'classes': (2, 7), 'subset': 0.5, 'test_limit': 20,
                      'train': 'train[10%:]'})
  assert set(splits.validation.labels) == set(splits.test.labels) == {2, 7}
  assert len(splits.test) == 20
  own = data.load({'name': 'data_test:own', 'classes': (1,),
                   'train': 'train+extra', 'validation': 0})
  assert set(own.train.labels) == {1}
  assert len(own.train) == np.sum(some(60, classes=3).labels[:50] == 1)


def test_rotation():
  plain, turned = data.load({}), data.load({'rotation': 90})
  np.testing.assert_array_equal(np.rot90(plain.test.images, 1, (1, 2)),
                                turned.test.images)
  np.testing.assert_array_equal(plain.train.ids, turned.train.ids)
  assert plain.info.fingerprint != turned.info.fingerprint
  odd = data.load({'rotation': 30.0, 'pad': 1})
  again = data.load({'rotation': 30.0, 'pad': 1})
  np.testing.assert_array_equal(odd.test.images, again.test.images)
  assert odd.info.input_shape == (10, 10, 1)
  own = data.load({'name': 'data_test:own', 'rotation': 180})
  np.testing.assert_array_equal(
      own.test.images, some(60, classes=3).images[50:, ::-1, ::-1])


def test_class_shares_are_of_train_only():
  plain = data.load({})
  shares = (1, 0.5, 0, 0, 0, 0, 0, 0, 0.1, 0.25)
  skewed = data.load({'class_shares': shares})
  np.testing.assert_array_equal(
      np.bincount(skewed.train.labels, minlength=10),
      np.floor(np.bincount(plain.train.labels) * shares))
  np.testing.assert_array_equal(plain.validation.ids, skewed.validation.ids)
  assert set(skewed.train.ids) < set(plain.train.ids)
  with pytest.raises(UserError, match='leaves none'):
    data.load({'name': 'data_test:lopsided', 'validation': 0,
               'class_shares': (0.1, 0)})


def test_union():
  parts = [{'classes': (1, 2), 'train': 'train[:50%]'}, {'rotation': 30.0}]
  whole = data.load({'name': 'kt_jax.data:union', 'kw': {'parts': parts},
                     'validation': 0})
  found = [data.load(part) for part in parts]
  for name in ('train', 'test'):
    for field in ('images', 'labels'):
      np.testing.assert_array_equal(
          getattr(getattr(whole, name), field), np.concatenate(
              [getattr(getattr(x, name), field) for x in found]))


def test_pad(monkeypatch):
  plain, padded = data.load({'size': 6}), data.load({'size': 6, 'pad': 3})
  assert padded.info.input_shape == (12, 12, 1)
  assert plain.info.fingerprint != padded.info.fingerprint
  for name in ('train', 'validation', 'test'):
    a, b = getattr(plain, name).images, getattr(padded, name).images
    np.testing.assert_array_equal(a, b[:, 3:-3, 3:-3])
    assert np.sum(a, dtype=int) == np.sum(b, dtype=int)
  monkeypatch.setattr(arrays_lib, 'IN_MEMORY', 0)
  large = data.load({'size': 6, 'pad': 3, 'subset': 50})
  assert isinstance(large.train.images, arrays_lib.Rows)
  monkeypatch.undo()
  small = data.load({'size': 6, 'pad': 3, 'subset': 50})
  np.testing.assert_array_equal(np.asarray(large.train.images),
                                small.train.images)
  np.testing.assert_array_equal(large.train.images[3], small.train.images[3])
  assert_same(next(data.stream(large.train, batch_size=8, seed=0)),
              next(data.stream(small.train, batch_size=8, seed=0)))


def draw(*rows):
  """A figure from text, on a canvas with a margin."""
  return np.pad([[255 * (c == '#') for c in row] for row in rows],
                1).astype(np.uint8)


def test_aspects_of_figures():
  zero, eight, one, two = (
      draw('.####..', '.#..#..', '.#..#..', '.#..#..', '.####..'),
      draw('.####..', '.#..#..', '.####..', '.#..#..', '.####..'),
      draw('...#...', '...#...', '...#...', '...#...', '...#...'),
      draw('##...##', '##...##', '.......', '.......', '.......'))
  stripes = draw('#######', '.......', '#######', '.......', '#######')
  slash = draw('....#..', '...##..', '..##...', '.##....', '.#.....')
  blank = np.zeros_like(zero)
  images = np.stack([zero, eight, one, two, stripes, slash, blank])[..., None]
  answers = dict(zip(data.ASPECTS, (data.image_aspects(images) > 0.5).T))
  yes = lambda name, *of: np.testing.assert_array_equal(
      answers[name][:len(of)], np.array(of, bool), err_msg=name)
  yes('has_loop', 1, 1, 0, 0, 0, 0, 0)
  yes('has_two_loops', 0, 1, 0, 0, 0, 0, 0)
  yes('in_pieces', 0, 0, 0, 1, 1, 0, 0)
  yes('tall', 0, 0, 1, 0, 0)
  yes('symmetric_left_right', 0, 0, 1, 1, 1, 0)
  yes('symmetric_up_down', 1, 1, 1, 0, 1, 0)
  assert answers['heavy_top'][3] and not answers['heavy_top'][[0, 1, 2]].any()
  assert answers['heavy_left'][0] and not answers['heavy_left'][2]
  assert answers['leans_right'][5] and not answers['leans_right'][2]
  assert answers['flat_strokes'][4] and not answers['flat_strokes'][2]
  assert answers['ink_in_center'][2] and not answers['ink_in_center'][3]
  flat = data.image_aspects(images)[-1]
  assert np.all((flat == 0.5) | (np.char.find(data.ASPECTS, '_loop') >= 0)
                | (np.array(data.ASPECTS) == 'in_pieces'))


def test_aspects_separate_digits_in_any_batch():
  train = data.load({'validation': 0}).train
  found = data.image_aspects(train.images)
  assert found.shape == (1297, len(data.ASPECTS)) and found.dtype == np.float32
  assert 0 < found.min() and found.max() < 1 and 10 <= found.shape[1]
  one = np.concatenate([data.image_aspects(x[None]) for x in train.images[:40]])
  np.testing.assert_allclose(one, found[:40], rtol=1e-6)
  mean = np.stack([found[train.labels == k].mean(0) for k in range(10)])
  loop = mean[:, data.ASPECTS.index('has_loop')]
  assert set(np.argsort(-loop)[:4]) == {0, 6, 8, 9}
  near = np.argmin(((found[:, None] - mean)**2).sum(2), 1)
  assert np.mean(near == train.labels) > 0.6
  with pytest.raises(UserError, match='uint8'):
    data.image_aspects(train.images / 255)


# Errors: one line that names the thing.


@pytest.mark.parametrize('config, says', [
    ({'nam': 'digits'}, "key of data 'nam'. Did you mean 'name'"),
    ({'name': ''}, 'data.name'), ({'name': 3}, 'data.name'),
    ({'name': 'digit'}, "Did you mean 'digits'"),
    ({'name': 'fashion_mnits'}, "Did you mean 'fashion_mnist'"),
    ({'name': 'speech_commands'}, "'speech_commands'"),
    ({'name': 'celeb_a'}, "no feature 'label'"),
    ({'name': 'mnist', 'data_dir': '/nowhere'}, 'download_and_prepare()'),
    ({'name': 'nowhere_at_all:f'}, "No module named 'nowhere_at_all'"),
    ({'name': 'data_test:onw'}, "Did you mean 'own'"),
    ({'name': 'data_test:not_a_source'}, 'data.from_arrays'),
    ({'name': 'data_test:ragged'}, 'set data.size'),
    ({'train': 'trian'}, "Did you mean 'train'"),
    ({'test': 'validation'}, "No split of digits 'validation'"),
    ({'train': 'train[:'}, 'is not a split'),
    ({'train': 'train[:x]'}, "'x' must be"),
    ({'train': 'train[:101%]'}, "'101%' must be"),
    ({'train': 'train[:nan%]'}, "'nan%' must be"),
    ({'train': 'train[:9999]'}, 'up to 1297'),
    ({'train': 'train[5:5]'}, 'selects no example'),
    ({'train': 'train[:10]+train[5:20]'}, 'twice'),
    ({'train': None}, 'data.train must be a string'),
    ({'validation': 1.5}, 'data.validation'),
    ({'validation': -1}, 'data.validation'),
    ({'validation': float('nan')}, 'data.validation'),
    ({'validation': True}, 'data.validation'),
    ({'validation': '10%'}, 'data.validation'),
    ({'validation': 1297}, 'leaves none'),
    ({'validation': 1298}, 'more than the 1297'),
    ({'subset': 1200}, 'data.subset=1200 is more than the 1167'),
    ({'size': -1}, 'data.size'), ({'size': 2.0}, 'data.size'),
    ({'split_seed': None}, 'data.split_seed'),
    ({'pad': -1}, 'data.pad'), ({'pad': 1.0}, 'data.pad'),
    ({'imbalance': 0.5}, 'data.imbalance'), ({'imbalance': -1}, 'from 1 on'),
    ({'imbalance': float('nan')}, 'data.imbalance'),
    ({'imbalance': 2, 'subset': 8}, 'each of the 10 classes; train has 8'),
    ({'label_noise': 1.5}, 'data.label_noise'),
    ({'classes': (1, 10)}, 'data.classes must be labels from 0 to 9'),
    ({'classes': (1, 1)}, 'each once'), ({'classes': ('a',)}, 'data.classes'),
    ({'rotation': float('nan')}, 'data.rotation'),
    ({'rotation': '90'}, 'data.rotation'),
    ({'class_shares': (1,)}, 'data.class_shares must be 10 shares'),
    ({'class_shares': (2.0,) * 10}, 'data.class_shares'),
    ({'class_shares': (1.0,) * 10, 'imbalance': 2}, 'one of them'),
    ({'name': 'kt_jax.data:union'}, 'data.kw.parts must be'),
    ({'name': 'kt_jax.data:union', 'kw': {'parts': [{}, {'pad': 1}]}},
     'they must be the same'),
    ({'label_noise': True}, 'data.label_noise'),
    ({'mean': (0.1, 0.2)}, 'data.mean must be 1 numbers'),
    ({'std': (0.0,)}, 'data.std'), ({'mean': ('a',)}, 'data.mean'),
])
def test_bad_config_is_one_clear_line(config, says):
  for call in (data.abstract, data.load):
    with pytest.raises(UserError) as e:
      call(config)
    assert says in str(e.value) and '\n' not in str(e.value)


def test_hidden_labels_are_refused():
  with pytest.raises(UserError, match='secret has labels from -1'):
    data.load({'name': 'data_test:unlabelled', 'validation': 0})


@pytest.mark.parametrize('settings, says', [
    ({'batch_size': 0}, 'batch_size'), ({'batch_size': 1 << 30}, 'batch_size'),
    ({'batch_size': 8.0}, 'batch_size'), ({'seed': -1}, 'seed'),
    ({'seed': float('nan')}, 'seed'), ({'start': -5}, 'start'),
    ({'threads': True}, 'threads'), ({'rows': slice(8, 9)}, 'rows'),
    ({'augment': 'flip'}, 'augment'), ({'augment': 3}, 'augment'),
    ({'augment': {'flop': {}}}, "Did you mean 'flip'"),
    ({'augment': {'parse': {}}}, "No augmentation 'parse'"),
    ({'augment': {'crop': {'pading': 1}}}, "Did you mean 'padding'"),
    ({'augment': {'crop': 4}}, 'augment.crop'),
    ({'augment': {'crop': {'padding': 1.5}}}, 'augment.crop.padding'),
    ({'augment': {'flip': {'p': 2}}}, 'augment.flip.p'),
    ({'augment': {'noise': {'std': float('nan')}}}, 'augment.noise.std'),
    ({'augment': {'random_resized_crop': {'scale': (1, 0.1)}}}, 'scale'),
    ({'augment': {'random_resized_crop': {'scale': (0, 0)}}}, 'scale'),
    ({'arrays': some(0)}, 'no examples'),
])
def test_bad_stream_is_one_clear_line(settings, says):
  with pytest.raises(UserError) as e:
    data.stream(**{'arrays': some(), 'batch_size': 8, 'seed': 0, **settings})
  assert says in str(e.value) and '\n' not in str(e.value)


@pytest.mark.parametrize('call, says', [
    (lambda x: data.Arrays(x.images[0], x.labels, x.ids), 'images'),
    (lambda x: data.Arrays(x.images / 255, x.labels, x.ids), 'float64'),
    (lambda x: data.Arrays(x.images, x.labels[1:], x.ids), 'labels'),
    (lambda x: data.from_arrays('a', {}), 'no splits'),
    (lambda x: data.from_arrays('a', {'t': (x.images / 1, x.labels)}), 'uint8'),
    (lambda x: data.from_arrays('a', {'t': (x.images, x.ids / 2)}), 'labels'),
    (lambda x: data.batches_for_eval(x, 0), 'batch_size'),
    (lambda x: data.batches_for_eval(some(0), 4), 'no examples'),
    (lambda x: data.mixup(jax.random.key(0), x.images, x.labels, 1.),
     'labels_onehot'),
    (lambda x: data.cutmix(jax.random.key(0), jnp.zeros((2, 4, 4, 1)),
                           jnp.zeros((2, 3)), -1.), 'alpha'),
])
def test_bad_arrays_are_one_clear_line(call, says):
  with pytest.raises(UserError) as e:
    call(some())
  assert says in str(e.value) and '\n' not in str(e.value)
