"""Modules of relation losses: memory, embeddings, schedules."""
import functools

from flax import nnx
import jax
from jax import numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest

from kt_jax import core
from kt_jax import losses
from kt_jax import models
from kt_jax import modules

B, M, N, D = 4, 12, 9, 5
r = np.random.default_rng(0)
draw = lambda *shape: jnp.asarray(r.normal(size=shape), jnp.float32)
VECTORS = {'student_features': draw(B, 3), 'teacher_features': draw(B, 2, 2, 2)}
TOKENS = {'student_features': draw(B, 6, 3),
          'teacher_features': draw(B, 2, 3, 7)}
MEMORY = {**VECTORS, 'index': jnp.asarray([7, 0, 11, 3], jnp.int32),
          'key': jax.random.key(1)}
GRAPH = {**TOKENS, 'step': jnp.asarray(40, jnp.int32)}
SMALL = dict(examples=M, negatives=N, width=D, momentum=0.7, temperature=0.3)
# Module, settings, arrays, loss on its output.
CASES = {
    'memory': ('ContrastiveMemory', SMALL, MEMORY, 'crd', {}),
    'memory_printed': ('ContrastiveMemory', SMALL | dict(normalize=False),
                       MEMORY, 'crd', {}),
    'embedding': ('EmbeddingHead', dict(width=D), VECTORS, 'info_nce', {}),
    'embedding_rkd': ('EmbeddingHead', dict(width=D, normalize=False), VECTORS,
                      'rkd_distance', {}),
    'token_graph': ('TokenGraph', dict(width=D, start=0.9, end=0.2, steps=150),
                    GRAPH, 'token_graph', dict(neighbors=3)),
}
each = pytest.mark.parametrize('name', CASES)


def struct(x):
  return jax.ShapeDtypeStruct(x.shape, x.dtype)


def make(name, seed=0):
  cls, settings, pool, *_ = CASES[name]
  return getattr(modules, cls)(
      struct(pool['student_features']), struct(pool['teacher_features']),
      rngs=nnx.Rngs(seed), **settings)


def pure(name):
  """`(params, stats, pool) -> loss, (outputs, stats)`, and its arrays."""
  net, params, stats = models.split(make(name))
  loss, settings = CASES[name][3:]
  def total(params, stats, pool):
    out, after = models.call(net, params, stats, lambda m: core.bind(m, pool),
                             train=True)
    arrays = {n: v for n, v in out.items() if n.split('_')[0] in (
        'student', 'teacher') and not n.endswith('normalizer')}
    more = {n: v for n, v in out.items() if n not in arrays}
    values = core.bind(getattr(losses, loss), pool | arrays, **settings | more)
    return core.masked_mean(values, pool.get('where')), (out, after)
  return total, params, stats


@functools.cache
def run(name):
  total, params, stats = pure(name)
  def both(params, stats, pool):
    features = {n: v for n, v in pool.items() if n.endswith('features')}
    return jax.value_and_grad(
        lambda p, f: total(p, stats, pool | f), (0, 1), has_aux=True)(
            params, features)
  return jax.jit(both), params, stats


def moved(params):
  """Parameters with no bias of 0."""
  return {n: v + 0.1 * jnp.cos(jnp.arange(v.size)).reshape(v.shape)
          for n, v in params.items()}


def close(got, want, rtol=1e-5, atol=1e-5):
  jax.tree.map(lambda g, w: np.testing.assert_allclose(
      np.asarray(g), np.asarray(w), rtol=rtol, atol=atol), got, want)


@each
def test_every_parameter_learns(name):
  both, params, stats = run(name)
  (value, (out, after)), (grads, to_features) = both(
      params, stats, CASES[name][2])
  assert jnp.isfinite(value)
  assert params and set(grads) == set(params)
  for path, g in {**grads, **to_features}.items():
    assert jnp.isfinite(g).all()
    # A shift of all embeddings moves no distance.
    assert jnp.abs(g).max() > 1e-6 or (name, path[-4:]) == (
        'embedding_rkd', 'bias'), path
  assert all(v.dtype == jnp.float32 for v in [*out.values(), *after.values()])
  assert set(after) == set(stats)


@each
def test_float32_whatever_comes_in(name):
  total, params, stats = pure(name)
  pool = {n: v.astype(jnp.bfloat16) if n.endswith('features') else v
          for n, v in CASES[name][2].items()}
  value, (out, _) = jax.eval_shape(total, params, stats, pool)
  assert all(v.dtype == jnp.float32 for v in (value, *out.values()))


def padded(pool):
  """With three more rows of NaN, not yet masked."""
  def pad(n, v):
    if n in ('key', 'step'):
      return v
    junk = -1 if n == 'index' else jnp.nan
    return jnp.concatenate([v, jnp.full((3, *v.shape[1:]), junk, v.dtype)])
  return {n: pad(n, v) for n, v in pool.items()}


@each
def test_padding(name):
  """Padded rows change no value, gradient or state."""
  both, params, stats = run(name)
  pool = CASES[name][2]
  more = padded(pool) | {'where': jnp.arange(B + 3) < B}
  (want, (_, want_after)), want_grads = both(params, stats, pool)
  (got, (_, after)), grads = both(params, stats, more)
  close((got, after, grads[0]), (want, want_after, want_grads[0]))
  for n, g in grads[1].items():
    close(g[:B], want_grads[1][n])
    np.testing.assert_array_equal(g[B:], 0)


@each
def test_no_valid_row_leaves_the_state(name):
  both, params, stats = run(name)
  pool = padded(CASES[name][2]) | {'where': jnp.zeros(B + 3, bool)}
  (value, (out, after)), _ = both(params, stats, pool)
  close(after, stats, rtol=0, atol=0)
  assert jnp.isfinite(value)
  assert all(jnp.isfinite(v).all() for v in out.values())


@each
def test_vmap_over_seeds(name):
  total, _, _ = pure(name)
  seeds = [models.split(make(name, seed))[1:] for seed in range(2)]
  stacked = jax.tree.map(lambda *x: jnp.stack(x), *seeds)
  got = jax.jit(jax.vmap(lambda of: total(*of, CASES[name][2])))(stacked)
  for i, of in enumerate(seeds):
    want, _ = run(name)[0](*of, CASES[name][2])
    close(jax.tree.map(lambda x: x[i], got), want)


@each
def test_sharded_batch(name):
  if jax.device_count() < 2:
    pytest.skip('one device: XLA_FLAGS simulates eight in conftest')
  mesh = jax.make_mesh((2,), ('data',), devices=jax.devices()[:2],
                       axis_types=(jax.sharding.AxisType.Auto,))
  both, params, stats = run(name)
  pool = CASES[name][2]
  placed = {n: jax.device_put(v, NamedSharding(mesh, P(
      *['data'] * (v.ndim > 0)))) for n, v in pool.items()}
  close(both(params, stats, placed), both(params, stats, pool))


def test_memory_numbers():
  """Banks by a loop: read first, then moved; draws never the example's own."""
  both, params, stats = run('memory')
  banks = {n: np.array(stats[f'{n}_bank']) for n in ('student', 'teacher')}
  close(np.linalg.norm(banks['student'], axis=1).mean(), 1, atol=0.2)
  assert np.abs(banks['student']).max() <= (3 / D)**0.5
  assert not np.allclose(banks['student'], banks['teacher'])
  out, after = both(params, stats, MEMORY)[0][1]
  for name, other in (('student', 'teacher'), ('teacher', 'student')):
    e = np.asarray(VECTORS[f'{name}_features']).reshape(B, -1)
    e = e @ np.asarray(params[f'embed/{name}/kernel'])
    e /= np.linalg.norm(e, axis=1, keepdims=True)
    close(out[f'{name}_features'], e)
    rows = [[int(np.argmin(np.abs(banks[name] - row).sum(1))) for row in of]
            for of in np.asarray(out[f'{name}_negatives'])]
    close(out[f'{name}_negatives'], banks[name][np.asarray(rows)])
    for i, of in zip(MEMORY['index'], rows):
      assert int(i) not in of
    anchor = np.asarray(out[f'{other}_features'])
    scores = np.einsum('bd,bnd->bn', anchor, banks[name][np.asarray(rows)])
    close(out[f'{other}_normalizer'], M * np.exp(scores / 0.3).mean(),
          rtol=1e-4)
    want = banks[name].copy()
    for i, row in zip(MEMORY['index'], e):
      want[i] = 0.7 * want[i] + 0.3 * row
      want[i] /= np.linalg.norm(want[i])
    close(after[f'{name}_bank'], want)
  assert out['temperature'] == np.float32(0.3) and out['examples'] == M


def test_memory_keeps_the_last_of_equal_indices():
  """An index beyond the set is not stored."""
  both, params, stats = run('memory')
  pool = MEMORY | {'index': jnp.asarray([7, M, 7, 3], jnp.int32)}
  _, (out, after) = both(params, stats, pool)[0]
  for name in ('student', 'teacher'):
    want = np.array(stats[f'{name}_bank'])
    for i, row in ((7, 2), (3, 3)):
      want[i] = 0.7 * want[i] + 0.3 * np.asarray(out[f'{name}_features'][row])
      want[i] /= np.linalg.norm(want[i])
    close(after[f'{name}_bank'], want)


def test_negatives_depend_on_key_and_index():
  both, params, stats = run('memory')
  negatives = lambda **kw: np.asarray(both(params, stats, MEMORY | kw)[0][1][0][
      'student_negatives'])
  want, order = negatives(), jnp.array([2, 0, 3, 1])
  np.testing.assert_array_equal(
      negatives(index=MEMORY['index'][order]), want[order])
  assert len(np.unique(want.reshape(B, -1), axis=0)) == B
  assert (negatives(key=jax.random.key(2)) != want).any()


def test_memory_fixes_z_once():
  both, params, stats = run('memory')
  first, after = both(params, stats, MEMORY)[0][1]
  second, _ = both(params, after, MEMORY | {'key': jax.random.key(2)})[0][1]
  for name in ('student', 'teacher'):
    assert first[f'{name}_normalizer'] == second[f'{name}_normalizer']
    assert (first[f'{name}_negatives'] != second[f'{name}_negatives']).any()
  both, params, stats = run('memory_printed')
  printed, _ = both(params, stats, MEMORY)[0][1]
  assert printed['student_normalizer'] == 1


def test_memory_draws_every_other_row():
  module = modules.ContrastiveMemory(
      struct(VECTORS['student_features']), struct(VECTORS['teacher_features']),
      rngs=nnx.Rngs(0), **SMALL | dict(examples=3, negatives=60))
  bank = np.array(module.student_bank[...])
  index = jnp.asarray([0, 1, 2, 1], jnp.int32)
  negatives = module(**VECTORS, index=index, key=MEMORY['key'])[
      'student_negatives']
  for i, of in zip(index, np.asarray(negatives)):
    rows = {int(np.argmin(np.abs(bank - row).sum(1))) for row in of}
    assert rows == {0, 1, 2} - {int(i)}


def test_memory_keeps_nan_out():
  """It reaches the loss of its example, not the bank."""
  module = make('memory')
  pool = MEMORY | {'student_features':
                   VECTORS['student_features'].at[1, 0].set(jnp.nan)}
  out = module(**pool)
  assert jnp.isnan(out['student_features'][1]).any()
  assert jnp.isfinite(out['teacher_normalizer'])
  assert jnp.isfinite(module.student_bank[...]).all()


def test_crd_starts_near_the_loss_of_chance():
  """With Z an embedding knows its own from N others at 2 log N or so."""
  both, params, stats = run('memory')
  assert both(params, stats, MEMORY)[0][0] < 6 * np.log(N + 1)


def test_scheduled():
  cosine = modules.Scheduled(rngs=nnx.Rngs(0), steps=120, start=3.0, end=0.5)
  share = np.sin(np.pi / 6)**2  # (1 - cos x) / 2 = sin(x / 2)^2
  close([cosine(s)['temperature'] for s in (0, 40, 120, 1000)],
        [3, 3 - 2.5 * share, 0.5, 0.5])
  linear = modules.Scheduled(steps=10, start=0.5, end=2.0, shape='linear',
                             name='gamma')
  close(jax.jit(linear)(jnp.asarray(4))['gamma'], 1.1)
  assert not jax.tree.leaves(nnx.split(linear)[1])


def test_token_graph_numbers():
  both, params, stats = run('token_graph')
  params = moved(params)
  out = both(params, stats, GRAPH)[0][1][0]
  assert set(out) == {'student_embeddings', 'teacher_embeddings', 'temperature'}
  close(out['temperature'], 0.9 - 0.7 * np.sin(np.pi * 40 / 150 / 2)**2)
  for name in ('student', 'teacher'):
    kernel, bias = (params[f'embed/{name}/{n}'] for n in ('kernel', 'bias'))
    close(out[f'{name}_embeddings'],
          TOKENS[f'{name}_features'] @ kernel + bias)


def test_embedding_numbers():
  for name, length in (('embedding', True), ('embedding_rkd', False)):
    both, params, stats = run(name)
    params = moved(params)
    out = both(params, stats, VECTORS)[0][1][0]
    for side in ('student', 'teacher'):
      x = np.float64(VECTORS[f'{side}_features']).reshape(B, -1)
      want = x @ np.float64(params[f'{side}/kernel']) + params[f'{side}/bias']
      if length:
        want /= np.linalg.norm(want, axis=1, keepdims=True)
      close(out[f'{side}_features'], want)
  assert make('embedding')(
      [VECTORS['student_features']], VECTORS['teacher_features'])


f = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.float32)
BAD = {
    'batch': (lambda: modules.EmbeddingHead(f(4, 3), f(5, 3), rngs=nnx.Rngs(0)),
              r'EmbeddingHead.*\(4, 3\).*\(5, 3\)'),
    'no width': (lambda: modules.EmbeddingHead(f(4), f(4), rngs=nnx.Rngs(0)),
                 r'student_features.*\(4,\)'),
    'width': (lambda: modules.EmbeddingHead(f(4, 3), f(4, 3), rngs=nnx.Rngs(0),
                                            width=0), 'width must be > 0'),
    'examples': (lambda: modules.ContrastiveMemory(
        f(4, 3), f(4, 3), rngs=nnx.Rngs(0), examples=1), 'examples.*got 1'),
    'momentum': (lambda: modules.ContrastiveMemory(
        f(4, 3), f(4, 3), rngs=nnx.Rngs(0), momentum=1.5), 'momentum.*1.5'),
    'cold': (lambda: modules.ContrastiveMemory(
        f(4, 3), f(4, 3), rngs=nnx.Rngs(0), temperature=0), 'temperature'),
    'steps': (lambda: modules.Scheduled(steps=0), 'steps must be > 0'),
    'shape': (lambda: modules.Scheduled(shape='cosin'), "'cosine'"),
}


@pytest.mark.parametrize('name', BAD)
def test_bad_input_fails_at_the_door(name):
  build, message = BAD[name]
  with pytest.raises(ValueError, match=message):
    build()
