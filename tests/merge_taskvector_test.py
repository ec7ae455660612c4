"""Task vectors: selection, neutral settings, parity, lifting."""
import functools
import json
import pathlib

import jax
from jax import numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest

from kt_jax import core
from kt_jax import merge
from kt_jax.merge import _bounds
from kt_jax.merge import _draw
from kt_jax.merge import _select

T = 3
KEY = jax.random.key(7)
WEIGHT = jnp.asarray([0.2, 0.7, 0.4])
GOLDEN = pathlib.Path(__file__).parent / 'golden/merge/taskvector.npz'
NASTY = np.array([0.0, -0.0, 1e-40, -1e-45, 1.5, -3e38, np.inf, -np.inf],
                 np.float32)


def bits(x):
  x = np.asarray(x)
  return x.view(f'u{x.dtype.itemsize}')


def make(seed=0, shape=(12, 16), dtype=np.float32, count=T):
  r = np.random.default_rng(seed)
  base = r.normal(size=shape)
  models = base + 0.1 * r.normal(size=(count,) + shape)
  return jnp.asarray(base, dtype), jnp.asarray(models, dtype)


# Name -> operator, and what makes it neutral.
OPS = {
    'task_arithmetic': (merge.task_arithmetic, {}),
    'ties': (merge.ties, dict(density=1.0)),
    'dare': (functools.partial(merge.dare, key=KEY, elect='sum', density=0.5),
             dict(density=1.0, rescale='l1')),
    'della': (functools.partial(merge.della, key=KEY), dict(density=1.0)),
    'breadcrumbs': (functools.partial(merge.breadcrumbs, axis='row',
                                      density=0.4, gamma=0.2),
                    dict(density=1.0)),
}
EACH = pytest.mark.parametrize('name', OPS)


@functools.cache
def jitted(name):
  return jax.jit(functools.partial(OPS[name][0]))


@EACH
@pytest.mark.parametrize('dtype,count', [(jnp.float32, 1), (jnp.bfloat16, T)])
def test_neutral_settings_return_the_model_bit_for_bit(name, dtype, count):
  op, settings = OPS[name]
  op = jax.jit(functools.partial(op, **settings))
  with np.errstate(over='ignore'):
    nasty = jnp.asarray(np.tile(NASTY, 24).reshape(12, 16), dtype)
  others = jnp.stack([nasty[:, ::-1], -nasty, nasty])[:count]
  for base, models in ((nasty, others), make(dtype=dtype, count=count)):
    for weight in np.eye(count + 1)[:, :count]:  # each model; the base
      got = op(base, models, weight)
      assert got.dtype == dtype
      want = models[weight.argmax()] if weight.any() else base
      np.testing.assert_array_equal(bits(got), bits(want))


@EACH
def test_order_of_models_and_scale(name):
  base, models = make()
  op, order = jitted(name), jnp.asarray([2, 0, 1])
  if 'key' not in getattr(OPS[name][0], 'keywords', {}):  # what draws does so
    np.testing.assert_allclose(  # by the model's number
        op(base, models[order], WEIGHT[order]), op(base, models, WEIGHT),
        atol=1e-6)
  # A power of two changes no rounding: exact, whatever is drawn.
  np.testing.assert_array_equal(op(4 * base, 4 * models, WEIGHT),
                                4 * op(base, models, WEIGHT))


@EACH
def test_jit_vmap_and_gradient(name):
  op, fast = OPS[name][0], jitted(name)
  base, models = make()
  weights = jnp.stack([WEIGHT, jnp.asarray([1.0, -1.0, 0.5])])
  want = jnp.stack([fast(base, models, w) for w in weights])
  assert jnp.abs(want - base).max() > 1e-3
  close = functools.partial(np.testing.assert_allclose, rtol=1e-6, atol=1e-6)
  close(op(base, models, WEIGHT), want[0])

  def value(w):
    out = op(base, models, w)
    return jnp.sum(out**2), out
  grad, out = jax.jit(jax.vmap(jax.grad(value, has_aux=True)))(weights)
  close(out, want)
  assert jnp.isfinite(grad).all() and (grad != 0).any()


@pytest.mark.parametrize('name', ['ties', 'breadcrumbs'])
def test_low_precision_is_rounded_once(name):
  low = [x.astype(jnp.bfloat16) for x in make()]
  got = jitted(name)(*low, WEIGHT)
  assert got.dtype == jnp.bfloat16
  want = jitted(name)(*(x.astype(jnp.float32) for x in low), WEIGHT)
  np.testing.assert_allclose(got.astype(jnp.float32), want, rtol=2**-8,
                             atol=1e-6)


def lifted(name):
  """Runs an operator over [base, *models], and such trees."""
  op = OPS[name][0]
  if isinstance(op, functools.partial):  # over_tree gives the key
    op = functools.partial(op.func, **{
        k: v for k, v in op.keywords.items() if k != 'key'})
  base, models = make()
  return jax.jit(lambda ts: merge.over_tree(
      op, ts[0], ts[1:], WEIGHT, key=KEY)), [
          dict(a=x, step=jnp.asarray(n)) for n, x in enumerate([base, *models])]


@pytest.mark.parametrize('name,kind', [
    ('ties', 'Auto'), ('dare', 'Explicit'), ('della', 'Auto'),
    ('breadcrumbs', 'Explicit')])
def test_sharded_leaf_keeps_sharding(name, kind):
  if jax.device_count() < 2:
    pytest.skip('one device: XLA_FLAGS simulates eight in conftest')
  run, trees = lifted(name)
  want = run(trees)
  assert want['step'] == 0
  mesh = jax.make_mesh((2,), ('x',), devices=jax.devices()[:2],
                       axis_types=(getattr(jax.sharding.AxisType, kind),))
  sharding = NamedSharding(mesh, P('x'))
  got = run([dict(t, a=jax.device_put(t['a'], sharding)) for t in trees])['a']
  assert got.sharding.is_equivalent_to(sharding, 2)
  np.testing.assert_allclose(np.asarray(got), want['a'], rtol=1e-6, atol=1e-6)


def test_draws_depend_on_the_path_alone():
  run, trees = lifted('dare')
  trees = [dict(a=t['a'], b=t['a']) for t in trees]
  want = run(trees)
  assert not np.array_equal(want['a'], want['b'])
  got = run([dict(z=t['a'], b=t['b']) for t in trees])
  np.testing.assert_array_equal(got['b'], want['b'])


def test_density_0_is_the_base():
  base, models = make()
  for op in (merge.ties, functools.partial(merge.dare, key=KEY),
             functools.partial(merge.della, key=KEY), merge.breadcrumbs):
    np.testing.assert_array_equal(
        bits(op(base, models, jnp.ones(T), density=0.0)), bits(base))


def test_negation_and_scale():
  base, models = make()
  got = merge.task_arithmetic(base, models, jnp.asarray([-1.0, 0, 0]),
                              scale=0.5)
  np.testing.assert_allclose(got, base - 0.5 * (models[0] - base), rtol=1e-5,
                             atol=1e-6)


def test_election():
  """By mass the one large move wins, by count the two small ones; 0 abstains.
  """
  models = jnp.asarray([[3.0, 3.0, 0.0, 1.0], [-1.0, -1.0, -2.0, -1.0],
                        [-1.0, 0.0, -4.0, 0.0]])
  for elect, want in (('sum', [3, 3, -3, 1]), ('count', [-1, 3, -3, 1]),
                      ('none', [1 / 3, 2 / 3, -2, 0])):
    got = merge.ties(jnp.zeros((12, 16)), jnp.tile(models, 48).reshape(
        3, 12, 16), jnp.ones(3), density=1.0, elect=elect)
    np.testing.assert_allclose(got[3], want * 4, rtol=1e-6, atol=1e-6)


def test_nan_is_seen_unless_it_has_no_part():
  base, models = make()
  for op in (merge.ties, merge.breadcrumbs):
    got = op(base, models.at[0, 2, 3].set(jnp.nan), jnp.ones(T))
    assert jnp.isnan(got[2, 3]) and jnp.isnan(got).sum() == 1
    for junk in (jnp.nan, jnp.inf):
      got = op(base, models.at[0].set(junk), jnp.asarray([0.0, 1.0, 1.0]))
      np.testing.assert_array_equal(
          got, op(base, models, jnp.asarray([0.0, 1.0, 1.0])))


# Parity with mergekit.

FIELDS = {'lambda': 'scale', 'normalize': 'normalize', 'density': 'density',
          'gamma': 'gamma', 'epsilon': 'epsilon'}
MERGEKIT = {
    'task_arithmetic': (merge.task_arithmetic, {}),
    'ties': (merge.ties, dict(elect='sum')),
    'dare_linear': (merge.dare, dict(elect='none')),
    'dare_ties': (merge.dare, dict(elect='sum')),
    'breadcrumbs': (merge.breadcrumbs, dict(elect='none')),
    'breadcrumbs_ties': (merge.breadcrumbs, dict(elect='sum')),
    'della': (merge.della, dict(elect='sum', axis=1)),
    'della_linear': (merge.della, dict(elect='none', axis=1)),
}


@functools.cache
def golden():
  stored = np.load(GOLDEN)
  assert json.loads(str(stored['versions']))['mergekit'] == '0.1.5'
  return stored, json.loads(str(stored['settings']))


@pytest.mark.parametrize('case', golden()[1])
def test_parity_with_mergekit(case, monkeypatch):
  stored, settings = golden()
  settings = dict(settings[case])
  op, chosen = MERGEKIT[settings['method']]
  names = op.__kwdefaults__
  chosen = chosen | {FIELDS[k]: v for k, v in settings.items()
                     if k in FIELDS and FIELDS[k] in names}
  if 'rescale' in names:
    chosen['rescale'] = 'l1' if settings['rescale'] else 'none'
  if op in (merge.dare, merge.della):
    chosen['key'] = KEY
  for shape in ('matrix', 'vector', 'tensor'):
    if shape != 'matrix' and case != 'della':
      continue  # only ranks in rows tell shapes apart
    run = op if shape == 'matrix' else jax.jit(
        op, static_argnames=('elect', 'rescale', 'axis', 'normalize'))
    base, models, uniform = (jnp.asarray(stored[f'{kind}/{shape}'])
                             for kind in ('base', 'models', 'uniform'))
    monkeypatch.setattr(_draw, 'uniform', lambda key, shape, t, u=uniform: u[t])
    got = run(base, models, jnp.asarray(settings['weight']), **chosen)
    # What mergekit keeps on tiny shares of a row we do, and one entry more.
    np.testing.assert_allclose(got, stored[f'out/{case}/{shape}'], rtol=2e-6,
                               atol=1e-6, err_msg=f'{case} {shape}')


# Formulas, in float64 and entry by entry: defaults, and what mergekit lacks.


def kept(d, density, gamma):
  """Of one row: the magnitudes in the middle stay."""
  order = np.argsort(-np.abs(d))
  stay = max(1, int(density * d.size)) if density else 0
  drop = min(int(gamma * d.size), d.size - stay)
  mask = np.zeros(d.size, bool)
  mask[order[drop:drop + stay]] = True
  return mask


def rank_share(d, density, epsilon):
  rank = np.empty(d.size)
  rank[np.argsort(np.abs(d))] = np.arange(d.size)
  return density + epsilon * (2 * rank / (d.size - 1) - 1)


def by_rows(fn, d, axis):
  return (fn(d.ravel()).reshape(d.shape) if axis is None
          else np.apply_along_axis(fn, axis, d))


def trimmed(op, base, models, weight, uniform, *, density, gamma=0.0,
            epsilon=0.0, axis=None, rescale='none', elect='none',
            normalize=False, scale=1.0):
  """Any of the operators; the settings are the defaults of none of them."""
  axis = -1 if axis == 'row' else axis
  density, gamma, epsilon = (np.broadcast_to(x, T) for x in (
      density, gamma, epsilon))
  moves = []
  for t, d in enumerate(models - base):
    p = np.full(d.shape, density[t])
    if op == 'della':
      p = by_rows(lambda x, t=t: rank_share(x, density[t], epsilon[t]), d, axis)
    mask = uniform[t] < p if op in ('dare', 'della') else by_rows(
        lambda x, t=t: kept(x, density[t], gamma[t]), d, axis)
    gain = {'none': 1, 'inverse': 1 / p,
            'l1': np.abs(d).sum() / np.abs(d * mask).sum()}[rescale]
    moves.append(np.where(mask, gain * d, 0))
  out = base.copy()
  for at in np.ndindex(base.shape):
    votes = [w * x[at] for w, x in zip(weight, moves)]
    up = sum(votes if elect == 'sum' else np.sign(votes)) >= 0
    some = [t for t in range(T) if elect == 'none' or (
        votes[t] > 0 if up else votes[t] < 0)]
    total = sum(weight[t] for t in some) if normalize else 1
    out[at] += scale * sum(votes[t] for t in some) / (total or 1)
  return out


TIES = dict(density=0.2, elect='sum', normalize=True)
CRUMBS = dict(density=0.15, gamma=0.006)
DARE = dict(density=0.1, rescale='inverse')
DELLA = dict(density=0.7, epsilon=0.07, axis=-1, rescale='inverse', elect='sum',
             normalize=True)
FORMULAS = {  # operator, its defaults, other settings
    'ties': ('ties', TIES, {}),
    'ties count': ('ties', TIES, dict(
        density=(0.3, 0.5, 0.9), elect='count', normalize=False,
        rescale='inverse', scale=0.7)),
    'ties all': ('ties', TIES, dict(density=0.4, elect='none', scale=1.3)),
    'breadcrumbs': ('breadcrumbs', CRUMBS, {}),
    'breadcrumbs rows': ('breadcrumbs', CRUMBS, dict(
        density=0.4, gamma=(0.2, 0.1, 0.3), axis='row', rescale='l1',
        elect='count', normalize=True, scale=0.7)),
    'breadcrumbs columns': ('breadcrumbs', CRUMBS, dict(
        density=0.5, gamma=0.1, axis=0, rescale='inverse', elect='sum')),
    'dare': ('dare', DARE, {}),
    'dare count': ('dare', DARE, dict(
        density=(0.3, 0.6, 0.8), elect='count', normalize=True, scale=0.7)),
    'dare mean': ('dare', DARE, dict(density=0.4, rescale='l1',
                                     normalize=True)),
    'della': ('della', DELLA, {}),
    'della columns': ('della', DELLA, dict(
        density=0.5, epsilon=(0.1, 0.3, 0.2), axis=0, elect='count',
        normalize=False, scale=0.7)),
    'della leaf': ('della', DELLA, dict(axis=None, rescale='none')),
}


@pytest.mark.parametrize('name', FORMULAS)
def test_formulas(name, monkeypatch):
  op, defaults, settings = FORMULAS[name]
  base, models = make(shape=(6, 16))
  uniform = np.random.default_rng(2).random((T, 6, 16))
  monkeypatch.setattr(_draw, 'uniform', lambda key, shape, t: uniform[t])
  weight = [0.6, 1.1, -0.4]
  fn = functools.partial(getattr(merge, op), **settings)
  key = [KEY] if op in ('dare', 'della') else []
  got = jax.jit(lambda *x: fn(*x, *key))(base, models, jnp.asarray(weight))
  want = trimmed(op, *(np.asarray(x, np.float64) for x in (base, models)),
                 weight, uniform, **defaults | settings)
  np.testing.assert_allclose(got, want, 1e-5, 1e-5)


# The paper's TIES, over the whole model.


def loop_ties(base, models, density, scale):
  """Entry by entry in float64; keeps int(density n) of a model's entries."""
  names = sorted(base)
  flat = np.concatenate([np.ravel(base[n]) for n in names]).astype(np.float64)
  taus = []
  for model in models:
    tau = np.concatenate([np.ravel(model[n]) for n in names]) - flat
    kept = sorted(range(tau.size), key=lambda i: -abs(tau[i]))[
        :int(density * tau.size)]
    taus.append({i: tau[i] for i in kept})
  out = flat.copy()
  for i in range(flat.size):
    sign = np.sign(sum(tau.get(i, 0.0) for tau in taus))
    agree = [tau[i] for tau in taus if i in tau and np.sign(tau[i]) == sign]
    if agree:
      out[i] += scale * sum(agree) / len(agree)
  sizes = np.cumsum([np.size(base[n]) for n in names])[:-1]
  return {n: x.reshape(np.shape(base[n]))
          for n, x in zip(names, np.split(out, sizes))}


@functools.cache
def jitted_ties():
  return jax.jit(lambda *x: merge.over_tree(merge.ties, *x[:4], scale=x[4]))


@pytest.mark.parametrize('density,scale', [(0.2, 1.0), (0.55, 0.8)])
def test_ties_of_the_paper(density, scale):
  """Small deltas of a leaf go although each leaf has a largest."""
  r = np.random.default_rng(3)
  shapes = dict(a=(7, 11), b=(13,), c=(2, 3, 5), d=())
  base = {n: r.normal(size=s).astype(np.float32) for n, s in shapes.items()}
  models = [{n: (b + r.normal(size=b.shape) * (1e-3 if n == 'b' else 0.1)
                 ).astype(np.float32) for n, b in base.items()}
            for _ in range(4)]
  leaves = [(base[n], np.stack([m[n] for m in models])) for n in base]
  threshold = merge.whole_model_bounds(leaves, density)
  want = loop_ties(base, models, density, scale)
  run = lambda w, threshold: jitted_ties()(base, models, w, threshold, scale)
  got = run(jnp.ones(4), threshold)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6,
                                                       atol=1e-6), got, want)
  np.testing.assert_array_equal(got['b'], base['b'])
  local = run(jnp.ones(4), _bounds.choose(_select.Rows.of(np.stack(
      [np.abs(m['b'] - base['b']).ravel() for m in models])), density=density))
  assert not np.array_equal(local['b'], base['b'])
  # Equal weights of any size are the paper's.
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6),
               run(jnp.full(4, 0.5), threshold), got)


def test_ties_with_threshold_is_one_pass_over_the_entries():
  base, models = make()
  threshold = _bounds.magnitude_bounds(base, models, density=0.2)
  fn = lambda *x: merge.ties(*x, threshold)
  text = str(jax.make_jaxpr(fn)(base, models, jnp.ones(T)))
  assert not any(word in text for word in ('sort', 'while', 'cumsum', 'argmax',
                                           'scatter', 'dot_general'))
  fn = jax.jit(fn)
  got = fn(base, models, WEIGHT)
  np.testing.assert_array_equal(got, jitted('ties')(base, models, WEIGHT))
  flat = jnp.concatenate([
      fn(base.reshape(-1)[i:i + 64], models.reshape(T, -1)[:, i:i + 64], WEIGHT)
      for i in range(0, 192, 64)])
  np.testing.assert_array_equal(flat.reshape(base.shape), got)


# Selection.

VALUES = {
    'normal': lambda r: r.normal(size=40),
    'ties': lambda r: r.integers(-3, 4, size=40),
    'zeros': lambda r: np.zeros(40),
    'equal': lambda r: np.full(40, -2.5),
    'subnormal': lambda r: r.integers(-9, 9, size=40) * 1e-45,
    'wide': lambda r: r.normal(size=40) * 10.0**r.integers(-44, 38, size=40),
    'inf': lambda r: np.where(r.random(40) < 0.2, np.inf, r.normal(size=40)),
}


@functools.cache
def jitted_kth():
  return jax.jit(_select.kth_largest)


def on_host(sizes, *ranks, step=None):
  """The k-th largest of one row that is read in steps."""
  row = sizes[None]
  read = lambda: (row[:, i:i + (step or len(sizes))]
                  for i in range(0, len(sizes), step or len(sizes)))
  return _select.kth_largest_host(_select.Rows(1, len(sizes), read),
                                 [(0, k) for k in ranks])


@pytest.mark.parametrize('name', VALUES)
def test_kth_largest_is_that_of_a_sort(name):
  with np.errstate(over='ignore', under='ignore'):
    values = VALUES[name](np.random.default_rng(0)).astype(np.float32)
  sizes = np.abs(values)
  for k in (1, 2, 17, 39, 40):
    want = np.partition(sizes, 40 - k)[40 - k]
    assert bits(jitted_kth()(values, k))[0] == bits(want)
    assert bits(on_host(sizes, k)) == bits(want)
  assert on_host(sizes[:1], 1) == sizes[0]
  rows = _select.kth_largest(jnp.asarray(values).reshape(5, 8), 3, (1,))
  np.testing.assert_array_equal(
      bits(rows[:, 0]), bits(np.sort(sizes.reshape(5, 8))[:, -3]))


@pytest.mark.parametrize('name', ['normal', 'ties', 'sorted', 'adverse'])
def test_kth_largest_host_of_many(name):
  r, n = np.random.default_rng(1), 600_001
  values = np.abs({
      'normal': lambda: r.normal(size=n), 'ties': lambda: r.integers(0, 5, n),
      'sorted': lambda: np.arange(n),
      # The sample sees zeros only.
      'adverse': lambda: (np.arange(n) % (n // _select._SAMPLE | 1) != 0) * 1.0,
  }[name]()).astype(np.float32)
  ordered = np.sort(values)
  ranks = (1, 3, n // 5, n // 2, n - 1, n)
  np.testing.assert_array_equal(on_host(values, *ranks, step=70_001),
                                [ordered[n - k] for k in ranks])


def test_bounds():
  r = np.random.default_rng(5)
  base = np.zeros(200, np.float32)
  models = r.normal(size=(2, 200)).astype(np.float32)
  sizes = -np.sort(-np.abs(models))
  for density, gamma, rows in (
      (0.2, 0.0, [(39, None)] * 2), (0.2, 0.05, [(49, 10)] * 2),
      (0.9, 0.5, [(199, 20)] * 2), ([0.001, 0.5], [0.0, 0.1], [(0, None),
                                                               (119, 20)])):
    want = np.array([(sizes[t, low], np.inf if high is None else sizes[t, high])
                     for t, (low, high) in enumerate(rows)], np.float32)
    settings = dict(density=density, gamma=gamma)
    measure = merge.contract_of(merge.breadcrumbs).measures['threshold']
    for got in (measure.of_leaf(base, models, **settings),
                measure.choose(_select.Rows.of(measure.entries(base, models)),
                               **settings),
                merge.whole_model_bounds(
                    lambda: ((base[i:i + 50], models[:, i:i + 50])
                             for i in range(0, 200, 50)), **settings)):
      np.testing.assert_array_equal(got, want)
  np.testing.assert_array_equal(
      measure.of_leaf(base, models, density=[1.0, 0.0]),
      [[0, np.inf], [np.inf, -1]])
  np.testing.assert_array_equal(
      measure.choose(_select.Rows.of(np.abs(models)), density=[1.0, 0.0]),
      [[0, np.inf], [np.inf, -1]])
  # Traced shares are those of numbers.
  np.testing.assert_array_equal(
      jax.jit(lambda d: _bounds.magnitude_bounds(base, models, density=d))(
          jnp.asarray([0.25, 0.5])),
      _bounds.magnitude_bounds(base, models, density=[0.25, 0.5]))


def test_small_leaves_are_not_emptied():
  base, models = make()
  for axis, count in ((None, 1), ('row', 12)):
    got = merge.breadcrumbs(base, models, jnp.asarray([1.0, 0, 0]), axis=axis,
                            density=0.001, gamma=0.5)
    assert (got != base).sum() == count


# Drawing.


def test_dare_is_unbiased_and_della_prefers_large_entries():
  base, model = jnp.zeros((50, 40)), jnp.arange(1.0, 2001).reshape(1, 50, 40)
  keys = jax.random.split(KEY, 8)
  run = lambda op, **kw: jax.jit(jax.vmap(
      lambda key: op(base, model, jnp.ones(1), key, **kw)))(keys)
  for got, density in (
      (run(merge.dare, density=0.4), 0.4),
      (run(merge.della, density=0.5, epsilon=0.5, elect='none',
           normalize=False), 0.5)):
    assert abs(got.mean() / model.mean() - 1) < 0.02
    assert abs((got != 0).mean() - density) < 0.01
  kept = got != 0  # the last of a row always, the first never
  assert kept[..., -1].all() and not kept[..., 0].any()
  assert kept[..., 20:].mean() > 0.7 > 0.3 > kept[..., :20].mean()
  np.testing.assert_allclose(
      jnp.where(kept, got * jnp.arange(40) / 39, 0),
      jnp.where(kept, model[0], 0), rtol=1e-5)


def test_norms_are_kept_by_l1():
  base, models = make()
  got = jax.jit(functools.partial(merge.dare, density=0.3, rescale='l1'))(
      base, models[:1], jnp.ones(1), KEY)
  np.testing.assert_allclose(jnp.abs(got - base).sum(),
                             jnp.abs(models[0] - base).sum(), rtol=1e-5)


def test_chunks_draw_what_the_leaf_draws(monkeypatch):
  monkeypatch.setattr(_draw, 'BLOCK', 64)
  base, models = make()  # three blocks
  whole = _draw.uniform(KEY, (12, 16), 2)
  assert whole.dtype == jnp.float32 and len(np.unique(whole)) == 192
  flat = whole.reshape(-1)
  parts = [_draw.uniform(_draw.at_block(KEY, jnp.asarray(b)), (64,), 2)
           for b in range(3)]
  np.testing.assert_array_equal(jnp.concatenate(parts), flat)
  np.testing.assert_array_equal(
      _draw.uniform(_draw.at_block(KEY, 2), (5,), 2), flat[128:133])
  op = jax.jit(functools.partial(merge.dare, elect='sum', density=0.5))
  got = jnp.concatenate([
      op(base.reshape(-1)[i:i + 64], models.reshape(T, -1)[:, i:i + 64], WEIGHT,
         _draw.at_block(KEY, jnp.asarray(i // 64))) for i in range(0, 192, 64)])
  np.testing.assert_array_equal(got.reshape(12, 16),
                                op(base, models, WEIGHT, KEY))


def call(op, *args, **settings):
  base, models = make()
  return lambda: op(base, models, jnp.ones(T), *args, **settings)


BAD = {
    'density': (call(merge.ties, density=1.2), r'ties: density.*\[0, 1\].*1.2'),
    'densities': (call(merge.ties, density=[0.1, 0.2]), r'density.*3.*\(2,\)'),
    'gamma': (call(merge.breadcrumbs, gamma=-0.1), 'breadcrumbs: gamma.*-0.1'),
    'elect': (call(merge.ties, elect='some'), "ties: No elect 'some'.*'sum'"),
    'rescale': (call(merge.dare, KEY, rescale='l2'), "No rescale 'l2'.*'l1'"),
    'key': (call(merge.dare), 'dare draws.*key'),
    'della key': (call(merge.della), 'della draws.*key'),
    'epsilon': (call(merge.della, KEY, density=0.9, epsilon=0.2),
                'della: epsilon.*0.2.*0.9'),
    'axis': (call(merge.breadcrumbs, axis='column'), "axis.*'row'.*'column'"),
    'far axis': (call(merge.breadcrumbs, axis=2), r'axis.*\[-2, 2\).*2'),
    'scale': (call(merge.task_arithmetic, scale=float('nan')), 'scale.*nan'),
    'threshold': (call(merge.ties, jnp.ones(T)), r'threshold.*\(3, 2\).*\(3,\)'
                  ),
    'row threshold': (call(merge.breadcrumbs, jnp.ones((T, 2)), axis='row'),
                      'threshold.*axis'),
    'weight': (lambda: merge.ties(*make(), jnp.ones(2)), r'ties: weight.*\(2,'),
    'models': (lambda: merge.ties(make()[0], make()[1][:, :2], jnp.ones(T)),
               'ties: models'),
    'nothing': (lambda: merge.whole_model_bounds([], 0.2), 'no floating'),
    'lifted key': (lambda: merge.over_tree(
        merge.dare, {'a': make()[0]}, [{'a': make()[0]}], [1.0]), 'dare.*key'),
}


@pytest.mark.parametrize('name', BAD)
def test_bad_settings_are_refused_by_name(name):
  run, message = BAD[name]
  with pytest.raises(core.UserError if name != 'lifted key' else ValueError,
                     match=message):
    run()
