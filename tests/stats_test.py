"""Fisher, Gram matrices, BatchNorm's moments: explicit loops and identities."""
import functools

from align_test import network
from flax import nnx
import jax
from jax import numpy as jnp
from jax.sharding import AxisType
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest

from kt_jax import core
from kt_jax import merge
from kt_jax import models
from kt_jax import stats

N, D, K = 13, 4, 3


def net(params, x):
  hidden = jnp.tanh(x @ params['w1'] + params['b1'])
  return hidden @ params['w2']


def linear(params, x):
  return x @ params['w'] + params['b']


def draw(seed=0):
  r = np.random.default_rng(seed)
  real = lambda *shape: jnp.asarray(r.normal(size=shape), jnp.float32)
  params = {'w1': real(D, 5), 'b1': real(5), 'w2': real(5, K)}
  return params, np.asarray(real(N, D)), r.integers(0, K, N)


def batches(size, *, fill=None, **arrays):
  """Batches of one shape; the last is filled up where `fill` is given."""
  count = len(arrays['images'])
  for first in range(0, count, size):
    batch = {k: v[first:first + size] for k, v in arrays.items()}
    lack = size - len(batch['images'])
    if fill is not None:
      batch = {k: np.concatenate([v, np.full((lack, *v.shape[1:]), (
          fill if v.dtype.kind == 'f' else 0), v.dtype)])
               for k, v in batch.items()}
      batch['where'] = np.arange(size) < size - lack
    yield batch


def close(got, want, rtol=1e-5, atol=1e-6):
  assert set(got) == set(want)
  for path in want:
    np.testing.assert_allclose(got[path], want[path], rtol, atol, err_msg=path)


@functools.cache
def squares():
  """`(squares [N, K, ...] by leaf, probabilities [N, K])`, one by one."""
  params, x, _ = draw()
  log_p = lambda params, x, y: jax.nn.log_softmax(net(params, x[None])[0])[y]
  grad = jax.jit(jax.grad(log_p))
  found = {path: np.zeros((N, K, *leaf.shape)) for path, leaf in params.items()}
  for i in range(N):
    for y in range(K):
      for path, g in grad(params, x[i], y).items():
        found[path][i, y] = np.asarray(g, np.float64)**2
  return found, np.asarray(jax.nn.softmax(net(params, x)), np.float64)


def test_fisher_is_the_sum_over_examples_and_labels():
  params, x, given = draw()
  by_label, p = squares()
  got = stats.fisher(net, params, [{'images': x}])
  close(got, {path: np.einsum('ny,ny...->...', p, s) / N
              for path, s in by_label.items()})
  assert all(leaf.dtype == jnp.float32 for leaf in got.values())
  got = stats.fisher(net, params, [{'images': x, 'labels': given}],
                     labels='given')
  close(got, {path: s[np.arange(N), given].mean(0)
              for path, s in by_label.items()})


def test_fisher_of_softmax_regression():
  """In closed form: the mean of x^2 p (1 - p)."""
  r = np.random.default_rng(0)
  params = {'w': r.normal(size=(D, K)).astype(np.float32),
            'b': r.normal(size=K).astype(np.float32)}
  x = r.normal(size=(N, D)).astype(np.float32)
  p = np.asarray(jax.nn.softmax(linear(params, x)))
  close(stats.fisher(linear, params, [{'images': x}]),
        {'w': np.einsum('nd,nk->dk', x**2, p * (1 - p)) / N,
         'b': (p * (1 - p)).mean(0)})


@pytest.mark.parametrize('labels', ['exact', 'sampled', 'given'])
def test_fisher_does_not_depend_on_batches(labels):
  """Nor on their order, the chunk, and what padding holds."""
  params, x, given = draw()
  kw = dict(labels=labels)
  arrays = dict(images=x)
  if labels == 'given':
    arrays |= dict(labels=given)
  if labels == 'sampled':
    kw |= dict(key=jax.random.key(3))
  want = stats.fisher(net, params, batches(N, **arrays), **kw)
  if labels == 'sampled':  # examples are counted, padding is not
    got = stats.fisher(net, params, batches(5, fill=np.nan, **arrays), **kw)
    close(got, want)
    arrays |= dict(index=np.arange(N, dtype=np.int32))
  order = np.random.default_rng(0).permutation(N)
  got = stats.fisher(net, params, batches(
      5, fill=np.nan, **{k: v[order] for k, v in arrays.items()}), chunk=3,
      **kw)
  close(got, want)


def test_sampled_fisher_is_exact_in_expectation():
  params, x, _ = draw()
  by_label, p = squares()
  draws = 512
  many = np.tile(x, (draws, 1))
  got = stats.fisher(net, params, [{'images': many}], labels='sampled',
                     key=jax.random.key(0), chunk=128)
  exact = stats.fisher(net, params, [{'images': x}])
  for path, s in by_label.items():
    mean = np.einsum('ny,ny...->n...', p, s)
    var = np.einsum('ny,ny...->n...', p, s**2) - mean**2
    error = np.sqrt(var.sum(0) / draws) / N
    off = np.abs(got[path] - exact[path])
    assert (off <= 4.5 * error + 1e-6).all(), path
    assert off.max() > 0


def test_fisher_compiles_once_for_models_of_one_kind():
  traces = []
  def scaled(params, x, scale):
    traces.append(1)
    return net(params, x) * scale
  first = None
  for seed, scale in ((0, 1.0), (1, 2.0)):
    params, x, _ = draw(seed)
    got = stats.fisher(scaled, params, batches(5, images=x, fill=0),
                       context=(jnp.float32(scale),))
    first = first or len(traces)
  assert len(traces) == first
  want = stats.fisher(lambda p, x: 2 * net(p, x), params, [{'images': x}])
  close(got, want)


def test_sharded_batches_change_nothing():
  mesh = jax.make_mesh((8,), ('data',), axis_types=(AxisType.Auto,))
  put = lambda batch: jax.device_put(batch, NamedSharding(mesh, P('data')))
  params, x, _ = draw()
  padded = list(batches(16, images=x, fill=np.nan))
  fn = lambda params, x: {'w': x}
  for run in (lambda b: stats.fisher(net, params, b),
              lambda b: stats.gram(fn, params, b)):
    close(run([put(batch) for batch in padded]), run([{'images': x}]))


def test_fisher_in_low_precision():
  params, x, _ = draw()
  half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)
  got = stats.fisher(net, half, [{'images': x.astype(jnp.bfloat16)}])
  want = stats.fisher(net, params, [{'images': x}])
  for path in want:
    assert got[path].dtype == jnp.float32
    assert np.abs(got[path] - want[path]).max() < 0.1 * want[path].max()


@pytest.mark.parametrize('batch,kw,words', [
    ({'images': np.ones((2, D))}, {'labels': 'exakt'}, "Did you mean 'exact'"),
    ({'images': np.ones((2, D))}, {'labels': 'sampled'}, 'needs a key'),
    ({'images': np.ones((2, D))}, {'labels': 'given'}, "lacks 'labels'"),
    ({'image': np.ones((2, D))}, {}, "lacks 'images'"),
    ({'images': np.ones((2, D))}, {'chunk': 0}, 'chunk must be > 0'),
    ({'images': np.ones((2, D)), 'where': np.zeros(2, bool)}, {},
     'no examples')])
def test_fisher_refuses(batch, kw, words):
  with pytest.raises(core.UserError, match=words):
    stats.fisher(net, draw()[0], [batch], **kw)


def test_fisher_refuses_integers():
  with pytest.raises(core.UserError, match="'step' of params is int32"):
    stats.fisher(net, draw()[0] | {'step': jnp.int32(1)}, [])


def test_gram_is_the_mean_of_products():
  r = np.random.default_rng(0)
  x = r.normal(size=(N, D)).astype(np.float32)
  fn = lambda params, x: {'dense': x * params, 'tokens': jnp.stack(
      [x[:, :2], x[:, 2:]], 1), 'deep': x.reshape(-1, 2, 2, 1)}
  want = {'dense': 4 * x.T @ x / N, 'tokens': (
      x[:, :2].T @ x[:, :2] + x[:, 2:].T @ x[:, 2:]) / (2 * N),
          'deep': np.square(x).mean().reshape(1, 1)}
  close(stats.gram(fn, 2.0, [{'images': x}]), want)
  for size in (4, 5):
    got = stats.gram(fn, 2.0, batches(size, images=x, fill=np.nan))
    close(got, want)
  got = stats.gram(lambda params, x, shift: {'dense': x * params + shift}, 2.0,
                   [{'images': x[:3]}, {'images': x[3:]}], context=(0.7,))
  close(got, {'dense': (2 * x + 0.7).T @ (2 * x + 0.7) / N})
  with pytest.raises(core.UserError, match='no examples'):
    stats.gram(fn, 2.0, [])
  with pytest.raises(core.UserError, match="lacks 'images'"):
    stats.gram(fn, 2.0, [{'x': x}])


def test_merge_operators_are_fed_by_path():
  r = np.random.default_rng(0)
  real = lambda *shape: jnp.asarray(r.normal(size=shape), jnp.float32)
  tree = lambda: {'a/kernel': real(D, K), 'aa/kernel': real(D, K), 'b': real(K)}
  base, trained = tree(), [tree(), tree()]
  squares_ = [jax.tree.map(jnp.square, model) for model in trained]
  weight = [0.7, 0.2]
  got = merge.over_tree(merge.fisher, base, trained, weight,
                        rules=stats.as_rules('fisher', squares_))
  both = lambda trees, path: jnp.stack([tree[path] for tree in trees])
  close(got, {path: merge.fisher(
      base[path], both(trained, path), jnp.asarray(weight),
      both(squares_, path)) for path in base})
  x = [real(N, D), real(N, D)]
  fn = lambda params, x: {'a/kernel': x, 'aa/kernel': 2 * x[:, ::-1]}
  grams = [stats.gram(fn, None, [{'images': rows}]) for rows in x]
  got = merge.over_tree(merge.regmean, base, trained, weight, alpha=1.0,
                        rules=stats.as_rules('grams', grams))
  share = [7 / 9, 2 / 9]
  np.testing.assert_allclose(
      got['b'], share[0] * trained[0]['b'] + share[1] * trained[1]['b'],
      1e-5, 1e-6)
  kernel = 'aa/kernel'
  g = [s * np.asarray(gram[kernel], np.float64)
       for s, gram in zip(share, grams)]
  want = np.linalg.solve(g[0] + g[1], g[0] @ trained[0][kernel]
                         + g[1] @ trained[1][kernel])
  np.testing.assert_allclose(got[kernel], want, 1e-3, 1e-4)
  with pytest.raises(core.UserError, match="both have leaf 'b'"):
    stats.as_rules('fisher', [base, {'a/kernel': 0, 'aa/kernel': 0}])
  with pytest.raises(core.UserError, match='at least one'):
    stats.as_rules('fisher', [])


# Strides, 7x7, groups, patches and tokens.
@pytest.mark.parametrize('name,left_out', [
    ('resnet18', 0), ('mobilenet_v2', 3), ('vit_tiny', 0)])
def test_linear_inputs_are_what_the_layers_read(name, left_out):
  net_, params, stats_, x = network(name)
  kernels = [path for path in params if path.endswith('/kernel')]
  taps = [path[:-len('/kernel')] for path in kernels]

  @jax.jit
  def run(params, stats_):
    out = models.apply(net_, params, stats_, x, taps=taps)
    return out, models.linear_inputs(net_, params, stats_, x)
  out, found = run(params, stats_)
  assert len(found) == len(kernels) - left_out
  for path, rows in found.items():
    layer = path[:-len('/kernel')]
    kernel = params[path]
    got = rows @ kernel.reshape(-1, kernel.shape[-1])
    got += params.get(f'{layer}/bias', 0)
    want = out.features[layer]
    np.testing.assert_allclose(got, want, 1e-4, 1e-4, err_msg=path)


def test_linear_inputs_of_a_layer_that_runs_twice():
  class Twice(nnx.Module):

    def __init__(self, rngs):
      self.layer = nnx.Linear(3, 3, rngs=rngs)
      self.conv = nnx.Conv(3, 2, (3,), padding='CIRCULAR', rngs=rngs)

    def __call__(self, x):
      x = self.layer(self.layer(x))
      return self.conv(x)

  net_, params, stats_ = models.split(Twice(nnx.Rngs(0)))
  x = np.random.default_rng(0).normal(size=(2, 4, 3)).astype(np.float32)
  found = models.linear_inputs(net_, params, stats_, x)
  kernel, bias = params['layer/kernel'], params['layer/bias']
  y = x @ kernel + bias
  np.testing.assert_allclose(found['layer/kernel'], np.concatenate([x, y], 1),
                             1e-5, 1e-6)
  y = np.asarray(y @ kernel + bias)
  np.testing.assert_allclose(found['conv/kernel'], np.concatenate(
      [np.roll(y, 1, 1), y, np.roll(y, -1, 1)], -1), 1e-5, 1e-5)
  # Nothing is left behind: a class of its own, and no more interception.
  layer = nnx.Linear(3, 3, rngs=nnx.Rngs(0))
  assert type(layer) is nnx.Linear and layer(x).shape == x.shape
  with pytest.raises(AttributeError):
    models.linear_inputs(net_, params, stats_, None)
  assert models.apply(net_, params, stats_, x).logits.shape == (2, 4, 2)


class Normed(nnx.Module):
  """BatchNorm behind BatchNorm, dropout between, and a counter of its own."""

  def __init__(self, rngs):
    self.fc1 = nnx.Linear(3, 4, rngs=rngs)
    self.norm1 = nnx.BatchNorm(4, rngs=rngs)
    self.dropout = nnx.Dropout(0.5, rngs=rngs)
    self.fc2 = nnx.Linear(4, 2, rngs=rngs)
    self.norm2 = nnx.BatchNorm(2, use_bias=False, rngs=rngs)
    self.seen = nnx.BatchStat(jnp.float32(7))

  def __call__(self, x):
    return self.norm2(self.fc2(self.dropout(self.norm1(self.fc1(x)))))


def test_reestimated_statistics_are_pooled_moments():
  net_, params, stats_ = models.split(Normed(nnx.Rngs(0)))
  r = np.random.default_rng(0)
  # Far from zero: sums of squares would lose the variance.
  x = (1000 + r.normal(size=(12, 5, 3)) * [1, 2, 3]).astype(np.float32)
  prepare = lambda x: x - 3
  find = functools.partial(models.reestimate_statistics, net_, params, stats_,
                           prepare=prepare)
  wide = lambda path: np.asarray(params[path], np.float64)
  hidden = (x.astype(np.float64) - 3) @ wide('fc1/kernel') + wide('fc1/bias')

  def second(hidden):
    axes = (0, 1)
    h = (hidden - hidden.mean(axes)) / np.sqrt(hidden.var(axes) + 1e-5)
    return h @ wide('fc2/kernel') + wide('fc2/bias')

  def check(got, y):
    assert set(got) == set(stats_) and got['seen'] == 7
    for norm, values in (('norm1', hidden), ('norm2', y)):
      for name, moment in (('mean', values.mean((0, 1))),
                           ('var', values.var((0, 1)))):
        np.testing.assert_allclose(got[f'{norm}/{name}'], moment, 2e-4, 2e-4)
        assert got[f'{norm}/{name}'].dtype == jnp.float32
  check(find([{'images': x}]), second(hidden))
  # Padding and the order of batches change nothing.
  parts = np.split(hidden, [4, 8])
  y = np.concatenate([second(part) for part in parts])
  padded = [{'images': np.pad(part, [(0, 8), (0, 0), (0, 0)],
                              constant_values=np.nan),
             'where': np.arange(12) < 4} for part in np.split(x, [4, 8])]
  check(find(padded), y)
  check(find(padded[::-1]), y)


def test_reestimated_statistics_serve_evaluation():
  """After it, evaluation of the same data is what training saw."""
  net_, params, stats_, x = network('convnet')
  new = models.reestimate_statistics(net_, params, stats_, [{'images': x}])
  run = jax.jit(lambda stats, train: models.apply(
      net_, params, stats, x, train=train).logits, static_argnums=1)
  np.testing.assert_allclose(run(new, False), run(stats_, True), 1e-3, 1e-4)
  assert not np.allclose(run(stats_, False), run(stats_, True), 1e-2, 1e-2)


def test_reestimate_statistics_refuses():
  net_, params, stats_ = models.split(nnx.Linear(2, 3, rngs=nnx.Rngs(0)))
  with pytest.raises(core.UserError, match='no BatchNorm'):
    models.reestimate_statistics(net_, params, stats_,
                                 [{'images': np.ones((1, 2))}])
  net_, params, stats_ = models.split(Normed(nnx.Rngs(0)))
  find = functools.partial(models.reestimate_statistics, net_, params, stats_)
  with pytest.raises(core.UserError, match='no examples'):
    find([])
  with pytest.raises(core.UserError, match='no examples'):
    find([{'images': np.ones((2, 1, 3)), 'where': np.zeros(2, bool)}])
  with pytest.raises(core.UserError, match="lacks 'images'"):
    find([{'image': np.ones((2, 1, 3))}])
