"""Merge operators: numbers, identities bit for bit, and lifting to trees."""
import jax
from jax import numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest

from kt_jax import core
from kt_jax import merge

T = 3
NASTY = np.array([0.0, -0.0, 1e-40, -1e-45, 1.5, -3e38, np.inf, -np.inf],
                 np.float32)


def bits(x):
  x = np.asarray(x)
  return x.view(f'u{x.dtype.itemsize}')


def draw(seed=0, shape=(4, 5), dtype=np.float32, count=T):
  r = np.random.default_rng(seed)
  return (jnp.asarray(r.normal(size=shape), dtype),
          jnp.asarray(r.normal(size=(count,) + shape), dtype))


def tree(seed=0, dtype=np.float32):
  r = np.random.default_rng(seed)
  real = lambda *shape: jnp.asarray(r.normal(size=shape), dtype)
  return {'block_0': {'kernel': real(4, 3), 'bias': real(3)},
          'head': [real(3, 2), real()],
          'step': jnp.asarray(seed, jnp.int32)}


def expect(base, models, weight):
  """In float64, straight from the formula."""
  base, models, weight = (np.asarray(x, np.float64)
                          for x in (base, models, weight))
  return (1 - weight.sum()) * base + np.tensordot(weight, models, 1)


@pytest.mark.parametrize('weight', [
    [0.2, 0.3, 0.1], [1 / 3] * 3, [-1.0, 0.0, 0.0], [1.0, 1.0, 1.0],
    [1e-4, 0.0, 0.0]])
def test_linear_is_the_formula(weight):
  base, models = draw()
  for w in (jnp.asarray(weight), np.asarray(weight)):
    np.testing.assert_allclose(merge.linear(base, models, w),
                               expect(base, models, weight),
                               rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16, jnp.float16])
def test_linear_copies_bit_for_bit(dtype):
  """One factor 1 among zeros takes the leaf as it is, whatever is in it."""
  with np.errstate(over='ignore'):
    nasty = jnp.asarray(NASTY, dtype)
  base, models = nasty, jnp.stack([nasty[::-1], -nasty, nasty[::-1] * 0])
  for fn in (merge.linear, jax.jit(merge.linear)):
    np.testing.assert_array_equal(
        bits(fn(base, models, jnp.zeros(T))), bits(base))
    for t in range(T):
      np.testing.assert_array_equal(
          bits(fn(base, models, jnp.eye(T)[t])), bits(models[t]))
      np.testing.assert_array_equal(
          bits(fn(base, models[t:t + 1], jnp.ones(1))), bits(models[t]))


def test_linear_does_not_read_what_has_factor_0():
  base, models = draw()
  want = expect(base, models, [0.5, 0.5, 0.0])
  for junk in (jnp.inf, jnp.nan):
    got = merge.linear(base * junk, models.at[2].set(junk),
                       jnp.asarray([0.5, 0.5, 0.0]))
    np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-6)
  assert jnp.isnan(merge.linear(base, models.at[0].set(jnp.nan),
                                jnp.asarray([0.5, 0.5, 0.0]))).all()


@pytest.mark.parametrize('count', [1, 2, 3, 7, 10, 49])
def test_uniform_soup_has_no_base(count):
  """1/T summed T times is not 1 in floats; the base stays out all the same."""
  _, models = draw(count=count)
  got = merge.linear(jnp.full((4, 5), jnp.inf), models,
                     jnp.full(count, 1 / count))
  np.testing.assert_allclose(got, np.mean(np.asarray(models, np.float64), 0),
                             rtol=1e-5, atol=1e-6)


def test_linear_order_of_models():
  base, models = draw()
  weight = jnp.asarray([0.2, 0.5, 0.1])
  for order in ([2, 0, 1], [1, 0, 2]):
    order = jnp.asarray(order)
    np.testing.assert_allclose(merge.linear(base, models[order], weight[order]),
                               merge.linear(base, models, weight),
                               rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize('dtype', [jnp.bfloat16, jnp.float16])
def test_linear_works_in_float32(dtype):
  """One rounding, at the end: a thousandth does not vanish on the way."""
  base = jnp.full(3, 1.0, dtype)
  models = jnp.full((8, 3), 1.5, dtype)
  got = merge.linear(base, models, jnp.full(8, 1e-3))
  assert got.dtype == dtype
  np.testing.assert_array_equal(got, jnp.asarray(1.004, dtype))
  # A float32 base among low-precision models stays float32.
  assert merge.linear(jnp.ones(3), models, jnp.ones(8)).dtype == jnp.float32


@pytest.mark.parametrize('leaf', [
    jnp.asarray([1, 2]), jnp.asarray([True, False])])
def test_linear_copies_what_is_not_floating(leaf):
  got = merge.linear(leaf, jnp.stack([leaf, leaf]), jnp.asarray([0.5, 0.5]))
  assert got.dtype == leaf.dtype
  np.testing.assert_array_equal(got, leaf)


def test_linear_copies_keys():
  key = jax.random.key(0)
  got = merge.over_tree(merge.linear, {'key': key},
                        [{'key': jax.random.key(1)}], [1.0])
  assert got['key'] == key


@pytest.mark.parametrize('weight', [
    [0.2, 0.3], [0.0, 0.0], [1.0, 0.0], [0.5, 0.5]])
def test_linear_has_the_gradient_of_the_formula(weight):
  """Also at the weights where it copies, so that they can be learnt."""
  base, models = draw(count=2)
  plain = lambda b, m, w: (1 - w.sum()) * b + jnp.tensordot(w, m, 1)
  probe = jnp.arange(20.0).reshape(4, 5)
  grad = lambda fn: jax.grad(lambda *x: jnp.sum(probe * fn(*x)), (0, 1, 2))(
      base, models, jnp.asarray(weight))
  for got, want in zip(grad(merge.linear), grad(plain)):
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def test_linear_jit_vmap_one_trace():
  traces = []
  def fn(*args):
    traces.append(1)
    return merge.linear(*args)
  jitted, weight = jax.jit(fn), jnp.asarray([0.2, 0.3, 0.1])
  for seed in (0, 1):
    np.testing.assert_allclose(jitted(*draw(seed), weight * (seed + 1)),
                               merge.linear(*draw(seed), weight * (seed + 1)),
                               rtol=1e-6, atol=1e-6)
  assert len(traces) == 1
  stacked = jax.tree.map(lambda *x: jnp.stack(x), *map(draw, range(4)))
  np.testing.assert_allclose(
      jax.vmap(merge.linear, (0, 0, None))(*stacked, weight),
      jnp.stack([merge.linear(*draw(s), weight) for s in range(4)]),
      rtol=1e-6, atol=1e-6)


def test_over_tree_is_the_operator_on_every_leaf():
  base, models = tree(0), [tree(1), tree(2)]
  weight = jnp.asarray([0.3, 0.4])
  got = merge.over_tree(merge.linear, base, models, weight)
  assert jax.tree.structure(got) == jax.tree.structure(base)
  flat = [core.flatten(m) for m in models]
  for path, leaf in core.flatten(base).items():
    np.testing.assert_array_equal(
        core.flatten(got)[path],
        jax.jit(merge.linear)(leaf, jnp.stack([m[path] for m in flat]), weight))
  np.testing.assert_array_equal(got['step'], 0)
  numpy = jax.tree.map(np.asarray, (base, models))
  jax.tree.map(np.testing.assert_array_equal, got,
               merge.over_tree(merge.linear, *numpy, [0.3, 0.4]))


def test_over_tree_jit_traced_weights_and_vmap():
  base, models = tree(0), [tree(1), tree(2)]
  fn = lambda b, m, w: merge.over_tree(merge.linear, b, m, [w, 0.5])
  close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)
  jax.tree.map(close, jax.jit(fn)(base, models, 0.25), fn(base, models, 0.25))
  seeds = jax.tree.map(lambda *x: jnp.stack(x), (base, models),
                       (tree(3), [tree(4), tree(5)]))
  got = jax.vmap(lambda x: fn(*x, 0.25))(seeds)
  want = fn(tree(3), [tree(4), tree(5)], 0.25)
  jax.tree.map(lambda a, b: close(a[1], b), got, want)


def test_momentum_interpolation():
  """N steps at tau from a constant fast model: 1 - tau^N of the way."""
  tau, slow, fast = 0.9, tree(0), tree(1)
  step = jax.jit(lambda s: merge.over_tree(merge.linear, s, [fast], [1 - tau]))
  got = slow
  for _ in range(5):
    got = step(got)
  want = merge.over_tree(merge.linear, slow, [fast], [1 - tau**5])
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5,
                                                       atol=1e-6), got, want)


def test_rules_and_settings():
  def op(base, models, weight, extra, *, scale=1.0, shift=0.0):
    del weight
    return base + scale * models[0] + shift + extra
  base, model = tree(0), tree(1)
  got = merge.over_tree(
      op, base, [model], [1.0], jnp.asarray(100.0), scale=2.0, rules=(
          ('bias$', {'scale': 3.0}), ('^head/0', {'shift': 7.0}),
          ('^step', None), ('', {})))
  want = {'block_0': {
      name: base['block_0'][name] + scale * model['block_0'][name] + 100
      for name, scale in (('kernel', 2), ('bias', 3))},
          'head': [base['head'][0] + 2 * model['head'][0] + 107,
                   base['head'][1] + 2 * model['head'][1] + 100],
          'step': base['step']}
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), got,
               want)


@pytest.mark.parametrize('weight', [[0.3, 0.4], [1.0, 0.0]])
@pytest.mark.parametrize('kind', ['Auto', 'Explicit'])
def test_sharded_leaf_keeps_sharding(weight, kind):
  if jax.device_count() < 2:
    pytest.skip('one device: XLA_FLAGS simulates eight in conftest')
  mesh = jax.make_mesh((2,), ('x',), devices=jax.devices()[:2],
                       axis_types=(getattr(jax.sharding.AxisType, kind),))
  specs = {'a': P('x'), 'b': P(None, 'x'), 'c': P()}
  make = lambda seed: dict(zip('abc', draw(seed, (4, 6))[1]))
  place = lambda t: {n: jax.device_put(v, NamedSharding(mesh, specs[n]))
                     for n, v in t.items()}
  fn = lambda *x: merge.over_tree(merge.linear, *x, jnp.asarray(weight))
  plain = make(0), [make(1), make(2)]
  placed = place(plain[0]), [place(m) for m in plain[1]]
  for run in (fn, jax.jit(fn)):
    got = run(*placed)
    for name, leaf in got.items():
      assert leaf.sharding.is_equivalent_to(placed[0][name].sharding, 2)
      np.testing.assert_allclose(np.asarray(leaf), run(*plain)[name],
                                 rtol=1e-6, atol=1e-6)


def changed(**changes):
  return {**tree(1), **changes}


LINEAR = lambda *args, **kw: lambda: merge.over_tree(merge.linear, *args, **kw)
BAD = {
    'no models': (LINEAR(tree(), [], []), 'models must be .*at least one'),
    'one tree, not a list': (LINEAR(tree(), tree(1), [1.0]), 'models must be'),
    'weights': (LINEAR(tree(), [tree(1)], [0.5, 0.5]), r'weight.*1.*\(2,\)'),
    'scalar weight': (LINEAR(tree(), [tree(1)], 1.0), 'weight'),
    'nan': (LINEAR(tree(), [tree(1)], [float('nan')]), 'weight.*finite.*nan'),
    'inf': (LINEAR(tree(), [tree(1)], [float('inf')]), 'weight.*finite'),
    'lacks': (LINEAR(tree(), [tree(1), {'head': tree(1)['head']}], [1.0, 0.0]),
              r"models\[1\] lacks leaf 'block_0/bias'"),
    'has more': (LINEAR(tree(), [changed(more=jnp.ones(2))], [1.0]),
                 r"models\[0\] has leaf 'more'"),
    'shape': (LINEAR(tree(), [changed(head=[jnp.ones((3, 9)), jnp.ones(())])],
                     [1.0]), r"leaf 'head/0' has shape \(3, 9\)"),
    'container': (LINEAR(tree(), [changed(head=tuple(tree(1)['head']))], [1.0]),
                  'containers'),
    'no rule': (LINEAR(tree(), [tree(1)], [1.0], rules=(('kernel', {}),)),
                "rules.*'block_0/bias'"),
    'linear: models': (lambda: merge.linear(
        jnp.ones(3), jnp.ones((2, 4)), jnp.ones(2)), r'models.*\(2, 4\)'),
    'linear: none': (lambda: merge.linear(
        jnp.ones(3), jnp.ones((0, 3)), jnp.ones(0)), 'models'),
    'linear: weight': (lambda: merge.linear(
        jnp.ones(3), jnp.ones((2, 3)), jnp.ones(3)), r'weight.*\(3,\)'),
}


@pytest.mark.parametrize('name', BAD)
def test_bad_input_fails_at_the_door(name):
  call, message = BAD[name]
  with pytest.raises(ValueError, match=message):
    call()
