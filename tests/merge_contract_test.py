"""The contract of operators: alone, in trees and in chunks they agree."""
import dataclasses
import functools
import inspect

import jax
from jax import numpy as jnp
import numpy as np
import pytest

from kt_jax import checkpoint
from kt_jax import core
from kt_jax import merge
from kt_jax.merge import _draw
from kt_jax.merge import _job
from kt_jax.merge import contract
from kt_jax.merge import stream

COUNTS = {'slerp': 1, 'nearswap': 1, 'passthrough': 1, 'arcee_fusion': 1,
          'nuslerp': 2}  # of models; others have three
# At density 0.29 of 100 entries, 28 stay: float32 would count 29.
ROWS = [
    ('linear', {}),
    ('task_arithmetic', dict(scale=0.3, normalize=True)),
    ('ties', dict(density=0.29, elect='count', normalize=False, scale=0.7)),
    ('ties', dict(density=0.29, rescale='l1')),
    ('ties', dict(density=(0.3, 0.9, 0.5), rescale='inverse')),
    ('breadcrumbs', dict(density=0.29, gamma=(0.05, 0.3, 0.1), elect='sum',
                         normalize=True, scale=0.7)),
    ('breadcrumbs', dict(density=0.4, axis='row', rescale='inverse')),
    ('dare', dict(density=(0.3, 0.6, 0.8), rescale='none', elect='sum',
                  normalize=True, scale=0.7)),
    ('dare', dict(density=0.4, rescale='l1')),
    ('della', dict(density=0.5, epsilon=(0.1, 0.3, 0.2), axis=0, rescale='none',
                   elect='none', normalize=False, scale=0.7)),
    ('slerp', dict(t=0.3)),
    ('slerp', dict(dot_threshold=0.2, eps=1e-3)),
    ('nuslerp', dict(origin='zero', eps=0.3)),
    ('nuslerp', dict(axis=-1)),
    ('multislerp', dict(origin='zero', normalize_weights=False, eps=1e-3)),
    ('karcher', dict(origin='base', max_iter=3, tol=1e-3)),
    ('karcher', {}),
    ('model_stock', dict(clip=False)),
    ('model_stock', dict(axis=0)),
    ('nearswap', dict(t=0.05)),
    ('passthrough', dict(scale=0.3)),
    ('arcee_fusion', {}),
    ('sce', dict(select_topk=0.29)),
    ('fisher', dict(floor=0.1, floor_first_only=True)),
    ('regmean', dict(alpha=0.3, ridge=0.1, double=False)),
    ('svd_truncate', dict(rank=0.4)),
    ('task_singular_vectors', dict(rank=0.4)),
    ('multi_source_svd', dict(components=0.4)),
]
QUICK = {'xla_llvm_disable_expensive_passes': True,
         'xla_backend_optimization_level': 0}
SUMS = ('slerp', 'nuslerp', 'multislerp', 'karcher', 'model_stock', 'sce')


def is_operator(fn):
  return inspect.isfunction(fn) and list(inspect.signature(fn).parameters)[
      :3] == ['base', 'models', 'weight']


OPERATORS = {name for name, fn in vars(merge).items() if is_operator(fn)}


@functools.cache
def leaves(count):
  """Base, models that differ in size, and weights; no symmetry."""
  r = np.random.default_rng(0)
  base = r.normal(size=(5, 20))
  scale = np.asarray([0.1, 0.3, 0.05])[:, None, None]
  models = base + scale * (r.normal(size=(3, 5, 20)) + 0.5)
  return (base.astype(np.float32), models[:count].astype(np.float32),
          np.asarray([0.5, 0.2, 0.4], np.float32)[:count])


def key_of(op):
  return jax.random.key(3) if contract.draws(op) else None


def alone(op, count, settings):
  """The function itself, with the measures that it declares."""
  measures = contract.contract_of(op).chunk_measures(settings) or {}
  more = dict(key=core.fold_path(key_of(op), 'w')) if contract.draws(
      op) else {}

  def fn(*args):
    measured = {}
    for name, measure in measures.items():
      parameters = inspect.signature(measure.of_leaf).parameters
      earlier = {n: v for n, v in measured.items() if n in parameters}
      measured[name] = measure.of_leaf(*args, **earlier, **settings)
    return op(*args, **measured, **more, **settings)
  return np.asarray(jax.jit(fn, compiler_options=QUICK)(*leaves(count)))


def in_tree(op, count, settings):
  base, models, weight = leaves(count)
  return np.asarray(merge.over_tree(
      op, {'w': base}, [{'w': m} for m in models], weight, key=key_of(op),
      **settings)['w'])


def in_chunks(op, count, settings):
  base, models, weight = leaves(count)
  source = lambda x: {'w': checkpoint.ArrayTensor('w', x)}
  out = np.full(base.size, np.nan, np.float32)
  def write(_, start, values):
    out[start:start + len(values)] = values
  merge.over_stream(op, source(base), list(map(source, models)), weight, write,
                    key=key_of(op), **settings)
  return out.reshape(base.shape)


@pytest.fixture(name='_small', autouse=True)
def small_blocks(monkeypatch):
  """Leaves of 100 entries come in blocks of 16, the last one padded."""
  for module, name in ((_job, '_SMALL'), (_job, 'BLOCK'), (_job, '_CHUNK'),
                       (_draw, 'BLOCK'), (stream, 'BLOCK')):
    monkeypatch.setattr(module, name, 16)
  monkeypatch.setattr(stream, '_PIECE', 48)


@pytest.mark.parametrize('name,settings', ROWS, ids=[
    '-'.join([name, *settings]) for name, settings in ROWS])
def test_alone_in_trees_and_in_chunks(name, settings):
  op, count = getattr(merge, name), COUNTS.get(name, 3)
  tree = in_tree(op, count, settings)
  assert np.isfinite(tree).all()
  assert np.abs(tree - leaves(count)[0]).max() > 1e-3
  np.testing.assert_allclose(alone(op, count, settings), tree, 1e-5, 1e-6)
  if name in SUMS:  # over a leaf, in another order
    np.testing.assert_allclose(in_chunks(op, count, settings), tree, 1e-6, 1e-6)
  else:
    np.testing.assert_array_equal(in_chunks(op, count, settings), tree)


def test_every_setting_has_a_row():
  assert {name for name, _ in ROWS} == OPERATORS
  for name in OPERATORS:
    rows = [settings for other, settings in ROWS if other == name]
    for setting, default in (getattr(merge, name).__kwdefaults__ or {}).items():
      assert any(row.get(setting, default) != default for row in rows), (
          name, setting)


def agree(op, count, settings):
  """Whether an operator is the same in all three ways; errors are a no."""
  try:
    results = [run(op, count, settings) for run in (alone, in_tree, in_chunks)]
  except (core.UserError, TypeError):  # of JAX: a traced value, a key
    return False
  return all(np.allclose(results[0], x, 1e-5, 1e-6) for x in results[1:])


def copy_of(op):
  """The same function as another object, with its contract."""
  @functools.wraps(op)
  def copy(*args, **kw):
    return op(*args, **kw)
  return copy


# A contract that lacks one need of the operator at these settings.
LACKING = {
    'norms of the leaf': ('dare', dict(rescale='l1'), dict(entrywise=True)),
    'rows': ('nuslerp', dict(axis=-1), dict(entrywise=True)),
    'rows of bounds': ('breadcrumbs', dict(axis='row'), dict(entrywise=True)),
    'rows of ranks': ('della', {}, dict(entrywise=True)),
    'other entries': ('arcee_fusion', {}, dict(entrywise=True)),
    'matrices': ('svd_truncate', dict(rank=2), dict(entrywise=True)),
    'a norm': ('karcher', {}, dict(measures={})),
    'a threshold': ('ties', {}, dict(measures={})),
    'a second measure': ('sce', dict(select_topk=0.5), dict(measures={
        'threshold': contract.contract_of(merge.sce).measures['threshold']})),
    'a choice': ('ties', {}, dict(measures={'threshold': merge.Measure(
        contract.contract_of(merge.ties).measures['threshold'].of_leaf)})),
    'a count': ('ties', dict(density=0.29), dict(static=())),
    'a rank': ('svd_truncate', dict(rank=0.4), dict(static=())),
}


@pytest.mark.parametrize('name', LACKING)
def test_an_undeclared_need_is_noticed(name):
  op_name, settings, change = LACKING[name]
  op = copy_of(getattr(merge, op_name))
  count = COUNTS.get(op_name, 3)
  op.contract = dataclasses.replace(contract.contract_of(op), **change)
  assert not agree(op, count, settings)


def centered(base, models, weight):
  return base + jnp.mean(models[0]) * weight[0]


def by_position(base, models, weight):
  return base + models[0] * weight[0] * jnp.arange(base.size).reshape(
      base.shape)


def by_size(base, models, weight):
  return base + models[0] * weight[0] / base.size


def own_draws(base, models, weight, key=None):
  return base + models[0] * weight[0] * jax.random.uniform(key, base.shape)


@pytest.mark.parametrize('op', [centered, by_position, by_size, own_draws])
def test_a_false_promise_is_noticed(op):
  assert agree(op, 1, {})  # without a declaration it is given whole leaves
  op = copy_of(op)
  merge.declare(op, entrywise=True)
  assert not agree(op, 1, {})


def test_user_operators_with_measures():
  """A later measure reads an earlier one; sums run over all blocks."""
  def size(base, models, weight, **settings):
    del base, weight, settings
    return jnp.sum(jnp.ones_like(models), (1, 2) if models.ndim > 2 else 1)

  def mean(base, models, weight, total=None, **settings):
    del base, weight, settings
    return jnp.sum(models.reshape(len(models), -1), 1) / total

  def op(base, models, weight, total=None, mean=None, *, power=2.0):
    del total
    if mean is None:
      mean = jnp.mean(models.reshape(len(models), -1), 1)
    return base + sum(w * jnp.abs(m - c)**power for w, m, c in zip(
        weight, models, mean))
  # Padding is counted: 100 entries are 7 blocks of 16.
  merge.declare(op, entrywise=True, measures={
      'total': merge.Measure(size), 'mean': merge.Measure(mean)})
  base, models, weight = leaves(3)
  centers = models.sum((1, 2), keepdims=True) / (7 * 16)
  want = base + np.tensordot(weight, np.abs(models - centers)**1.5, 1)
  np.testing.assert_allclose(in_chunks(op, 3, dict(power=1.5)), want, 1e-5)


def op_with(**parameters):
  """An operator with array parameters of these defaults."""
  def op(base, models, weight):
    return base + models[0] * weight[0]
  op.__signature__ = inspect.Signature(
      [*inspect.signature(op).parameters.values(), *(
          inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD,
                            default=default)
          for name, default in parameters.items())])
  return op


MEASURE = merge.Measure(lambda base, *_: jnp.sum(base))


@pytest.mark.parametrize('call,message', [
    (lambda: merge.declare(merge.linear, static=('denstiy',)),
     "linear: No parameter 'denstiy'"),
    (lambda: merge.declare(op_with(norm=None), entrywise=True,
                           measures={'nrm': MEASURE}), "Did you mean 'norm'"),
    (lambda: merge.declare(op_with(norm=1.0), entrywise=True,
                           measures={'norm': MEASURE}), 'default None'),
    (lambda: merge.declare(op_with(norm=None), measures={'norm': MEASURE}),
     'entrywise')])
def test_bad_contracts_are_refused(call, message):
  with pytest.raises(core.UserError, match=message):
    call()
  assert contract.contract_of(merge.linear) == merge.Contract(True)
