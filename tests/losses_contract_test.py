"""What every loss promises, checked for each from one table."""
import collections
import functools
import inspect
import re

import jax
from jax import numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from losses_cases import feature
from losses_cases import relation
from losses_cases import response
from losses_cases import sequence
import numpy as np
import pytest

from kt_jax import core
from kt_jax import losses

B = 8
SECTIONS = ('Args', 'Returns', 'Departures', 'References')
KINDS = (response, feature, relation, sequence)
CASES = {n: case for kind in KINDS for n, case in kind.CASES.items()}
TRACED = collections.defaultdict(list)  # case -> shapes that were traced
BAD = {n: call for kind in KINDS for n, call in kind.BAD.items()}
each = pytest.mark.parametrize('name', CASES)


def these(keep):
  """The cases for which a promise is made."""
  return pytest.mark.parametrize(
      'name', [name for name, case in CASES.items() if keep(case)])


def public():
  return {n: f for n, f in vars(losses).items()
          if inspect.isfunction(f) and not n.startswith('_')
          and f is not losses.linear_head}  # it runs a loss, it is none


def takes(case):
  return [p.name for p in inspect.signature(public()[case.loss])
          .parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD]


def floating(v):
  return jnp.issubdtype(v.dtype, jnp.floating)


def equal(p):
  """Every model says what the student says."""
  out = dict(p)
  for n in p:
    who, _, what = n.partition('_')
    if who in ('teacher', 'initial'):
      out[n] = jax.tree.map(lambda s, t: np.broadcast_to(s, t.shape),
                            p[f'student_{what}'], p[n])
  return out


def pool(case, seed=0, *, dtype=jnp.float32, same=False, lead=(B,)):
  """Arrays for a case, those that its loss takes."""
  p = case.arrays(np.random.default_rng(seed), lead)
  if same:
    p = (case.equal or equal)(p)
  def array(n, v):
    if n == 'key':
      return jax.random.key(v + seed)
    v = jnp.asarray(v)
    return v.astype(dtype) if floating(v) else v
  return {n: jax.tree.map(lambda v: array(n, v), p[n])
          for n in takes(case) if n in p}


def examples(case, p, fn, keep=lambda n: True):
  """`p` with `fn(v)` for each array, its axis of examples brought to the front,
  if it has one and `keep(name)`."""
  def at_front(n):
    axis = case.first(n)
    return lambda v: jnp.moveaxis(fn(jnp.moveaxis(v, axis, 0)), 0, axis)
  return {n: v if n in case.shared or not keep(n)
          else jax.tree.map(at_front(n), v) for n, v in p.items()}


def of_models(case, p, fn):
  """`p` with `fn(v)` for what networks put out, be it of any size."""
  models = ('student_', 'teacher_', 'initial_')
  return {n: jax.tree.map(fn, v) if n.startswith(models) and n not in case.fixed
          else v for n, v in p.items()}


def eager(case):
  return lambda p: core.bind(public()[case.loss], p, **case.settings)


@functools.cache
def run(name):
  """`(p, where) -> values, gradients of their masked mean by the student's
  arrays`, compiled once for all tests; that it equals eager is one of them."""
  call = eager(CASES[name])
  def both(p, where=None):
    TRACED[name].append(jax.tree.map(jnp.shape, (p, where)))
    of = {n: v for n, v in p.items() if n.startswith('student_')}
    def mean(of):
      values = call(p | of)
      return core.masked_mean(values, where), values
    grads, values = jax.grad(mean, has_aux=True)(of)
    return values, grads
  return jax.jit(both)


def close(got, want, rtol=1e-5, atol=1e-5):
  jax.tree.map(lambda g, w: np.testing.assert_allclose(
      np.asarray(g), np.asarray(w), rtol=rtol, atol=atol), got, want)


def assert_finite(tree, what):
  for path, v in core.flatten(tree).items():
    assert jnp.isfinite(v).all(), f'{what}: {path} is {v}'


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
  sections = re.findall(r'^  ([A-Z]\w+):\s', fn.__doc__, re.MULTILINE)
  assert sections[:2] == ['Args', 'Returns']
  assert sections == [s for s in SECTIONS if s in sections]


@each
def test_says_how_it_reads_the_batch(name):
  case = CASES[name]
  assert case.batch in ('free', 'example', 'relation')
  assert ('where' in takes(case)) == (case.batch == 'relation')


@each
def test_jit_equals_eager_and_traces_once(name):
  case = CASES[name]
  for seed in (0, 1):
    p = pool(case, seed)
    out, _ = run(name)(p)
    assert out.shape == (B,)
    close(out, eager(case)(p))
  assert TRACED[name].count(jax.tree.map(jnp.shape, (p, None))) == 1


@each
def test_float32_whatever_comes_in(name):
  case = CASES[name]
  p = pool(case, dtype=jnp.bfloat16)
  out = jax.jit(eager(case))(p)
  assert out.dtype == jnp.float32
  wide = jax.tree.map(lambda v: core.to_float(v) if floating(v) else v, p)
  close(out, run(name)(wide)[0])


@each
def test_finite(name):
  """At large values and at ones without variance."""
  case = CASES[name]
  p = pool(case)
  for scale in case.scale:
    assert_finite(run(name)(of_models(case, p, lambda v: v * scale)), scale)
  first = lambda v: jnp.broadcast_to(v[:1], v.shape)
  alike = examples(case, p, first, lambda n: n.split('_')[0] in (
      'student', 'teacher', 'initial'))
  assert_finite(run(name)(alike), 'equal examples')
  for constant in (0, 1):
    flat = of_models(case, p, lambda v: jnp.full_like(v, constant))
    assert_finite(run(name)(flat), f'all {constant}')


@these(lambda case: case.batch == 'free' and not case.unmasked)
def test_masked_classes(name):
  """Classes at -inf in every model add nothing to value or gradient."""
  case = CASES[name]
  p = pool(case)
  classes = p['student_logits'].shape[-1]
  off = jnp.arange(classes) >= classes - 2
  fewer = {}
  if 'labels' in p and case.soft:
    kept = jnp.where(off, 0, p['labels'])
    p['labels'] = kept / kept.sum(-1, keepdims=True)
    fewer['labels'] = p['labels'][..., :-2]
  elif 'labels' in p:
    p['labels'] = p['labels'] % (classes - 2)
  for n in p:
    if n.endswith('logits'):
      fewer[n] = p[n][..., :-2]
      p[n] = jnp.where(off, -jnp.inf, p[n])
  out, grads = run(name)(p)
  want, want_grads = run(name)(p | fewer)
  close(out, want)
  close(grads['student_logits'][..., :-2], want_grads['student_logits'])
  np.testing.assert_array_equal(grads['student_logits'][..., -2:], 0)


def shows(name, p):
  """Example 2 is NaN; so is the mean of a relation."""
  out, _ = run(name)(p)
  if CASES[name].batch == 'relation':
    assert jnp.isnan(core.masked_mean(out))
  else:
    assert jnp.isnan(out[2])
    assert jnp.isfinite(jnp.delete(out, 2)).all()


@each
def test_nan_shows(name):
  case = CASES[name]
  p = pool(case)
  for bad in p:
    leaves, treedef = jax.tree.flatten(p[bad])
    if bad in case.shared or not floating(leaves[0]):
      continue
    for i in range(len(leaves)):
      def spoil(v):
        return v.at[(2,) + (0,) * (v.ndim - 2) + (-1,) * (v.ndim > 1)].set(
            jnp.nan)
      one = examples(case, {bad: leaves[i]}, spoil)[bad]
      new = treedef.unflatten([*leaves[:i], one, *leaves[i + 1:]])
      shows(name, p | {bad: new})


@these(lambda case: not case.soft and case.settings.get('supervised', True)
       and {'labels', 'student_logits'} <= set(takes(case)))
def test_label_out_of_range_shows(name):
  p = pool(CASES[name])
  for label in (-1, p['student_logits'].shape[-1]):
    shows(name, p | {'labels': p['labels'].at[2].set(label)})


@these(lambda case: case.zero_at_equality)
def test_zero_at_equality(name):
  case = CASES[name]
  out, grads = run(name)(pool(case, same=True))
  close(core.masked_mean(out), 0)
  close(grads, jax.tree.map(jnp.zeros_like, grads))
  other, _ = run(name)(pool(case))
  if case.batch == 'relation':
    assert other.mean() > 0
  else:
    close(out, 0 * out)
    assert (other > 0).all()


@each
def test_padding_changes_nothing(name):
  """Whatever stands in padded rows, NaN included, `where` leaves out."""
  case = CASES[name]
  p = pool(case)
  def pad(v):
    junk = -1 if jnp.issubdtype(v.dtype, jnp.integer) else jnp.nan
    return jnp.concatenate([v, jnp.full((3,) + v.shape[1:], junk, v.dtype)])
  where = jnp.arange(B + 3) < B
  padded = examples(case, p, pad)
  if case.batch == 'relation':
    padded['where'] = where
  out, grads = run(name)(padded, where)
  want, want_grads = run(name)(p)
  close(out[:B], want)
  for n, wants in want_grads.items():
    if n in case.shared:
      continue  # a NaN that a parameter meets is in its gradient
    for got, want in zip(jax.tree.leaves(grads[n]), jax.tree.leaves(wants)):
      close(got[:len(want)], want)
      if case.batch == 'relation':
        np.testing.assert_array_equal(got[len(want):], 0)


@these(lambda case: case.batch == 'free')
def test_leading_axes_are_free(name):
  case, lead = CASES[name], (2, B // 2)
  p = pool(case, lead=lead)
  out = jax.jit(eager(case))(p)
  assert out.shape == lead
  flat = {}
  for n, v in p.items():
    i = case.first(n)
    flat[n] = v if n in case.shared else v.reshape(
        v.shape[:i] + (B,) + v.shape[i + 2:])
  close(out.ravel(), run(name)(flat)[0])
  one = {n: v if n in case.shared else v.take(0, case.first(n))
         for n, v in pool(case).items()}
  assert jax.eval_shape(eager(case), one).shape == ()


@each
def test_vmap_over_seeds_equals_loop(name):
  case = CASES[name]
  seeds = [pool(case, seed) for seed in range(3)]
  stack = lambda *trees: jax.tree.map(lambda *x: jnp.stack(x), *trees)
  close(jax.vmap(run(name))(stack(*seeds)),
        stack(*[run(name)(p) for p in seeds]))


@each
def test_batch_stays_sharded(name):
  if jax.device_count() < 2:
    pytest.skip('one device: XLA_FLAGS simulates eight in conftest')
  case = CASES[name]
  mesh = jax.make_mesh((2,), ('data',), devices=jax.devices()[:2],
                       axis_types=(jax.sharding.AxisType.Auto,))
  def place(n, v):
    spec = P() if n in case.shared else P(*[None] * case.first(n), 'data')
    return jax.device_put(v, NamedSharding(mesh, spec))
  p = pool(case)
  placed = {n: jax.tree.map(lambda v: place(n, v), v) for n, v in p.items()}
  compiled = jax.jit(eager(case)).lower(placed).compile()
  out = compiled(placed)
  close(out, run(name)(p)[0])
  if case.whole:
    assert out.sharding.device_set == set(mesh.devices.flat)
    return
  assert out.sharding.is_equivalent_to(NamedSharding(mesh, P('data')), 1)
  if case.batch != 'relation':
    text = compiled.as_text()
    assert 'all-gather' not in text and 'all-reduce' not in text


@pytest.mark.parametrize('name', BAD)
def test_bad_input_fails_at_the_door(name):
  call, message = BAD[name]
  with pytest.raises(ValueError, match=message):
    call()
