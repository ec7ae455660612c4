"""What every loss promises, checked for each from one table."""
import functools
import inspect
from typing import Any, NamedTuple

import jax
from jax import numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest

from kt_jax import core
from kt_jax import losses

B, K, T = 8, 5, 3
ARRAYS = ('student_logits', 'teacher_logits', 'initial_logits', 'labels')


class Case(NamedTuple):
  """One way to call a loss."""
  loss: str
  settings: dict[str, Any] = {}
  zero_at_equality: bool = True
  teachers: int = 0  # stacked on a leading axis; 0: one, without that axis
  soft: bool = False  # labels as probabilities


CASES = {
    'cross_entropy': Case('cross_entropy', zero_at_equality=False),
    'cross_entropy_soft': Case('cross_entropy', soft=True,
                               zero_at_equality=False),
    'cross_entropy_smooth': Case('cross_entropy', {'label_smoothing': 0.1},
                                 zero_at_equality=False),
    'kd': Case('kd'),
    'kd_cold': Case('kd', {'temperature': 0.5}),
    'partitioned_kd': Case('partitioned_kd'),
    'partitioned_kd_soft': Case('partitioned_kd', soft=True),
    'partitioned_kd_unsupervised': Case('partitioned_kd',
                                        {'supervised': False}),
    'partitioned_kd_several': Case('partitioned_kd', {'temperature': 2.0},
                                   teachers=T),
}
each = pytest.mark.parametrize('name', CASES)


def public():
  return {n: f for n, f in vars(losses).items()
          if inspect.isfunction(f) and not n.startswith('_')}


def pool(case, seed=0, *, dtype=jnp.float32, same=False, lead=(B,)):
  """Arrays for a case: what an experiment would have at hand."""
  r = np.random.default_rng(seed)
  draw = lambda *axes: 2 * r.normal(size=axes + lead + (K,))
  student = draw()
  teacher = draw(case.teachers) if case.teachers else draw()
  out = {'student_logits': student, 'teacher_logits': teacher,
         'initial_logits': draw()}
  if same:
    out = {n: np.broadcast_to(student, v.shape) for n, v in out.items()}
  out = {n: jnp.asarray(v, dtype) for n, v in out.items()}
  out['labels'] = jnp.asarray(r.integers(0, K, lead))
  if case.soft:
    out['labels'] = jnp.asarray(r.dirichlet(np.ones(K), lead), dtype)
  return out


def eager(case):
  return lambda p: core.bind(public()[case.loss], p, **case.settings)


@functools.cache
def caller(name):
  """Compiled once for all tests; that it equals eager is one of them."""
  return jax.jit(eager(CASES[name]))


@functools.cache
def gradient(call):
  """Of the sum, with respect to the student's logits."""
  total = lambda z, p: jnp.sum(call({**p, 'student_logits': z}))
  grad = jax.jit(jax.grad(total))
  return lambda p: grad(p['student_logits'], p)


def examples(case, p, fn):
  """`p` with `fn` done to the example axis (brought to the front) of each."""
  return {n: jnp.moveaxis(fn(jnp.moveaxis(v, 1, 0)), 0, 1)
          if n == 'teacher_logits' and case.teachers else fn(v)
          for n, v in p.items()}


def close(got, want, rtol=1e-5, atol=1e-5):
  jax.tree.map(lambda g, w: np.testing.assert_allclose(
      np.asarray(g), np.asarray(w), rtol=rtol, atol=atol), got, want)


def test_table_is_complete():
  assert {case.loss for case in CASES.values()} == set(public())


@pytest.mark.parametrize('name', list(public()))
def test_signature(name):
  """Arrays by the names of the one table, settings keyword-only."""
  fn = public()[name]
  assert fn.__name__ == name
  assert fn.__module__.rsplit('.', 1)[1] == name, 'the file has its name'
  params = inspect.signature(fn).parameters.values()
  for param in params:
    if param.kind is param.POSITIONAL_OR_KEYWORD:
      assert param.name in ARRAYS
      assert f'`{param.name}`' in losses.__doc__
    else:
      assert param.kind is param.KEYWORD_ONLY
      assert param.default is not param.empty
  parts = [fn.__doc__.find(part) for part in (
      'Args:', 'Returns:', 'Departures:', 'References:')]
  assert -1 not in parts and parts == sorted(parts)


@each
def test_jit_equals_eager_and_traces_once(name):
  case, traces = CASES[name], []
  def call(p):
    traces.append(1)
    return eager(case)(p)
  jitted = jax.jit(call)
  for seed in (0, 1):
    p = pool(case, seed)
    out = jitted(p)
    assert out.shape == (B,)
    close(out, eager(case)(p))
  assert len(traces) == 1


@each
def test_float32_whatever_comes_in(name):
  case = CASES[name]
  p = pool(case, dtype=jnp.bfloat16)
  out = caller(name)(p)
  assert out.dtype == jnp.float32
  wide = {n: core.to_float(v) if v.dtype == jnp.bfloat16 else v
          for n, v in p.items()}
  close(out, caller(name)(wide), rtol=1e-6, atol=1e-6)


@each
@pytest.mark.parametrize('scale', [1.0, 1e3])
def test_finite(name, scale):
  case = CASES[name]
  p = {n: v * scale if n.endswith('logits') else v
       for n, v in pool(case).items()}
  assert jnp.isfinite(caller(name)(p)).all()
  assert jnp.isfinite(gradient(caller(name))(p)).all()


@each
def test_masked_classes(name):
  """Classes at -inf in every model add nothing to value or gradient."""
  case = CASES[name]
  if case.settings.get('label_smoothing'):
    pytest.skip('smoothing spreads mass over the masked classes: inf')
  off = jnp.arange(K) >= K - 2
  p = pool(case)
  if case.soft:
    kept = jnp.where(off, 0, p['labels'])
    p['labels'] = kept / kept.sum(-1, keepdims=True)
    fewer = {**p, 'labels': p['labels'][..., :-2]}
  else:
    p['labels'] = p['labels'] % (K - 2)
    fewer = dict(p)
  for n in p:
    if n.endswith('logits'):
      fewer[n] = p[n][..., :-2]
      p[n] = jnp.where(off, -jnp.inf, p[n])
  close(caller(name)(p), caller(name)(fewer))
  grad = gradient(caller(name))(p)
  close(grad[..., :-2], gradient(caller(name))(fewer))
  np.testing.assert_array_equal(grad[..., -2:], 0)


@each
@pytest.mark.parametrize('bad', ['student_logits', 'teacher_logits',
                                 'initial_logits'])
def test_nan_shows(name, bad):
  case = CASES[name]
  if bad not in inspect.signature(public()[case.loss]).parameters:
    pytest.skip(f'{case.loss} does not read {bad}')
  p = pool(case)
  p[bad] = p[bad].at[..., 2, 1].set(jnp.nan)
  out = caller(name)(p)
  assert jnp.isnan(out[2])
  assert jnp.isfinite(jnp.delete(out, 2)).all()


@each
@pytest.mark.parametrize('label', [-1, K])
def test_label_out_of_range_shows(name, label):
  case = CASES[name]
  reads = 'labels' in inspect.signature(public()[case.loss]).parameters
  if case.soft or not reads or case.settings.get('supervised') is False:
    pytest.skip('reads no class ids')
  p = pool(case)
  p['labels'] = p['labels'].at[2].set(label)
  out = caller(name)(p)
  assert jnp.isnan(out[2])
  assert jnp.isfinite(jnp.delete(out, 2)).all()


@each
def test_zero_at_equality(name):
  case = CASES[name]
  if not case.zero_at_equality:
    pytest.skip('has a floor above 0')
  p = pool(case, same=True)
  np.testing.assert_array_equal(caller(name)(p), 0)
  close(gradient(caller(name))(p), 0 * p['student_logits'])
  assert (caller(name)(pool(case)) > 0).all()


@each
def test_padding_changes_nothing(name):
  """Whatever stands in padded rows, NaN included, `where` leaves out."""
  case = CASES[name]
  p = pool(case)
  def pad(v):
    junk = -1 if jnp.issubdtype(v.dtype, jnp.integer) else jnp.nan
    return jnp.concatenate([v, jnp.full((3,) + v.shape[1:], junk, v.dtype)])
  padded = examples(case, p, pad)
  where = jnp.arange(B + 3) < B
  mean = lambda p: core.masked_mean(caller(name)(p), None)
  padded_mean = lambda p: core.masked_mean(caller(name)(p), where)
  close(padded_mean(padded), mean(p), rtol=1e-6)
  close(gradient(padded_mean)(padded)[:B], gradient(mean)(p), rtol=1e-6)


@each
def test_leading_axes_are_free(name):
  case, lead = CASES[name], (2, 3)
  p = pool(case, lead=lead)
  def flat(n, v):
    front = 1 if n == 'teacher_logits' and case.teachers else 0
    return v.reshape(v.shape[:front] + (6,) + v.shape[front + 2:])
  out = caller(name)(p)
  assert out.shape == lead
  close(out.ravel(), caller(name)({n: flat(n, v) for n, v in p.items()}))
  one = {n: v[:, 0] if n == 'teacher_logits' and case.teachers else v[0]
         for n, v in pool(case).items()}
  assert caller(name)(one).shape == ()


@each
def test_vmap_over_seeds_equals_loop(name):
  case = CASES[name]
  seeds = [pool(case, seed) for seed in range(3)]
  stacked = jax.tree.map(lambda *x: jnp.stack(x), *seeds)
  for fn in (caller(name), gradient(caller(name))):
    close(jax.vmap(fn)(stacked), jnp.stack([fn(p) for p in seeds]))


@each
def test_batch_stays_sharded(name):
  if jax.device_count() < 2:
    pytest.skip('one device: XLA_FLAGS simulates eight in conftest')
  case = CASES[name]
  mesh = jax.make_mesh((2,), ('data',), devices=jax.devices()[:2],
                       axis_types=(jax.sharding.AxisType.Auto,))
  rows = NamedSharding(mesh, P('data'))
  stacked = NamedSharding(mesh, P(None, 'data'))
  p = pool(case)
  placed = {n: jax.device_put(v, stacked if case.teachers and
                              n == 'teacher_logits' else rows)
            for n, v in p.items()}
  for fn in (eager(case), caller(name)):
    out = fn(placed)
    assert out.sharding.is_equivalent_to(rows, out.ndim)
    close(out, caller(name)(p))
  text = caller(name).lower(placed).compile().as_text()
  assert 'all-gather' not in text and 'all-reduce' not in text


def logits(*shape):
  return jnp.zeros(shape)


ids = jnp.zeros(4, jnp.int32)
BAD = {
    'kd: classes': (lambda: losses.kd(logits(4, 5), logits(4, 6)),
                    r'kd: teacher_logits.*\(4, 6\).*\(4, 5\)'),
    'kd: scalar': (lambda: losses.kd(logits(), logits()), 'student_logits'),
    'kd: batch': (lambda: losses.kd(logits(4, 5), logits(1, 5)),
                  'teacher_logits'),
    'kd: cold': (lambda: losses.kd(logits(4, 5), logits(4, 5), temperature=0),
                 'temperature must be > 0, got 0'),
    'kd: nan': (lambda: losses.kd(logits(4, 5), logits(4, 5),
                                  temperature=float('nan')), 'temperature'),
    'ce: scalar': (lambda: losses.cross_entropy(logits(), ids),
                   'student_logits'),
    'ce: few labels': (lambda: losses.cross_entropy(logits(4, 5), ids[:3]),
                       r'labels.*\(4,\).*\(3,\)'),
    'ce: columns': (lambda: losses.cross_entropy(logits(4, 5), ids[:, None]),
                    'labels'),
    'ce: soft classes': (lambda: losses.cross_entropy(logits(4, 5),
                                                      logits(4, 6)),
                         r'labels.*\(4, 5\).*\(4, 6\)'),
    'ce: float ids': (lambda: losses.cross_entropy(logits(4, 5), logits(4)),
                      'labels'),
    'ce: boolean': (lambda: losses.cross_entropy(logits(4, 5), ids == 0),
                    'labels.*bool'),
    'ce: smoothing': (lambda: losses.cross_entropy(
        logits(4, 5), ids, label_smoothing=1.5), 'label_smoothing.*1.5'),
    'dp: no labels': (lambda: losses.partitioned_kd(*[logits(4, 5)] * 3),
                      'labels.*supervised'),
    'dp: classes': (lambda: losses.partitioned_kd(
        logits(4, 5), logits(4, 6), logits(4, 5), ids),
                    r'teacher_logits.*\(4, 6\)'),
    'dp: stacked classes': (lambda: losses.partitioned_kd(
        logits(4, 5), logits(2, 4, 6), logits(4, 5), ids), 'teacher_logits'),
    'dp: no teacher': (lambda: losses.partitioned_kd(
        logits(4, 5), logits(0, 4, 5), logits(4, 5), ids), 'teacher_logits'),
    'dp: two axes more': (lambda: losses.partitioned_kd(
        logits(4, 5), logits(1, 1, 4, 5), logits(4, 5), ids),
                          'teacher_logits'),
    'dp: initial': (lambda: losses.partitioned_kd(
        logits(4, 5), logits(4, 5), logits(4, 6), ids), 'initial_logits'),
    'dp: labels': (lambda: losses.partitioned_kd(
        logits(4, 5), logits(4, 5), logits(4, 5), ids[:3]), 'labels'),
    'dp: cold': (lambda: losses.partitioned_kd(
        *[logits(4, 5)] * 3, ids, temperature=-1.0), 'temperature.*-1'),
}


@pytest.mark.parametrize('name', BAD)
def test_bad_input_fails_at_the_door(name):
  call, message = BAD[name]
  with pytest.raises(ValueError, match=message):
    call()
