"""Properties that every loss has, checked from one table of cases."""
import collections
import functools
import inspect
import re

import chex
import jax
from jax import numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from losses_cases import feature
from losses_cases import reference
from losses_cases import relation
from losses_cases import response
from losses_cases import sequence
import numpy as np
import pytest

from kt_jax import core
from kt_jax import losses

B = 8
ALL, WHERE = np.ones(B, bool), np.array([1, 0, 1, 1, 1, 0, 1, 1], bool)
SECTIONS = ('Args', 'Returns', 'Example', 'Departures', 'References')
MODELS = ('student_', 'teacher_', 'initial_')
KINDS = (response, feature, relation, sequence)
CASES = {n: case for kind in KINDS for n, case in kind.CASES.items()}
BAD = {n: call for kind in KINDS for n, call in kind.BAD.items()}
TRACED = collections.defaultdict(list)  # case -> shapes that were traced
each = pytest.mark.parametrize('name', CASES)


def cases(condition):
  return pytest.mark.parametrize(
      'name', [name for name, case in CASES.items() if condition(case)])


def public():
  return {n: f for n, f in vars(losses).items()
          if inspect.isfunction(f) and not n.startswith('_')
          and f is not losses.linear_head}  # applies a loss, is not one


def array_names(case):
  return [p.name for p in inspect.signature(public()[case.loss])
          .parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD]


def is_float(v):
  return jnp.issubdtype(v.dtype, jnp.floating)


def equal_models(p):
  """The student's arrays for every model."""
  out = dict(p)
  for n in p:
    model, _, kind = n.partition('_')
    if model in ('teacher', 'initial'):
      out[n] = jax.tree.map(lambda s, t: np.broadcast_to(s, t.shape),
                            p[f'student_{kind}'], p[n])
  return out


def arrays(case, seed=0, *, dtype=jnp.float32, equal=False, lead=(B,)):
  """The arrays that the loss of a case reads, by name."""
  p = case.arrays(np.random.default_rng(seed), lead)
  if equal:
    p = (case.equal or equal_models)(p)
  def array(n, v):
    if n == 'key':
      return jax.random.key(v + seed)
    v = np.asarray(v)
    return v.astype(dtype) if is_float(v) else v.astype(np.int32)
  return {n: jax.tree.map(lambda v: array(n, v), p[n])
          for n in array_names(case) if n in p}


def map_examples(case, p, fn, names=None):
  """`p` with `fn(v)` for arrays with an axis of examples, moved to the front.

  Args:
    case: tells which axis that is.
    p: name -> array or list of arrays.
    fn: array `[B, ...]` -> array.
    names: only these; None: all.
  """
  def at_front(n):
    axis = case.first(n)
    return lambda v: np.moveaxis(fn(np.moveaxis(v, axis, 0)), 0, axis)
  return {n: v if n in case.shared or names is not None and n not in names
          else jax.tree.map(at_front(n), v) for n, v in p.items()}


def map_models(case, p, fn):
  """`p` with `fn(v)` for outputs of networks that may have any size."""
  return {n: jax.tree.map(fn, v) if n.startswith(MODELS) and n not in case.fixed
          else v for n, v in p.items()}


def eager(case):
  return lambda p: core.bind(public()[case.loss], p, **case.settings)


@functools.cache
def run(name):
  """`(p, where) -> values, gradients of their masked mean by all float arrays`.

  Compiled once per case for all tests: each calls it with the same shapes.
  """
  case = CASES[name]
  def both(p, where):
    TRACED[name].append(jax.tree.map(jnp.shape, p))
    masked = {'where': where} if case.batch == 'relation' else {}
    floats = {n: v for n, v in p.items()
              if all(map(is_float, jax.tree.leaves(v)))}
    def mean(floats):
      values = eager(case)(p | floats | masked)
      return core.masked_mean(values, where), values
    grads, values = jax.grad(mean, has_aux=True)(floats)
    return values, grads
  compiled = jax.jit(both)
  return lambda p, where=ALL: compiled(p, where)


def close(got, want, rtol=1e-5, atol=1e-5):
  jax.tree.map(lambda g, w: np.testing.assert_allclose(
      np.asarray(g), np.asarray(w), rtol=rtol, atol=atol), got, want)


def assert_finite(tree, what):
  for path, v in core.flatten(tree).items():
    assert np.isfinite(v).all(), f'{what}: {path} is {v}'


def expected(name, p, where=ALL, frozen=None):
  """Values of the reference, in float64, of the rows of `p` that count."""
  case, rows = CASES[name], np.flatnonzero(where)
  fn = reference.get(case.loss)
  def to_numpy(n):
    def convert(v):
      v = np.asarray(v, np.float64) if is_float(v) else np.asarray(v)
      return v if n in case.shared else v.take(rows, case.first(n))
    return convert
  def select(p):
    return {n: v if n == 'key' else jax.tree.map(to_numpy(n), v)
            for n, v in p.items()}
  context = dict(frozen=select(frozen or p), rows=rows, size=B)
  names = inspect.signature(fn).parameters
  return fn(**select(p), **case.settings,
            **{n: v for n, v in context.items() if n in names})


def compare(values, want, rtol=1e-4):
  """Values of a loss with those of its reference, or with their mean."""
  close(values if np.ndim(want) else values.mean(), want, rtol)


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
      assert f'`{param.name}`' in losses.__doc__
    else:
      assert param.kind is param.KEYWORD_ONLY
      assert param.default is not param.empty
  sections = re.findall(r'^([A-Z]\w+):\s', inspect.getdoc(fn), re.MULTILINE)
  assert sections[:2] == ['Args', 'Returns']
  assert sections == [s for s in SECTIONS if s in sections]


@pytest.mark.parametrize('name', list(public()))
def test_settings_are_off_their_defaults(name):
  """In one case at least: a setting that is ignored would not be noticed."""
  params = inspect.signature(public()[name]).parameters.values()
  settings = [case.settings for case in CASES.values() if case.loss == name]
  for param in params:
    if param.kind is param.KEYWORD_ONLY:
      assert any(s.get(param.name, param.default) != param.default
                 for s in settings), param.name


@each
def test_batch_kind(name):
  case = CASES[name]
  assert case.batch in ('free', 'example', 'relation')
  assert ('where' in array_names(case)) == (case.batch == 'relation')


@each
def test_compiles_once(name):
  for seed in (0, 1):
    p = arrays(CASES[name], seed)
    values, _ = run(name)(p)
    assert values.shape == (B,)
  assert TRACED[name].count(jax.tree.map(jnp.shape, p)) == 1


@each
def test_values(name):
  """Those of the reference; in rows that do not count NaN has no effect."""
  case = CASES[name]
  p = arrays(case)
  compare(run(name)(p)[0], expected(name, p))
  values, _ = run(name)(masked(case, p, np.nan), WHERE)
  compare(values[WHERE], expected(name, p, WHERE))


def masked(case, p, junk):
  """`p` with junk in the rows outside of WHERE."""
  def fill(v):
    value = junk if is_float(v) else -1
    rows = WHERE.reshape((-1,) + (1,) * (v.ndim - 1))
    return np.where(rows, v, np.asarray(value, v.dtype))
  return map_examples(case, p, fill)


@each
def test_gradients(name):
  """By all arrays at once, along a random direction in float64."""
  case, step = CASES[name], 1e-5
  p = arrays(case)
  _, grads = run(name)(p, WHERE)
  r = np.random.default_rng(1)
  way = {n: jax.tree.map(lambda v: r.normal(size=v.shape), p[n]) for n in grads}
  def moved(size):
    q = {n: jax.tree.map(lambda v, w: np.asarray(v, np.float64) + size * w,
                         p[n], way[n]) for n in grads}
    return np.mean(expected(name, p | q, WHERE, frozen=p))
  parts = np.concatenate([(np.asarray(g, np.float64) * w).ravel() for g, w in
                          zip(jax.tree.leaves(grads), jax.tree.leaves(way))])
  np.testing.assert_allclose(
      parts.sum(), (moved(step) - moved(-step)) / (2 * step),
      rtol=1e-4, atol=1e-3 * np.linalg.norm(parts) + 1e-6)


@each
def test_masked_rows_have_no_gradient(name):
  case = CASES[name]
  p = arrays(case)
  _, grads = run(name)(masked(case, p, np.nan), WHERE)
  _, want = run(name)(masked(case, p, 0.5), WHERE)
  for n in grads:
    if n in case.shared:
      continue  # a NaN that a parameter meets is in its gradient
    for g, w in zip(jax.tree.leaves(grads[n]), jax.tree.leaves(want[n])):
      g, w = (np.moveaxis(np.asarray(v), case.first(n), 0) for v in (g, w))
      close(g[WHERE], w[WHERE])
      if case.batch == 'relation':
        np.testing.assert_array_equal(g[~WHERE], 0)


# Primitives that only move values, or change their type.
MOVES = {'broadcast_in_dim', 'concatenate', 'convert_element_type', 'gather',
         'reshape', 'rev', 'select_n', 'slice', 'squeeze', 'stop_gradient',
         'transpose'}


def low_precision(jaxpr):
  """Primitives that compute in bfloat16."""
  for eqn in jaxpr.eqns:
    inner = [getattr(x, 'jaxpr', x) for x in jax.tree.leaves(
        list(eqn.params.values()), is_leaf=lambda x: hasattr(x, 'jaxpr'))
             if hasattr(getattr(x, 'jaxpr', x), 'eqns')]
    for part in inner:
      yield from low_precision(part)
    if not inner and eqn.primitive.name not in MOVES:
      yield from (eqn.primitive.name for v in eqn.outvars
                  if v.aval.dtype == jnp.bfloat16)


@each
def test_float32_whatever_comes_in(name):
  case = CASES[name]
  jaxpr = jax.make_jaxpr(eager(case))(arrays(case, dtype=jnp.bfloat16))
  assert [v.dtype for v in jaxpr.out_avals] == [jnp.float32]
  assert not list(low_precision(jaxpr.jaxpr))


@each
def test_finite(name):
  """At large values and at ones without variance."""
  case = CASES[name]
  p = arrays(case)
  for scale in case.scale:
    large = map_models(case, p, lambda v: v * np.float32(scale))
    assert_finite(run(name)(large), scale)
  models = [n for n in p if n.startswith(MODELS)]
  same = map_examples(
      case, p, lambda v: np.broadcast_to(v[:1], v.shape), models)
  assert_finite(run(name)(same), 'equal examples')
  for constant in (0, 1):
    flat = map_models(case, p, lambda v: np.full_like(v, constant))
    assert_finite(run(name)(flat), f'all {constant}')


@cases(lambda case: case.batch == 'free' and not case.unmasked)
def test_masked_classes(name):
  """Classes at -inf in every model add nothing to value or gradient."""
  case = CASES[name]
  p = arrays(case)
  classes = p['student_logits'].shape[-1]
  off = np.arange(classes) >= classes - 2
  if 'labels' in p and case.soft:
    rest = np.where(off, 0, p['labels'])
    p['labels'] = rest / rest.sum(-1, keepdims=True)
  elif 'labels' in p:
    p['labels'] = p['labels'] % (classes - 2)
  at = lambda value: {n: np.where(off, np.float32(value), v) if (
      n.endswith('logits')) else v for n, v in p.items()}
  fewer = {n: v[..., :-2] if n.endswith('logits') or n == 'labels' and case.soft
           else v for n, v in p.items()}
  values, grads = run(name)(at(-np.inf))
  compare(values, expected(name, fewer))
  grad = grads['student_logits']
  np.testing.assert_array_equal(grad[..., -2:], 0)
  _, want = run(name)(at(-300.0))
  close(grad[..., :-2], want['student_logits'][..., :-2])


def assert_nan(name, p):
  """Example 2 is NaN; so is the mean of a relation."""
  out, _ = run(name)(p)
  if CASES[name].batch == 'relation':
    assert np.isnan(np.mean(out))
  else:
    assert np.isnan(out[2])
    assert np.isfinite(np.delete(out, 2)).all()


@each
def test_nan_is_not_hidden(name):
  case = CASES[name]
  p = arrays(case)
  for bad in p:
    leaves, treedef = jax.tree.flatten(p[bad])
    if bad in case.shared or not is_float(leaves[0]):
      continue
    for i in range(len(leaves)):
      def spoil(v):
        v = v.copy()
        v[(2,) + (0,) * (v.ndim - 2) + (-1,) * (v.ndim > 1)] = np.nan
        return v
      one = map_examples(case, {bad: leaves[i]}, spoil)[bad]
      new = treedef.unflatten([*leaves[:i], one, *leaves[i + 1:]])
      assert_nan(name, p | {bad: new})


@cases(lambda case: not case.soft and case.settings.get('supervised', True)
       and {'labels', 'student_logits'} <= set(array_names(case)))
def test_label_out_of_range_is_not_hidden(name):
  p = arrays(CASES[name])
  for label in (-1, p['student_logits'].shape[-1]):
    bad = np.where(np.arange(B) == 2, label, p['labels'])
    assert_nan(name, p | {'labels': bad.astype(np.int32)})


@cases(lambda case: case.zero_at_equality)
def test_zero_at_equality(name):
  case = CASES[name]
  out, grads = run(name)(arrays(case, equal=True))
  close(np.mean(out), 0)
  of_models = {n: g for n, g in grads.items() if n.startswith(MODELS)}
  close(of_models, jax.tree.map(np.zeros_like, of_models))
  other, _ = run(name)(arrays(case))
  if case.batch == 'relation':
    assert other.mean() > 0
  else:
    close(out, np.zeros(B))
    assert (np.asarray(other) > 0).all()


@each
def test_vmap_over_seeds(name):
  """Values and gradients can be mapped, whatever the loss loops over."""
  case = CASES[name]
  seeds = [arrays(case, seed) for seed in range(3)]
  stack = lambda *x: (np.stack if isinstance(x[0], np.ndarray) else jnp.stack)(
      x)
  stacked = jax.tree.map(stack, *seeds)
  def mean(p):
    values = eager(case)(p)
    return values.mean(), values
  of = [n for n in stacked if n.startswith('student_')]
  def both(p):
    return jax.grad(lambda x: mean(p | x), has_aux=True)({n: p[n] for n in of})
  grads, values = jax.eval_shape(jax.vmap(both), stacked)
  assert values.shape == (3, B)
  assert jax.tree.map(jnp.shape, grads) == jax.tree.map(
      jnp.shape, {n: stacked[n] for n in of})


@each
def test_pmap_over_devices(name):
  """Values and gradients have a trace per device; nothing is compiled."""
  case = CASES[name]
  devices = [arrays(case, seed) for seed in range(jax.device_count())]
  stack = lambda *x: (np.stack if isinstance(x[0], np.ndarray) else jnp.stack)(
      x)
  stacked = jax.tree.map(stack, *devices)
  def step(p):
    mean = lambda student: jnp.mean(eager(case)(p | student))
    grads = jax.grad(mean)({n: x for n, x in p.items()
                            if n.startswith('student_')})
    return jax.lax.pmean(grads, 'devices')
  grads = jax.eval_shape(jax.pmap(step, axis_name='devices'), stacked)
  chex.assert_trees_all_equal_shapes(
      grads, {n: x for n, x in stacked.items() if n in grads})


@each
def test_batch_stays_sharded(name):
  """With another free axis before that of the examples, if such may be."""
  if jax.device_count() < 2:
    pytest.skip('one device: XLA_FLAGS simulates eight in conftest')
  case = CASES[name]
  lead = (2, B // 2) if case.batch == 'free' else (B,)
  mesh = jax.make_mesh((2,), ('data',), devices=jax.devices()[:2],
                       axis_types=(jax.sharding.AxisType.Auto,))
  spec = [None] * (len(lead) - 1) + ['data']
  def place(n, v):
    axes = P() if n in case.shared else P(*[None] * case.first(n), *spec)
    return jax.device_put(v, NamedSharding(mesh, axes))
  p = arrays(case, lead=lead)
  placed = {n: jax.tree.map(lambda v: place(n, v), v) for n, v in p.items()}
  compiled = jax.jit(eager(case)).lower(placed).compile()
  out = compiled(placed)
  assert out.shape == lead
  def flat(n, v):
    i = case.first(n)
    return v if n in case.shared else v.reshape(
        v.shape[:i] + (B,) + v.shape[i + len(lead):])
  close(np.ravel(out), run(name)({
      n: jax.tree.map(lambda v: flat(n, v), v) for n, v in p.items()})[0])
  assert out.sharding.is_equivalent_to(NamedSharding(mesh, P(*spec)), len(lead))
  if case.batch != 'relation':
    text = compiled.as_text()
    assert 'all-gather' not in text and 'all-reduce' not in text


@cases(lambda case: case.batch == 'free')
def test_one_example_without_axes(name):
  case = CASES[name]
  one = {n: v if n in case.shared else v.take(0, case.first(n))
         for n, v in arrays(case).items()}
  assert jax.eval_shape(eager(case), one).shape == ()


@pytest.mark.parametrize('name', BAD)
def test_bad_input(name):
  call, message = BAD[name]
  with pytest.raises(ValueError, match=message):
    call()
