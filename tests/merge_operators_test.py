"""Merge operators beyond the sum: contract, theorems, and others' numbers."""
import functools
import pathlib

import jax
from jax import numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest

from kt_jax import merge

GOLDEN = np.load(
    pathlib.Path(__file__).parent / 'golden/merge/operators.npz')
A = {n: jnp.asarray(GOLDEN[n])
     for n in ('base', 'models', 'fisher', 'inputs')}
GRAMS = jnp.einsum('tni,tnj->tij', A['inputs'], A['inputs'])
WEIGHT = jnp.asarray([0.5, 0.2, 0.3])
T, M, N = A['models'].shape
QUICK = {'xla_llvm_disable_expensive_passes': True,
         'xla_backend_optimization_level': 0}

# Name -> how many models it takes and the arrays it may be given.
TAKES = {
    'slerp': (1, {}), 'nuslerp': (2, {}), 'multislerp': (T, {}),
    'karcher': (T, {}), 'model_stock': (T, {}), 'nearswap': (1, {}),
    'passthrough': (1, {}), 'arcee_fusion': (1, {}), 'sce': (T, {}),
    'fisher': (T, {'fisher': A['fisher']}), 'regmean': (T, {'grams': GRAMS}),
    'svd_truncate': (T, {}), 'task_singular_vectors': (T, {}),
    'multi_source_svd': (T, {}),
}
# Settings at which a model at weight 1 comes back as it is.
NEUTRAL = {'nearswap': dict(t=float('inf')), 'svd_truncate': dict(rank=1.0),
           'task_singular_vectors': dict(rank=1.0),
           'multi_source_svd': dict(components=10**6)}
SETTINGS = {'nearswap': dict(t=0.4), 'sce': dict(select_topk=0.5),
            'multi_source_svd': dict(components=7),
            'svd_truncate': dict(rank=2), 'nuslerp': dict(origin='zero')}
every = pytest.mark.parametrize('name', TAKES)


def inputs(name, count=None):
  limit, extras = TAKES[name]
  count = limit if count is None else count
  weight = WEIGHT[:count] if limit > 1 else jnp.asarray([0.7])
  if name == 'task_singular_vectors':
    weight = jnp.ones(count)
  return (A['base'], A['models'][:count], weight[:count],
          {k: v[:count] for k, v in extras.items()})


@functools.cache
def compiled(name, settings, traced):
  """One compilation costs less than each operation's own."""
  def fn(base, models, weight, extras, values):
    chosen = dict(settings) | dict(zip(traced, values))
    return getattr(merge, name)(base, models, weight, **extras, **chosen)
  return jax.jit(fn, compiler_options=QUICK)


def run(name, base, models, weight, extras=None, **settings):
  static = merge.contract_of(getattr(merge, name)).static
  traced = [k for k, v in settings.items()
            if isinstance(v, float) and k not in static]
  fixed = tuple((k, v) for k, v in settings.items() if k not in traced)
  return compiled(name, fixed, tuple(traced))(
      base, models, weight, extras or {}, [settings[k] for k in traced])


def call(name, base, models, weight, extras=None, **settings):
  return run(name, base, models, weight, extras,
             **SETTINGS.get(name, {}) | settings)


@functools.cache
def plain(name):
  return call(name, *inputs(name))


def close(got, want, rtol=2e-5, atol=2e-5):
  np.testing.assert_allclose(got, want, rtol=rtol, atol=atol)


def bits(x):
  x = np.asarray(x)
  return x.view(f'u{x.dtype.itemsize}')


def golden(name):
  base, models, weight, _ = inputs(
      name.partition('/')[0].removesuffix('_limit'))
  one = jnp.ones(1)
  match name.split('/'):
    case ['slerp', 'line']:
      return run('slerp', base, (base + 1e-3 * models)[:1], one * 0.3)
    case ['slerp', 'opposite']:
      return run('slerp', base, -2 * base[None], one * 0.3)
    case ['slerp', t]:
      return run('slerp', base, models, one, t=float(t))
    case ['nuslerp', origin, axis]:
      return run('nuslerp', base, models, jnp.asarray([0.4, 1.2]),
                 origin=origin, axis=None if axis == 'None' else int(axis))
    case ['multislerp', origin, own]:
      return run('multislerp', base, models, jnp.asarray([0.5, 0.9, -0.3]),
                              origin=origin, normalize_weights=own == '1')
    case ['karcher', steps]:
      return run('karcher', base, models, jnp.ones(T), max_iter=int(steps))
    case ['karcher_limit']:
      return run('karcher', base, A['models'], WEIGHT)
    case ['model_stock', axis]:
      return run('model_stock', base, models, jnp.ones(T), clip=False,
                               axis=None if axis == 'None' else int(axis))
    case ['nearswap', t]:
      return run('nearswap', base, models, one, t=float(t))
    case ['arcee_fusion']:
      return run('arcee_fusion', base, models, one)
    case ['sce', topk]:
      return run('sce', base, models, jnp.ones(T), select_topk=float(topk))
    case ['passthrough', scale]:
      return run('passthrough', base, models, one, scale=float(scale))
    case ['fisher']:
      return run('fisher', base, models, weight, {'fisher': A['fisher']})
    case ['regmean', alpha]:
      return run('regmean', base, models, weight, {'grams': GRAMS},
                 alpha=float(alpha), ridge=1e-12)
    case ['svd_truncate', rank]:
      return run('svd_truncate', base, models, weight, rank=int(rank))
    case ['task_singular_vectors']:
      return run('task_singular_vectors', base, models, jnp.ones(T))
    case ['multi_source_svd', kept]:
      return run('multi_source_svd', base, models, jnp.ones(T),
                                    components=int(kept))
  raise AssertionError(name)


@pytest.mark.parametrize('name', [
    n.removeprefix('out/') for n in GOLDEN.files if n.startswith('out/')])
def test_others(name):
  """mergekit's own functions, or float64 solvers: see make_operators.py."""
  close(golden(name),
        GOLDEN[f'out/{name}'])


@every
def test_a_model_alone_comes_back(name):
  """Bit for bit: signed zeros and subnormals too."""
  nasty = np.asarray([0.0, -0.0, 1e-40, -1e-45, 1.5, -2.0], np.float32)
  base = jnp.asarray(np.stack([nasty, nasty[::-1], -nasty, nasty * 2]))
  model = jnp.asarray(np.stack([-nasty, nasty, nasty[::-1], nasty]))
  if name == 'arcee_fusion':
    base = model = jnp.stack([model, base])[1]
  limit, _ = TAKES[name]
  extras = {'fisher': {'fisher': jnp.ones((limit, 4, 6))},
            'regmean': {'grams': jnp.ones((limit, 4, 4)) + jnp.eye(4)}}
  given = extras.get(name, {})
  one = {k: v[:1] for k, v in given.items()}
  alone = call(name, base, model[None], jnp.ones(1), one,
               **NEUTRAL.get(name, {'select_topk': 1.0} if name == 'sce'
                             else {}))
  np.testing.assert_array_equal(bits(alone), bits(model))
  if limit > 1 and name != 'task_singular_vectors':
    models = jnp.stack([base * 3, model, base + 1])[-limit:]
    at = limit - 2
    got = call(name, base, models, jnp.eye(limit)[at], given, **NEUTRAL.get(
        name, {'select_topk': 1.0} if name == 'sce' else {}))
    np.testing.assert_array_equal(bits(got), bits(models[at]))


@every
def test_base_dtype_and_what_is_not_floating(name):
  base, models, weight, extras = inputs(name)
  for dtype in (jnp.bfloat16, jnp.float32):
    got = jax.eval_shape(
        functools.partial(getattr(merge, name), **extras),
        base.astype(dtype), models.astype(jnp.bfloat16), weight)
    assert (got.dtype, got.shape) == (dtype, base.shape)
  for leaf in (jnp.arange(3), jax.random.key(0)):
    stack = jnp.stack([leaf] * len(models))
    assert (getattr(merge, name)(leaf, stack, weight) == leaf).all()


@every
def test_order_of_models(name):
  base, models, weight, extras = inputs(name)
  order = jnp.arange(len(models))[::-1]
  close(call(name, base, models[order], weight[order],
             {k: v[order] for k, v in extras.items()}), plain(name))


@every
def test_scale_of_everything(name):
  """Twice the base and the models is twice the result."""
  base, models, weight, extras = inputs(name)
  if name == 'arcee_fusion':
    pytest.skip('a softmax of the weights has a scale')
  extra = {'t': 0.8} if name == 'nearswap' else {}
  close(call(name, 2 * base, 2 * models, weight, extras, **extra),
        2 * plain(name))


@pytest.mark.parametrize('name', [
    'slerp', 'multislerp', 'karcher', 'model_stock', 'nearswap', 'sce',
    'fisher', 'regmean', 'task_singular_vectors'])
def test_gradient_is_finite_where_it_is_hard(name):
  """Equal, opposite and zero models, and a zero base.

  The others have the parts of these.
  """
  base, _, weight, extras = inputs(name)
  count = len(weight)
  settings = SETTINGS.get(name, {})
  zero = jnp.zeros_like(base)
  leaves = [(base, base), (base, -base), (base, zero), (zero, zero),
            (zero, base), (base, base * (1 + 1e-4))]
  bases = jnp.stack([b for b, _ in leaves])
  models = jnp.stack([jnp.stack([m, b, m])[:count] for b, m in leaves])
  def fn(base, models, weight):
    out = getattr(merge, name)(base, models, weight, **extras, **settings)
    return jnp.sum(jnp.sin(out)), out
  grad = jax.vmap(jax.grad(fn, (0, 1, 2), has_aux=True), (0, 0, None))
  grad = jax.jit(grad, compiler_options=QUICK)
  for leaf in jax.tree.leaves(grad(bases, models, weight)):
    assert jnp.isfinite(leaf).all()


@pytest.mark.parametrize('name,kind', [
    ('slerp', 'Auto'), ('slerp', 'Explicit'), ('arcee_fusion', 'Explicit'),
    ('sce', 'Auto'), ('sce', 'Explicit'), ('regmean', 'Explicit'),
    ('svd_truncate', 'Auto'), ('svd_truncate', 'Explicit')])
def test_sharded_leaf_keeps_sharding(name, kind):
  """The others have the parts of these."""
  if jax.device_count() < 2:
    pytest.skip('one device: XLA_FLAGS simulates eight in conftest')
  mesh = jax.make_mesh((2,), ('x',), devices=jax.devices()[:2],
                       axis_types=(getattr(jax.sharding.AxisType, kind),))
  base, models, weight, extras = inputs(name)
  placed = jax.device_put(base, NamedSharding(mesh, P('x')))
  fn = functools.partial(call, name)
  got = fn(placed, jax.device_put(models, NamedSharding(mesh, P(None, 'x'))),
           weight, extras)
  assert got.sharding.is_equivalent_to(placed.sharding, 2)
  close(np.asarray(got), plain(name))


# Formulas, in float64 and written otherwise. No weights that add up to one, no
# setting at its default.
UNEVEN = np.asarray([0.7, 0.2, 0.5])
flat = lambda x: x.reshape(len(x), -1)
angle = lambda x, y: np.arccos(np.sum(x * y) / np.sqrt(
    np.sum(x * x) * np.sum(y * y)))


def along_arc(x, y, t, a=None):
  a = angle(x, y) if a is None else a
  return (np.sin((1 - t) * a) * x + np.sin(t * a) * y) / np.sin(a)


def slerp_rows(b, m, w):
  """Columns of the leaf, each along its own arc."""
  d = m - b
  t = w[1] / (w[0] + w[1])
  return b + np.stack([along_arc(d[0, :, j], d[1, :, j], t) for j in range(N)],
                      1)


def mean_direction(b, m, w, short):
  d = flat(m - b)
  size = np.linalg.norm(d, axis=1)
  share = w / w.sum()
  u = np.where(size[:, None] <= short, 0, d / size[:, None])
  length = share @ np.where(size <= short, 0, size)
  total = share @ u
  return b + (length * total / np.linalg.norm(total)).reshape(b.shape)


def karcher(b, m, w, origin, steps, short=0.0):
  d = flat(m - origin)
  size = np.linalg.norm(d, axis=1)
  some = size > short
  u = d[some] / size[some, None]
  share = w[some] / w[some].sum()
  x = share @ u
  x /= np.linalg.norm(x)
  for _ in range(steps):
    dots = u @ x
    tangents = np.arccos(dots)[:, None] * (u - dots[:, None] * x) / np.sqrt(
        1 - dots**2)[:, None]
    step = share @ tangents
    x = np.cos(np.linalg.norm(step)) * x + np.sinc(
        np.linalg.norm(step) / np.pi) * step
  length = (w / w.sum())[some] @ size[some]
  return origin + (length * x).reshape(b.shape)


def stock(b, m, w, axis):
  """From the shell: the foot of the perpendicular, by pairs of models."""
  share = w / w.sum()
  def one(d):
    pairs = [(i, j) for i in range(T) for j in range(T) if i != j]
    cosine = sum(share[i] * share[j] * np.cos(angle(d[i], d[j]))
                 for i, j in pairs) / sum(share[i] * share[j] for i, j in pairs)
    count = 1 / np.sum(share**2)
    return count * cosine / (1 + (count - 1) * cosine)
  d = m - b
  t = one(d) if axis is None else np.stack([one(d[:, :, j]) for j in range(N)])
  return (1 - t) * b + t * np.tensordot(share, m, 1)


def select_erase(b, m, w, topk):
  d, out = m - b, b.copy()
  var = d.var(0)
  kept = var >= np.sort(var.ravel())[-int(topk * var.size)]
  energy = w * np.sum(np.where(kept, d, 0)**2, (1, 2))
  for at in zip(*np.nonzero(kept)):
    sign = 1 if w @ d[(slice(None), *at)] >= 0 else -1
    some = [t for t in range(T) if sign * d[(t, *at)] > 0]
    out[at] += sum(energy[t] * d[(t, *at)] for t in some) / sum(
        energy[t] for t in some)
  return out


def certain(b, m, w, floor, first_only):
  del b
  f = np.asarray(A['fisher'], np.float64).copy()
  f[:1 if first_only else T] = np.maximum(f[:1 if first_only else T], floor)
  return np.einsum('t,tij,tij->ij', w, f, m) / np.einsum('t,tij->ij', w, f)


def regressed(b, m, w, alpha, ridge):
  """Rows of ridge regression for each output; the ridge pulls to the mean."""
  del b
  share = w / w.sum()
  g = np.asarray(GRAMS, np.float64)
  g = np.stack([alpha * x + (1 - alpha) * np.diag(np.diag(x)) for x in g])
  g = share[:, None, None] * g
  pull = ridge * np.trace(g.sum(0)) / M
  return np.linalg.solve(
      g.sum(0) + pull * np.eye(M),
      sum(x @ v for x, v in zip(g, m)) + pull * np.tensordot(share, m, 1))


def triplets(d, weight=1.0):
  u, s, v = np.linalg.svd(d)
  return [(abs(weight) * x, weight * x * np.outer(u[:, k], v[k]))
          for k, x in enumerate(s)]


def truncated(b, m, w, rank):
  return b + sum(c * sum(x for _, x in triplets(y)[:rank])
                 for c, y in zip(w, m - b))


def pooled(b, m, w, count):
  every_one = [x for c, y in zip(w, m - b) for x in triplets(y, c)]
  return b + sum(x for _, x in sorted(every_one, key=lambda x: -x[0])[:count])


def whitened(b, m, w, rank):
  """(U (U'U)^-1/2) diag (V (V'V)^-1/2)' of the leading triplets."""
  parts = [np.linalg.svd(d) for d in m - b]
  u = np.concatenate([p[0][:, :rank] for p in parts], 1)
  v = np.concatenate([p[2][:rank].T for p in parts], 1)
  s = np.concatenate([c * p[1][:rank] for c, p in zip(w, parts)])
  def white(x):
    values, vectors = np.linalg.eigh(x.T @ x)
    return x @ vectors @ np.diag(values**-0.5) @ vectors.T
  return b + white(u) @ np.diag(s) @ white(v).T


def fused(b, m, w):
  def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True) + 1e-8
  p, q = softmax(m[0]), softmax(b)
  size = np.abs(m[0] - b) * np.sum(p * np.log(p / q), -1, keepdims=True)
  s = np.sort(size.ravel())
  first, middle, third = (s[int(x * (s.size - 1))] for x in (0.25, 0.5, 0.75))
  return np.where(size >= middle + 1.5 * (third - first),
                  b + w[0] * (m[0] - b), b)


FORMULAS = {
    'slerp: weight': (dict(), lambda b, m, w: along_arc(b, m[0], w[0])),
    'slerp: short': (dict(eps=100.0), lambda b, m, w: along_arc(
        b, m[0], w[0], np.pi / 2)),
    'slerp: line': (dict(dot_threshold=1e-4), lambda b, m, w: (
        1 - w[0]) * b + w[0] * m[0]),
    'nuslerp: axis': (dict(axis=0), slerp_rows),
    'nuslerp: line': (dict(eps=0.999), lambda b, m, w: (
        w[0] * m[0] + w[1] * m[1]) / (w[0] + w[1])),
    'multislerp: short': (dict(eps=0.5), lambda b, m, w: mean_direction(
        b, m, w, 0.5)),
    'multislerp: cancel': (dict(eps=100.0), lambda b, m, w: np.tensordot(
        w / w.sum(), m, 1)),
    'karcher: base': (dict(origin='base', max_iter=2), lambda b, m, w: karcher(
        b, m, w, b, 2)),
    'karcher: short': (dict(tol=0.5, origin='base'), lambda b, m, w: karcher(
        b, m, w, b, 0, 0.5)),
    'model_stock': (dict(clip=False), lambda b, m, w: stock(b, m, w, None)),
    'model_stock: axis': (dict(axis=0, clip=False), lambda b, m, w: stock(
        b, m, w, 0)),
    'nearswap': (dict(t=0.4), lambda b, m, w: b + w[0] * np.clip(
        m[0] - b, -0.4, 0.4)),
    'passthrough': (dict(scale=0.3), lambda b, m, w: 0.3 * w[0] * m[0]),
    'arcee_fusion': ({}, fused),
    'sce': (dict(select_topk=0.4), lambda b, m, w: select_erase(b, m, w, 0.4)),
    'fisher': (dict(floor=0.5), lambda b, m, w: certain(b, m, w, 0.5, False)),
    'fisher: first': (dict(floor=0.5, floor_first_only=True),
                      lambda b, m, w: certain(b, m, w, 0.5, True)),
    'regmean': (dict(alpha=0.3, ridge=0.05), lambda b, m, w: regressed(
        b, m, w, 0.3, 0.05)),
    'regmean: single': (dict(alpha=0.3, ridge=1e-9, double=False),
                        lambda b, m, w: regressed(b, m, w, 0.3, 1e-4)),
    'svd_truncate': (dict(rank=0.4), lambda b, m, w: truncated(b, m, w, 2)),
    'task_singular_vectors': (dict(rank=0.2), lambda b, m, w: whitened(
        b, m, w, 1)),
    'task_singular_vectors: default': ({}, lambda b, m, w: whitened(
        b, m, w, N // T)),
    'multi_source_svd': (dict(components=0.9), lambda b, m, w: pooled(
        b, m, w, 5)),
}


@pytest.mark.parametrize('name', FORMULAS)
def test_formulas(name):
  settings, formula = FORMULAS[name]
  base, models = A['base'], A['models']
  if name.endswith(': short'):  # the last task vector
    models = models.at[2].set(base + 0.05 * (models[2] - base))
  name = name.partition(':')[0]
  limit, extras = TAKES[name]
  weight = UNEVEN[:limit] * np.where(name.startswith('multi_'), [1, -1, 1], 1)[
      :limit]
  got = run(name, base, models[:limit], jnp.asarray(weight, jnp.float32),
            extras, **settings)
  want = formula(*(np.asarray(x, np.float64) for x in (
      base, models[:limit], weight)))
  close(got, want, 1e-4, 1e-5)


# Theorems.


def test_karcher_of_two_is_slerp():
  unit = lambda x: x / jnp.linalg.norm(x)
  a, b = unit(A['models'][0]), unit(A['models'][1])
  for t in (0.5, 0.2):
    close(run('karcher', a, jnp.stack([a, b]), jnp.asarray([1 - t, t])),
          run('slerp', a, b[None], jnp.asarray([t])), 1e-5, 1e-6)


@pytest.mark.parametrize('name', ['slerp', 'nuslerp', 'multislerp', 'karcher'])
def test_parallel_models(name):
  """Of a leaf and twice that: their mean; of opposites: something finite."""
  base = A['models'][0]
  if name == 'slerp':
    got = run('slerp', base, 2 * base[None], jnp.asarray([0.5]))
  else:
    got = call(name, base, jnp.stack([base, 2 * base]), jnp.asarray([0.5, 0.5]),
               origin='zero')
  close(got, 1.5 * base, 1e-5, 1e-5)
  zero = jnp.zeros((2, M, N))
  if name != 'slerp':
    close(call(name, base, zero, jnp.ones(2), origin='zero'), 0 * base)
    got = call(name, base, jnp.stack([base, -base]), jnp.ones(2), origin='zero')
    assert jnp.max(jnp.abs(got)) < 1.01 * jnp.max(jnp.abs(base))


def test_model_stock():
  """Right angles leave t = 0, models that agree are taken; t for others."""
  base, eye = jnp.zeros((3, 3)), jnp.eye(3)
  np.testing.assert_array_equal(
      run('model_stock', base, jnp.stack([jnp.diag(e) for e in eye]),
          jnp.ones(3)), base)
  close(run('model_stock', base, jnp.stack([eye] * 3), jnp.ones(3)), eye)
  # On a shell around a center c the noise being orthogonal to all, the result
  # is the foot of the perpendicular from c: it meets base - result at 90 deg.
  center = jnp.zeros(8).at[0].set(1.0)
  noise = 1.5 * jnp.eye(8)[1:4]
  weight = jnp.asarray([0.2, 0.5, 0.3])
  for w in (jnp.ones(3), weight):
    got = run('model_stock', jnp.zeros(8), center + noise, w)
    close(jnp.vdot(got, center - got), 0, 0, 1e-6)
  # Apart from one another: the base, or as the formula has it.
  apart = jnp.stack([jnp.diag(eye[0]), -jnp.diag(eye[0]) + 0.1 * eye])
  np.testing.assert_array_equal(
      run('model_stock', base, apart, jnp.ones(2)), base)
  assert jnp.any(run('model_stock', base, apart, jnp.ones(2), clip=False) != 0)


def test_fisher():
  base, models, _, _ = inputs('fisher')
  even = jnp.full(T, 1 / T)
  close(run('fisher', base, models, jnp.ones(T), {
      'fisher': jnp.full((T, M, N), 0.3)}), merge.linear(base, models, even))
  close(run('fisher', base, models, even), merge.linear(base, models, even))
  sure = jnp.full((T, M, N), 1e-6).at[1].set(1e6)
  close(run('fisher', base, models, even, {'fisher': sure}), models[1],
        0, 1e-5)
  # Where all vanish: the mean, or the first model.
  none = jnp.zeros((T, M, N))
  for floor in (0.0, 1e-6):
    close(run('fisher', base, models, even, {'fisher': none}, floor=floor),
          merge.linear(base, models, even))
  np.testing.assert_array_equal(
      run('fisher', base, models, even, {'fisher': none},
          floor_first_only=True), models[0])


def errors(kernel, inputs, models):
  return sum(float(jnp.sum(jnp.square(x @ (kernel - v))))
             for x, v in zip(inputs, models))


@pytest.mark.parametrize('double', [True, False])
def test_regmean_is_not_above_the_mean(double):
  """On every kernel, dead inputs and large ridges among them."""
  even = jnp.full(T, 1 / T)
  for seed in range(5):
    r = np.random.default_rng(seed)
    x = jnp.maximum(jnp.asarray(r.normal(size=(T, 12, M)), jnp.float32), 0)
    x = x.at[..., 2].set(0)
    grams = jnp.einsum('tni,tnj->tij', x, x)
    models = jnp.asarray(r.normal(size=(T, M, N)), jnp.float32)
    mean = jnp.mean(models, 0)
    for ridge in (1e-6, 1e-2):
      got = run('regmean', mean, models, even, {'grams': grams}, alpha=1.0,
                ridge=ridge, double=double)
      assert errors(got, x, models) <= errors(mean, x, models)
      close(got[2], mean[2])
  nothing = jnp.zeros_like(grams)
  close(run('regmean', mean, models, even, {'grams': nothing}), mean)
  # Diagonals alone, all of one size: the mean.
  close(run('regmean', mean, models, even,
            {'grams': jnp.stack([jnp.eye(M)] * T)}, alpha=0.0), mean)


def test_regmean_keeps_the_models_outputs_where_it_can():
  """Inputs of disjoint support: every model's own rows; convolutions too."""
  part = jnp.repeat(jnp.eye(2), 6, 1)  # [2, 12]
  x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 30, 12)),
                  jnp.float32) * part[:, None]
  models = jnp.asarray(np.random.default_rng(1).normal(size=(2, 2, 2, 3, 4)),
                       jnp.float32)
  got = run('regmean', models[0], models, jnp.ones(2),
            {'grams': jnp.einsum('tni,tnj->tij', x, x)})
  flat = models.reshape(2, 12, 4)
  close(got.reshape(12, 4), jnp.concatenate([flat[0, :6], flat[1, 6:]]),
        1e-4, 1e-4)


def test_task_singular_vectors():
  base, models, _, _ = inputs('task_singular_vectors')
  # Of one: itself at full rank, its own truncation else.
  np.testing.assert_array_equal(
      merge.task_singular_vectors(base, models[:1], jnp.ones(1)), models[0])
  low = run('svd_truncate', base, models[:1], jnp.ones(1), rank=2)
  close(run('task_singular_vectors', base, models[:1], jnp.ones(1), rank=2),
        low)
  # Equal tasks share their directions and count once.
  close(run('task_singular_vectors', base, models[jnp.zeros(3, int)],
            jnp.ones(3)), low)
  # Tasks that do not interfere are kept whole.
  apart = base + jnp.zeros((2, M, N)).at[0, 0, 0].set(3.0).at[1, 1, 1].set(2.0)
  close(run('task_singular_vectors', base, apart, jnp.ones(2)),
        base + jnp.sum(apart - base, 0))
  # Biases: the mean of the moves.
  close(run('task_singular_vectors', base[0], models[:, 0], jnp.ones(T)),
        jnp.mean(models[:, 0], 0))
  # More tasks than units.
  many = jnp.concatenate([models, models])[:, :2, :2]
  assert jnp.isfinite(run('task_singular_vectors', base[:2, :2], many,
                          jnp.ones(2 * T))).all()


def test_multi_source_svd_and_its_factors():
  base, models, _, _ = inputs('multi_source_svd')
  merged = run('multi_source_svd', base, models, jnp.ones(T), components=4)
  u, s, v = merge.svd_factors(merged - base, 4)
  close(base + (u * s) @ v, merged)
  close(u.T @ u, np.eye(4))
  assert jnp.all(jnp.max(u, 0) >= jnp.max(-u, 0))
  # One model: its largest; a kernel of a convolution likewise; biases the mean.
  close(run('multi_source_svd', base, models[:1], jnp.ones(1), components=2),
        run('svd_truncate', base, models[:1], jnp.ones(1), rank=2))
  conv = lambda x: x.reshape(x.shape[:-2] + (2, 4, N))
  close(run('multi_source_svd', conv(base), conv(models), jnp.ones(T),
            components=4), conv(merged))
  close(run('multi_source_svd', base[0], models[:, 0], jnp.ones(T)),
        jnp.mean(models[:, 0], 0))
  # d s = u^T dM v.
  grad = jax.grad(lambda m: jnp.sum(merge.svd_factors(m)[1]))(merged - base)
  u, _, v = merge.svd_factors(merged - base)
  close(grad, u @ v, 1e-4, 1e-4)


def test_svd_truncate_is_the_nearest():
  base, models, weight, _ = inputs('svd_truncate')
  got = run('svd_truncate', base, models[:1], jnp.ones(1), rank=0.5) - base
  s = np.linalg.svd(np.asarray(models[0] - base))[1]
  close(jnp.linalg.norm(models[0] - base - got), np.linalg.norm(s[3:]))
  close(run('svd_truncate', base, models, weight, rank=N),
        merge.linear(base, models, weight), 1e-6, 1e-6)


def test_slerp_keeps_to_the_sphere():
  a, b = (x / jnp.linalg.norm(x) for x in A['models'][:2])
  for t in (0.1, 0.5, 0.9):
    got = run('slerp', a, b[None], jnp.asarray([t]))
    close(jnp.linalg.norm(got), 1.0, 1e-6)
    close(jnp.arccos(jnp.vdot(a, got)), t * jnp.arccos(jnp.vdot(a, b)), 1e-5)


def test_sce_selects_and_erases():
  base = jnp.zeros(4)
  models = jnp.asarray([[2.0, 1.0, 0.0, 1.0], [2.0, -3.0, 0.0, 1.0]])
  got = run('sce', base, models, jnp.ones(2))
  energy = jnp.asarray([6.0, 14.0])
  close(got, [2.0, -3.0, 0.0, 1.0])  # the second wins the vote at entry 1
  close(run('sce', base, models, jnp.ones(2), {'energy': energy}), got)
  close(run('sce', base, models, jnp.ones(2), select_topk=1e-6), base)
  # Only entry 1 varies.
  close(run('sce', base, models + 5 * jnp.eye(4)[3], jnp.ones(2),
            select_topk=0.99), base)
  close(run('sce', base, models.at[1, 3].set(2.0), jnp.ones(2),
            select_topk=0.5), [0.0, -3.0, 0.0, 0.0])


# Errors.


ONE, TWO = jnp.ones(1), jnp.ones(2)
BAD = {
    'slerp: two models': (lambda b, m: merge.slerp(b, m[:2], TWO),
                          'slerp.*one'),
    'slerp: threshold': (lambda b, m: merge.slerp(
        b, m[:1], ONE, dot_threshold=1.5), 'dot_threshold.*1.5'),
    'slerp: gram': (lambda b, m: merge.slerp(b, m[:1], ONE, jnp.ones((3, 3))),
                    r'gram.*\(3, 3\)'),
    'nuslerp: three': (lambda b, m: merge.nuslerp(b, m, jnp.ones(3)),
                       'two models, got 3.*multislerp'),
    'nuslerp: origin': (lambda b, m: merge.nuslerp(b, m[:2], TWO, origin='bas'),
                        "origin 'bas'.*'base'"),
    'multislerp: sum': (lambda b, m: merge.multislerp(
        b, m[:2], jnp.asarray([1.0, -1.0])), 'multislerp: weight.*sum to 0'),
    'karcher: steps': (lambda b, m: merge.karcher(
        b, m[:2], TWO, max_iter=0), 'max_iter.*0'),
    'model_stock': (lambda b, m: merge.model_stock(
        b, m[:2], jnp.asarray([1.0, -0.5])), 'weight must be >= 0'),
    'nearswap': (lambda b, m: merge.nearswap(b, m[:1], ONE, t=-1.0),
                 't must be >= 0.*-1'),
    'passthrough': (lambda b, m: merge.passthrough(b, m[:2], TWO), 'one model'),
    'arcee_fusion': (lambda b, m: merge.arcee_fusion(b, m[:2], TWO),
                     'one model'),
    'sce': (lambda b, m: merge.sce(b, m[:2], TWO, select_topk=1.5),
            'select_topk.*1.5'),
    'fisher: shape': (lambda b, m: merge.fisher(
        b, m[:2], TWO, jnp.ones((2, 3))), r'fisher has shape \(2, 3\)'),
    'fisher: floor': (lambda b, m: merge.fisher(b, m[:2], TWO, floor=-1.0),
                      'floor must be >= 0'),
    'regmean: grams': (lambda b, m: merge.regmean(b, m[:2], TWO,
                                                  jnp.ones((2, 3, 3))),
                       r'grams.*\(2, 3, 3\)'),
    'regmean: alpha': (lambda b, m: merge.regmean(b, m[:2], TWO, alpha=2.0),
                       'alpha.*2.0'),
    'regmean: ridge': (lambda b, m: merge.regmean(b, m[:2], TWO, ridge=0.0),
                       'ridge.*0'),
    'svd_truncate': (lambda b, m: merge.svd_truncate(b, m[:1], ONE, rank=0),
                     'rank.*0'),
    'share': (lambda b, m: merge.task_singular_vectors(
        b, m[:1], ONE, rank=1.5), r'rank.*\[0, 1\].*1.5'),
    'multi_source_svd': (lambda b, m: merge.multi_source_svd(
        b, m[:1], ONE, components=0), 'components.*0'),
    'svd_factors': (lambda b, m: merge.svd_factors(b, 99), 'rank.*99'),
    'vector': (lambda b, m: merge.svd_factors(b[0]), 'matrix'),
    'stack': (lambda b, m: merge.karcher(b[:2], m, jnp.ones(3)), 'models'),
}


@pytest.mark.parametrize('name', BAD)
def test_bad_settings_fail_at_the_door(name):
  fn, message = BAD[name]
  with pytest.raises(ValueError, match=message):
    fn(A['base'], A['models'])
