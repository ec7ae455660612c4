"""Reductions, names, trees and argument validation."""
import types

import jax
from jax import numpy as jnp
import numpy as np
import pytest

from kt_jax import core


def fn(student_logits, labels, where=None, *, temperature=1.0, scale=2.0):
  """A function of the shape that losses have."""
  return student_logits, labels, where, temperature, scale


def test_bind_takes_arrays_by_name():
  pool = {'labels': 1, 'student_logits': 2, 'teacher_logits': 3}
  assert core.bind(fn, pool) == (2, 1, None, 1.0, 2.0)
  assert core.bind(fn, pool | {'where': 4}, scale=5) == (2, 1, 4, 1.0, 5)


def test_bind_refuses():
  with pytest.raises(ValueError, match=r"fn needs \['labels'\].*student"):
    core.bind(fn, {'student_logits': 0})
  with pytest.raises(ValueError, match="'temprature'.*'temperature'"):
    core.bind(fn, {'student_logits': 0, 'labels': 0}, temprature=2.0)
  with pytest.raises(ValueError, match='labels'):  # an array is no setting
    core.bind(fn, {'student_logits': 0, 'labels': 0}, labels=2.0)


def namespace():
  space = types.ModuleType('space')
  space.kd, space._hidden, space.other = fn, fn, lambda x: x
  space.module, space.number = types, 3
  return space


def test_resolve():
  assert core.resolve(namespace(), 'kd', 'loss') is fn
  assert core.resolve(namespace(), 'kd', 'loss', takes='labels') is fn
  assert core.resolve(namespace(), 'math:sqrt', 'loss')(4.0) == 2.0
  assert core.resolve(namespace(), f'{__name__}:fn', 'loss').__doc__ == (
      fn.__doc__)


@pytest.mark.parametrize('name,message', [
    ('kdd', "No loss 'kdd'. Did you mean 'kd'?"),
    ('_hidden', "No loss '_hidden'"),
    ('module', "No loss 'module'"),
    ('number', "No loss 'number'"),
    ('zzzzzzzz', 'Have: kd, other'),
    ('no_such_module:fn', 'no_such_module'),
    ('os.no_such_part:fn', 'no_such_part'),
    ('math:sqrtt', "Did you mean 'sqrt'"),
])
def test_resolve_names_the_nearest(name, message):
  with pytest.raises(core.UserError) as e:
    core.resolve(namespace(), name, 'loss')
  assert message in str(e.value) and '\n' not in str(e.value)


def test_resolve_takes():
  with pytest.raises(core.UserError, match="No loss 'other'.*Have: kd"):
    core.resolve(namespace(), 'other', 'loss', takes='labels')


def test_nearest():
  assert 'Did you mean' not in core.nearest('loss', 'qqqq', ['kd'])
  assert core.nearest('loss', 'x', []) == "No loss 'x'. Have: none."
  assert core.nearest('loss', 'x', map(str, range(99))).endswith(
      ', ... (99 in all).')
  assert issubclass(core.UserError, ValueError)


OPTIMIZER = ('clip', 'kw', 'l2', 'learning_rate', 'name')
CONFIG = ('batch', 'data', 'init_from', 'loop', 'model', 'optimizer')


@pytest.mark.parametrize('name,choices,want', [
    ('lr', OPTIMIZER, 'learning_rate'),  # difflib alone: l2
    ('LR', OPTIMIZER, 'learning_rate'),
    ('lr', CONFIG, 'optimizer'),  # the group
    ('optimizer.lr', [f'optimizer.{k}' for k in OPTIMIZER],
     'optimizer.learning_rate'),
    ('wd', OPTIMIZER, 'l2'),
    ('wd', ['weight_decay', 'l2'], 'weight_decay'),
    ('weight_decay', OPTIMIZER, 'l2'),
    ('bs', ['augment', 'size'], 'size'),
    ('bs', ['batch_size', 'bits'], 'batch_size'),
    ('epochs', ['keep', 'steps'], 'steps'),
    ('temp', ['temperature', 'term'], 'temperature'),
    ('T', ['share', 'temperature'], 'temperature'),
    ('opt', CONFIG, 'optimizer'),
    ('dataset', CONFIG, 'data'),
    ('ckpt', CONFIG, 'init_from'),
    ('wieght', ['kw', 'warmup', 'weight'], 'weight'),
    ('lr', ['largest', 'points'], None),  # no synonym among them: difflib
])
def test_nearest_knows_the_words_of_the_field(name, choices, want):
  message = core.nearest('key', name, choices)
  if want:
    assert f"No key {name!r}. Did you mean {want!r}?" in message
  else:
    assert 'learning_rate' not in message
  assert message.endswith(f'Have: {", ".join(sorted(choices))}.')


def test_masked_sum_and_mean():
  x = jnp.asarray([1.0, 2.0, jnp.nan, 4.0])
  where = jnp.asarray([1, 1, 0, 1])
  assert core.masked_sum(x, where) == (7, 3)
  assert core.masked_mean(x, where) == np.float32(7 / 3)
  assert core.masked_mean(x[:2]) == 1.5
  assert core.masked_sum(x[:2]) == (3, 2)
  assert jnp.isnan(core.masked_mean(x)), 'what is kept is not hidden'
  assert core.masked_mean(x, jnp.zeros(4, bool)) == 0
  np.testing.assert_array_equal(
      core.masked_mean(jnp.ones((2, 3)), jnp.asarray([True, False, True])), 1)


def test_masked_sums_add_up_over_parts():
  x, where = jnp.arange(8.0), jnp.arange(8) % 3 > 0
  whole = core.masked_sum(x, where)
  parts = [core.masked_sum(x[i:i + 2], where[i:i + 2]) for i in range(0, 8, 2)]
  assert tuple(map(sum, zip(*parts))) == whole


def test_masked_mean_gradient_leaves_out_the_masked():
  where = jnp.asarray([True, True, False])
  grad = jax.grad(core.masked_mean)(jnp.asarray([1.0, 2.0, jnp.nan]), where)
  np.testing.assert_array_equal(grad, [0.5, 0.5, 0.0])
  both = jax.jit(core.masked_mean)(jnp.asarray([1.0, 2.0, jnp.nan]), where)
  assert both == 1.5


@pytest.mark.parametrize('dtype,want', [
    ('bfloat16', 'float32'), ('float16', 'float32'), ('float32', 'float32'),
    ('int32', 'float32'), ('bool', 'float32')])
def test_to_float(dtype, want):
  assert core.to_float(jnp.ones(2, dtype)).dtype == want


def test_to_float_keeps_double_precision():
  with jax.enable_x64(True):
    assert core.to_float(jnp.ones(2, jnp.float64)).dtype == jnp.float64


def test_check_logits():
  core.check_logits('fn', student_logits=np.ones((2, 3)))
  core.check_logits('fn', student_logits=np.ones(3), teacher_logits=np.ones(3))
  with pytest.raises(ValueError, match='fn: student_logits.*scalar'):
    core.check_logits('fn', student_logits=np.ones(()))
  with pytest.raises(ValueError, match=r'teacher_logits.*\(3,\).*\(2, 3\)'):
    core.check_logits('fn', student_logits=np.ones((2, 3)),
                      teacher_logits=np.ones(3))


def test_check_positive():
  core.check_positive('fn', scale=0.5, each=np.array([0.1, 2.0]))
  jax.jit(lambda x: core.check_positive('fn', scale=x))(-1.0)
  for value in (0, -0.5, float('nan'), np.array([1.0, 0.0])):
    with pytest.raises(core.UserError, match='fn: scale must be > 0, got'):
      core.check_positive('fn', steps=1, scale=value)


def test_check_fraction():
  core.check_fraction('fn', a=0, b=1, c=0.3)
  jax.jit(lambda x: core.check_fraction('fn', share=x))(2.0)
  for value in (-0.1, 1.1, float('nan')):
    with pytest.raises(core.UserError, match=r'fn: share must be in \[0, 1\]'):
      core.check_fraction('fn', other=0.5, share=value)


def test_reverse_gradient():
  x = jnp.asarray([1.0, -2.0])
  def total(x, scale):
    y = core.reverse_gradient(x, scale)
    return jnp.sum(y**2), y
  grads, y = jax.jit(jax.grad(total, (0, 1), has_aux=True))(x, 0.3)
  np.testing.assert_array_equal(y, x)
  np.testing.assert_allclose(grads[0], -0.3 * 2 * x)
  assert grads[1] == 0


def test_rows_of_a_matrix():
  """Length one and roots, with gradient 0 where they have none."""
  x = np.array([[3.0, 4.0], [0.0, 0.0], [1e-30, 0.0]], np.float32)
  np.testing.assert_allclose(core.unit(x), [[0.6, 0.8], [0, 0], [1, 0]])
  np.testing.assert_allclose(core.unit(x[:1], (0, 1)), [[0.6, 0.8]])
  np.testing.assert_allclose(core.dot(x, 2 * x)[0], [50, 0, 6e-30])
  for fn in (core.unit, core.root):
    grad = jax.grad(lambda x, fn=fn: jnp.sum(fn(x)))(x)
    assert np.isfinite(grad).all() and not grad[1].any()
  np.testing.assert_allclose(core.root(jnp.asarray([4.0, 0.0])), [2, 0])


def test_paths():
  tree = {'b': [1, {'c': 2}], 'a': (3,)}
  assert core.flatten(tree) == {'a/0': 3, 'b/0': 1, 'b/1/c': 2}
  assert list(core.flatten(tree).values()) == jax.tree.leaves(tree)
  assert core.flatten(5) == {'': 5}


def test_fold_path_is_stable():
  """The same in every process and version: Python's hash is salted."""
  key = jax.random.key(7)
  data = lambda path: jax.random.key_data(core.fold_path(key, path)).tolist()
  assert data('block_0/kernel') == [3994999841, 56746108]
  assert data('block_0/kernel') != data('block_0/bias')
  assert data('') == jax.random.key_data(jax.random.fold_in(key, 0)).tolist()
