"""Modules of relation losses: memory, embeddings, schedules."""
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
SMALL = dict(examples=M, negatives=N, width=D, temperature=0.3)
# Module, settings, arrays, loss on what it returns.
CASES = {
    'memory': ('ContrastiveMemory', SMALL, MEMORY, 'crd', {}),
    'memory_printed': ('ContrastiveMemory', SMALL | dict(normalize=False),
                       MEMORY, 'crd', {}),
    'embedding': ('EmbeddingHead', dict(width=D), VECTORS, 'info_nce', {}),
    'embedding_rkd': ('EmbeddingHead', dict(width=D, normalize=False), VECTORS,
                      'rkd_distance', {}),
    'token_graph': ('TokenGraph', dict(width=D, steps=100), GRAPH,
                    'token_graph', dict(neighbors=3)),
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


def run(name):
  total, params, stats = pure(name)
  def both(params, stats, pool):
    features = {n: v for n, v in pool.items() if n.endswith('features')}
    return jax.value_and_grad(
        lambda p, f: total(p, stats, pool | f), (0, 1), has_aux=True)(
            params, features)
  return jax.jit(both), params, stats


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


@each
def test_padding(name):
  """What stands in padded rows reaches no value, gradient or state."""
  both, params, stats = run(name)
  pool = CASES[name][2]
  def pad(n, v):
    if n in ('key', 'step'):
      return v
    junk = -1 if n == 'index' else jnp.nan
    return jnp.concatenate([v, jnp.full((3, *v.shape[1:]), junk, v.dtype)])
  padded = {n: pad(n, v) for n, v in pool.items()}
  padded['where'] = jnp.arange(B + 3) < B
  (want, (_, want_after)), want_grads = both(params, stats, pool)
  (got, (_, after)), grads = both(params, stats, padded)
  close((got, after, grads[0]), (want, want_after, want_grads[0]))
  for n, g in grads[1].items():
    close(g[:B], want_grads[1][n])
    np.testing.assert_array_equal(g[B:], 0)


@each
def test_no_valid_row_leaves_the_state(name):
  total, params, stats = pure(name)
  pool = CASES[name][2] | {'where': jnp.zeros(B, bool)}
  value, (out, after) = jax.jit(total)(params, stats, pool)
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
    close(jax.tree.map(lambda x: x[i], got), total(*of, CASES[name][2]))


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
  module = make('memory')
  banks = {n: np.array(getattr(module, f'{n}_bank')[...])
           for n in ('student', 'teacher')}
  close(np.linalg.norm(banks['student'], axis=1).mean(), 1, atol=0.2)
  assert np.abs(banks['student']).max() <= (3 / D)**0.5
  assert not np.allclose(banks['student'], banks['teacher'])
  out = module(**MEMORY)
  for who, other in (('student', 'teacher'), ('teacher', 'student')):
    linear = getattr(module.embed, who)
    e = np.asarray(VECTORS[f'{who}_features']).reshape(B, -1)
    e = e @ np.asarray(linear.kernel) + np.asarray(linear.bias)
    e /= np.linalg.norm(e, axis=1, keepdims=True)
    close(out[f'{who}_features'], e)
    rows = [[int(np.argmin(np.abs(banks[who] - row).sum(1))) for row in of]
            for of in np.asarray(out[f'{who}_negatives'])]
    close(out[f'{who}_negatives'], banks[who][np.asarray(rows)])
    for i, of in zip(MEMORY['index'], rows):
      assert int(i) not in of
    anchor = np.asarray(out[f'{other}_features'])
    scores = np.einsum('bd,bnd->bn', anchor, banks[who][np.asarray(rows)])
    close(out[f'{other}_normalizer'], M * np.exp(scores / 0.3).mean(),
          rtol=1e-4)
    want = banks[who].copy()
    for i, row in zip(MEMORY['index'], e):
      want[i] = 0.5 * want[i] + 0.5 * row
      want[i] /= np.linalg.norm(want[i])
    close(getattr(module, f'{who}_bank')[...], want)
  assert out['temperature'] == np.float32(0.3) and out['examples'] == M


def test_memory_fixes_z_once():
  module = make('memory')
  first = module(**MEMORY)
  second = module(**MEMORY | {'key': jax.random.key(2)})
  for who in ('student', 'teacher'):
    assert first[f'{who}_normalizer'] == second[f'{who}_normalizer']
    assert (first[f'{who}_negatives'] != second[f'{who}_negatives']).any()
  printed = make('memory_printed')(**MEMORY)
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
    found = {int(np.argmin(np.abs(bank - row).sum(1))) for row in of}
    assert found == {0, 1, 2} - {int(i)}


def test_memory_keeps_nan_out():
  """It shows in the loss of its example, not for ever in the bank."""
  module = make('memory')
  pool = MEMORY | {'student_features':
                   VECTORS['student_features'].at[1, 0].set(jnp.nan)}
  out = module(**pool)
  assert jnp.isnan(out['student_features'][1]).any()
  assert jnp.isfinite(out['teacher_normalizer'])
  assert jnp.isfinite(module.student_bank[...]).all()


def test_crd_starts_near_the_loss_of_chance():
  """With Z an embedding knows its own from N others at 2 log N or so."""
  value, _ = pure('memory')[0](*pure('memory')[1:], MEMORY)
  assert value < 6 * np.log(N + 1)


def test_scheduled():
  cosine = modules.Scheduled(rngs=nnx.Rngs(0), steps=100)
  close([cosine(s)['temperature'] for s in (0, 50, 100, 1000)],
        [1, 0.55, 0.1, 0.1])
  linear = modules.Scheduled(steps=10, start=0.0, end=2.0, shape='linear',
                             name='gamma')
  close(jax.jit(linear)(jnp.asarray(4))['gamma'], 0.8)
  assert not jax.tree.leaves(nnx.split(linear)[1])


def test_token_graph_leaves_the_features():
  out = make('token_graph')(**GRAPH)
  assert set(out) == {'student_embeddings', 'teacher_embeddings', 'temperature'}
  assert out['teacher_embeddings'].shape == (B, 2, 3, D)
  assert out['student_embeddings'].shape == (B, 6, D)


def test_embedding_lengths():
  out = make('embedding')(**VECTORS)
  for v in out.values():
    close(jnp.linalg.norm(v, axis=-1), jnp.ones(B))
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
