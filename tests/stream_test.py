"""Checkpoints as streams: their files, and merges that never hold one."""
import json
import os
import pathlib
import subprocess
import sys

import jax
import ml_dtypes
import numpy as np
import pytest

from kt_jax import checkpoint
from kt_jax import core
from kt_jax import merge
from kt_jax.checkpoint import content_hash
from kt_jax.merge import _job
from kt_jax.merge import _select
from kt_jax.merge import stream

BF16 = ml_dtypes.bfloat16
SHAPES = {'embed': (40, 8), 'layers.0.w': (24, 16), 'layers.0.norm': (16,),
          'layers.1.w': (24, 16), 'scale': (), 'none': (0, 3)}


def model(seed, dtype=np.float32, shapes=None):
  r = np.random.default_rng(seed)
  return {n: np.asarray(r.normal(size=s), dtype)
          for n, s in (shapes or SHAPES).items()}


def sources(arrays):
  return {n: checkpoint.ArrayTensor(n, a) for n, a in arrays.items()}


def streamed(op, base, models, weight, threads=2, **kw):
  """Name -> array, by `over_stream`."""
  out = {n: np.zeros(a.size, a.dtype) for n, a in base.items()}
  def write(name, start, values):
    out[name][start:start + len(values)] = values
  merge.over_stream(op, sources(base), list(map(sources, models)), weight,
                    write, threads=threads, **kw)
  return {n: x.reshape(base[n].shape) for n, x in out.items()}


def same_bits(got, want):
  for name in want:
    x, y = np.asarray(got[name]), np.asarray(want[name])
    assert x.dtype == y.dtype and x.tobytes() == y.tobytes(), name


# Operator, settings, and how far tree and stream may be apart: sums over a leaf
# are taken in another order. All operators: merge_contract_test.
CASES = {
    'linear': (merge.linear, {}, 0),
    'ties': (merge.ties, dict(density=(0.3, 0.9)), 0),
    'dare': (merge.dare, dict(density=0.5, elect='sum'), 0),
    'sce': (merge.sce, dict(select_topk=0.5), 1e-6),
}


@pytest.mark.parametrize('name', CASES)
def test_stream_is_tree(name):
  op, settings, tolerance = CASES[name]
  weight = [0.5, 0.3]
  base = model(0)
  models = [{n: base[n] + 0.1 * a for n, a in model(s).items()}
            for s in (1, 2)]
  key = jax.random.key(3) if name == 'dare' else None
  leaves = {n: a for n, a in base.items() if a.size}
  tree = merge.over_tree(
      op, leaves, [{n: m[n] for n in leaves} for m in models], weight, key=key,
      **settings)
  got = streamed(op, base, models, weight, key=key, **settings)
  assert got['none'].shape == (0, 3)
  if tolerance:
    for leaf in tree:
      np.testing.assert_allclose(got[leaf], tree[leaf], rtol=tolerance,
                                 atol=tolerance)
  else:
    same_bits({n: got[n] for n in tree}, tree)
  alone = streamed(op, base, models, weight, threads=1, key=key, **settings)
  same_bits(alone, got)


def test_whole_model_is_one_trim():
  base = {n: a for n, a in model(0).items() if a.size}
  models = [{n: base[n] + (0.01 if n == 'layers.0.norm' else 1) * a
             for n, a in model(s).items() if n in base} for s in (1, 2)]
  bounds = merge.whole_model_bounds(
      [(base[n], [m[n] for m in models]) for n in base], 0.2)
  tree = merge.over_tree(merge.ties, base, models, [1.0, 1.0], bounds)
  got = streamed(merge.ties, base, models, [1.0, 1.0], density=0.2,
                 whole_model=True)
  same_bits(got, tree)
  same_bits(got, {'layers.0.norm': base['layers.0.norm']})
  with pytest.raises(core.UserError, match='linear with .* measures nothing'):
    streamed(merge.linear, base, models, [0.5, 0.5], whole_model=True)
  with pytest.raises(core.UserError, match='has one density'):
    streamed(merge.ties, base, models, [1.0, 1.0], whole_model=True,
             rules=[('w', dict(density=0.3)), ('', {})])


@pytest.mark.parametrize('held', [2**22, 100])
@pytest.mark.parametrize('name', ['rows', 'seen', 'unseen'])
def test_threshold_of_a_tensor_that_is_sampled(monkeypatch, name, held):
  """Its rows are alike, or the sample sees only what is large, or small."""
  monkeypatch.setattr(_select, '_HELD', held)
  shape = 401, 999
  delta = np.random.default_rng(0).normal(size=shape)
  seen = np.zeros(delta.size, bool)
  for start in _select.stretch_starts(delta.size):
    seen[start:start + _select.STRETCH] = True
  assert 0.3 < seen.mean() < 0.4
  delta *= {'rows': np.arange(len(delta))[:, None] ** 2,
            'seen': 1 + 99 * seen.reshape(shape),
            'unseen': 100 - 99 * seen.reshape(shape)}[name]
  base = {'w': np.zeros(shape, np.float32), 'x': np.ones(3, np.float32)}
  tuned = {'w': delta.astype(np.float32), 'x': np.arange(3, dtype=np.float32)}
  tree = merge.over_tree(merge.ties, base, [tuned], [1.0], density=0.5)
  same_bits(streamed(merge.ties, base, [tuned], [1.0], density=0.5), tree)
  bounds = merge.whole_model_bounds([(base[n], [tuned[n]]) for n in base], 0.5)
  tree = merge.over_tree(merge.ties, base, [tuned], [1.0], bounds)
  same_bits(streamed(merge.ties, base, [tuned], [1.0], density=0.5,
                     whole_model=True), tree)


@pytest.mark.parametrize('op, settings', [
    (merge.linear, {}), (merge.dare, dict(density=0.5))])
def test_blocks_join(op, settings):
  """A tensor of more than one block, in the middle of which blocks meet."""
  shapes = {'big': (3, stream.BLOCK // 2 + 7)}
  base, tuned = model(0, BF16, shapes), model(1, BF16, shapes)
  key = jax.random.key(0) if settings else None
  tree = merge.over_tree(op, base, [tuned], [0.5], key=key, **settings)
  same_bits(streamed(op, base, [tuned], [0.5], key=key, **settings), tree)


def test_rules_and_gradients_are_those_of_trees():
  base, tuned = model(0), model(1)
  leaves = {n: a for n, a in base.items() if a.size}
  rules = [('embed', None), ('norm', dict(weight=[0.25])),
           ('', dict(weight=merge.Gradient(([0.0], [1.0]))))]
  tree = merge.over_tree(merge.linear, leaves, [{n: tuned[n] for n in leaves}],
                         [1.0], rules=rules)
  got = streamed(merge.linear, base, [tuned], [1.0], rules=rules)
  same_bits({n: got[n] for n in leaves}, tree)
  same_bits(got, dict(embed=base['embed'], scale=base['scale'],
                      **{'layers.0.w': base['layers.0.w'],
                         'layers.1.w': tuned['layers.1.w']}))


@pytest.mark.parametrize('values, depth, want', [
    ((0.0, 1.0), 0.25, 0.25), ((0.0, 1.0, 0.0), 0.5, 1.0), ((3.0,), 0.7, 3.0),
    ((1.0, 2.0, 4.0), 0.75, 3.0), ((1.0, 2.0), 1.0, 2.0)])
def test_gradient(values, depth, want):
  assert merge.Gradient(values).at(depth) == want


def test_layers_are_found_in_names():
  names = {'embed': 0, 'model.layers.0.a': 0, 'model.layers.3.mlp.1.w': 0.75,
           'blocks/4/kernel': 1, 'conv2d.w': 0, 'norm': 0}
  assert merge.depths(names) == names


def test_not_floating_is_copied():
  base, tuned = dict(n=np.arange(4)), dict(n=np.arange(4) + 1)
  same_bits(streamed(merge.linear, base, [tuned], [1.0]), base)


@pytest.mark.parametrize('where', ['base', 'models'])
@pytest.mark.parametrize('bad', [np.nan, np.inf])
def test_not_finite_is_named(where, bad):
  base, tuned = model(0), model(1)
  dict(base=base, models=tuned)[where]['layers.1.w'][2, 3] = bad
  with pytest.raises(core.UserError, match='layers.1.w: has NaN or infinite'):
    streamed(merge.task_arithmetic, base, [tuned], [0.5])


@pytest.mark.parametrize('op, settings, weight, match', [
    (merge.fisher, {}, [-0.5, 1.0], 'weight must be >= 0'),
    (merge.karcher, {}, [0.5, -0.5], 'weight must not sum to 0'),
    (merge.dare, dict(density=0.5), [1.0, 1.0], 'dare draws.*key'),
    (merge.sce, dict(select_topk=1.5), [1.0, 1.0], 'select_topk.*1.5')])
def test_bad_arguments_fail_before_the_first_block(op, settings, weight, match):
  class Unread(checkpoint.ArrayTensor):

    def read(self, start, out):
      raise AssertionError('read')
  make = lambda: {'w': Unread('w', np.ones((3, 2), np.float32))}
  with pytest.raises(core.UserError, match=match):
    merge.over_stream(op, make(), [make(), make()], weight, None, **settings)


def test_beyond_the_range_is_said():
  arrays = {'w': np.full(4, 6e4, np.float16)}
  with pytest.raises(core.UserError, match='beyond the range of float16'):
    streamed(merge.task_arithmetic, {'w': np.zeros(4, np.float16)}, [arrays],
             [2.0])


@pytest.mark.parametrize('change, match', [
    (lambda m: m.pop('scale'), "base has 'scale', models.0. does not"),
    (lambda m: m.update(more=np.zeros(2)),
     "models.0. has 'more', base does not"),
    (lambda m: m.update(embed=np.zeros((8, 40))), "'embed' has shape .8, 40.")])
def test_other_tensors_are_refused(change, match):
  tuned = model(1)
  change(tuned)
  with pytest.raises(core.UserError, match=match):
    streamed(merge.linear, model(0), [tuned], [1.0])


def write(folder, arrays, **kw):
  folder.mkdir(exist_ok=True)
  writer = checkpoint.TensorWriter(
      folder, [(n, a.shape, a.dtype) for n, a in arrays.items()], **kw)
  for name, array in arrays.items():
    flat = array.reshape(-1)
    for start in range(0, flat.size, 7):  # in pieces, backwards
      at = max(flat.size - 7 - start, 0)
      writer.write(name, at, flat[at:flat.size - start])
  writer.close()


@pytest.mark.parametrize('shard_bytes', [10**9, 1600])
def test_files_round_trip(tmp_path, shard_bytes):
  arrays = model(0) | {'half': np.arange(5).astype(BF16),
                       'count': np.array(3, np.int64), 'mask': np.ones(3, bool)}
  write(tmp_path / 'out', arrays, shard_bytes=shard_bytes,
        metadata=dict(format='pt'))
  files = list((tmp_path / 'out').glob('*.safetensors'))
  assert (len(files) == 1) == (shard_bytes > 1600)
  header = 1200  # bytes at the most
  assert all(f.stat().st_size <= shard_bytes + header for f in files)
  same_bits({n: t.array() for n, t in
             checkpoint.open_tensors(tmp_path / 'out').items()}, arrays)
  # By another reader: that of the format's own library.
  same_bits(dict(checkpoint.open_safetensors(tmp_path / 'out').items()), arrays)
  index = tmp_path / 'out' / 'model.safetensors.index.json'
  if len(files) > 1:
    total = json.loads(index.read_text())['metadata']['total_size']
    assert total == sum(a.nbytes for a in arrays.values())
  else:
    assert not index.exists()


def test_writer_refuses_what_the_format_lacks(tmp_path):
  with pytest.raises(core.UserError, match="'z' has dtype complex64"):
    checkpoint.TensorWriter(tmp_path, [('z', (2,), np.complex64)])


def test_a_full_disk_is_noticed_before_the_work(tmp_path):
  code = f'''
import resource, signal
import numpy as np
from kt_jax import checkpoint
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (10**5, 10**5))
try:
  checkpoint.TensorWriter({str(tmp_path)!r}, [('w', (10**6,), np.float32)])
except ValueError as e:
  print(e)
'''
  done = subprocess.run(
      [sys.executable, '-c', code], capture_output=True, text=True, check=False,
      env=os.environ | dict(JAX_PLATFORMS='cpu'))
  assert '0.004 GB are needed in all' in done.stdout, done.stderr


def test_a_file_cut_while_it_is_read(tmp_path):
  write(tmp_path / 'out', {'w': np.zeros(4096, np.float32)})
  tensor = checkpoint.open_tensors(tmp_path / 'out')['w']
  path = tmp_path / 'out' / 'model.safetensors'
  os.truncate(path, path.stat().st_size - 8)
  with pytest.raises(core.UserError, match="ends within 'w'"):
    tensor.array()


def test_content_hangs_on_values_only():
  arrays = {'a': np.arange(3 * content_hash.BLOCK // 2, dtype=np.float32),
            'b': np.ones((2, 2), BF16)}
  def digest(arrays, seen=()):
    found = content_hash.ContentHash()
    for name, start, stop in seen:
      found.update(name, start, arrays[name].reshape(-1)[start:stop])
    return found.hexdigest(sources(arrays))
  whole = digest(arrays)
  assert whole == digest(dict(reversed(arrays.items())))
  assert whole == digest(arrays, [
      ('a', content_hash.BLOCK, None), ('b', 0, None), ('a', 5, 70)])
  flipped = arrays | {'a': arrays['a'].copy()}
  flipped['a'][-1] += 1
  assert whole != digest(flipped)
  assert whole != digest(arrays | {'b': arrays['b'].reshape(4)})


def test_memory_does_not_depend_on_the_number_of_tensors():
  """Eight times the tensors, the same anonymous memory to a few MB."""
  code = '''
from kt_jax.cli import kt_merge
kt_merge.keep_pages()
import numpy as np
from kt_jax import checkpoint, merge
for count in (4, 4, 32):
  zeros = {f'layers.{i}': (1024, 1024) for i in range(count)}
  class Zeros(checkpoint.Tensor):
    def read(self, start, out):
      out[:] = 0
  make = lambda: {n: Zeros(n, s, np.float32) for n, s in zeros.items()}
  merge.over_stream(merge.ties, make(), [make(), make()], [1.0, 1.0],
                    lambda *a: None)
  with open('/proc/self/status') as f:
    print(next(int(l.split()[1]) for l in f if l.startswith('RssAnon')))
'''
  if not pathlib.Path('/proc/self/status').exists():
    pytest.skip('needs /proc')
  done = subprocess.run([sys.executable, '-c', code],
                        capture_output=True, text=True, check=True,
                        env=os.environ | dict(JAX_PLATFORMS='cpu'))
  _, few, many = map(int, done.stdout.split())
  assert many - few < 80_000  # kB; the tensors of one model are 134,218


def test_one_kernel_for_all_shapes_and_gradients():
  calls = []
  def op(base, models, weight, *, scale=1.0):
    calls.append(base.shape)
    return merge.task_arithmetic(base, models, weight, scale=scale)
  merge.declare(op, entrywise=True)
  base = {f'layers.{i}.w': np.ones((3, i + 1), np.float32) for i in range(5)}
  streamed(op, base, [base], [1.0], scale=0.5, threads=1,
           rules=[('', dict(scale=merge.Gradient((0.1, 0.9))))])
  # Checked for each shape before the first block; compiled once, by one thread.
  assert sorted(calls, key=len) == [(_job._SMALL,), *(
      x.shape for x in base.values())]
