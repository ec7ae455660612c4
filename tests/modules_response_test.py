"""Modules of losses on logits: CTKD's temperature, USKD's weak head."""
import math

from flax import nnx
import jax
from jax import numpy as jnp
import numpy as np
import pytest
from scipy import special

from kt_jax import core
from kt_jax import losses
from kt_jax import modules

B, K, STEPS = 6, 5, 100
r = np.random.default_rng(0)
POOL = {name: jnp.asarray(r.normal(size=shape), jnp.float32) for name, shape in
        dict(student_logits=(B, K), teacher_logits=(B, K),
             student_features=(B, 3, 4, 7)).items()}
POOL['labels'] = jnp.asarray(r.integers(0, K, B))


def shape(*dims):
  return jax.ShapeDtypeStruct(dims, jnp.float32)


def temperature(**kw):
  return modules.CurriculumTemperature(
      shape(B, K), shape(B, K), rngs=nnx.Rngs(0), steps=STEPS, **kw)


def pure(module):
  """`(params, step, **more) -> kd` at the module's temperature, and params."""
  graph, params, rest = nnx.split(module, nnx.Param, ...)
  def loss(params, step, **more):
    m = nnx.merge(graph, params, rest, copy=True)
    pool = POOL | more
    out = core.bind(m.__call__, pool | {'step': step})
    return core.masked_mean(core.bind(losses.kd, pool, **out),
                            pool.get('where'))
  return jax.jit(loss), params


def close(got, want, rtol=1e-5, atol=1e-6):
  jax.tree.map(lambda g, w: np.testing.assert_allclose(
      np.asarray(g), np.asarray(w), rtol=rtol, atol=atol), got, want)


def test_reversed_gradient():
  x = jnp.asarray([1.0, -2.0, 3.0])
  value, back = jax.vjp(core.reverse_gradient, x, 0.25)
  np.testing.assert_array_equal(value, x)
  g = jnp.asarray([4.0, 8.0, -1.0])
  close(back(g), (-0.25 * g, 0.0))
  scales = jnp.asarray([0.0, 1.0])
  grads = jax.jit(jax.vmap(jax.grad(
      lambda s: jnp.sum(core.reverse_gradient(x, s)**2))))(scales)
  np.testing.assert_array_equal(grads, 0)
  # As a layer it turns the maps before it, not those after it.
  f = lambda w: jnp.sum(jnp.sin(core.reverse_gradient(w * x, 0.5)))
  close(jax.grad(f)(2.0), -0.5 * jnp.sum(x * jnp.cos(2.0 * x)))


def test_adversary_grows():
  loss, params = pure(temperature(peak=0.6, start=1.5, span=4.0))
  both = jax.jit(jax.value_and_grad(loss))
  kd = lambda u: losses.kd(
      POOL['student_logits'], POOL['teacher_logits'],
      temperature=1.5 + 4 / (1 + jnp.exp(-u))).mean()
  value, slope = jax.value_and_grad(kd)(1.0)
  assert abs(slope) > 1e-5
  for step, share in ((0, 0), (STEPS // 3, math.sin(math.pi * 33 / 200)**2),
                      (STEPS, 1), (3 * STEPS, 1)):
    got, grads = both(params, step)
    close(got, value)
    (grad,) = jax.tree.leaves(grads)
    close(grad, -0.6 * share * slope, rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize('instance', [False, True])
def test_descending_the_gradient_raises_the_loss(instance):
  loss, params = pure(temperature(instance=instance))
  before, grad = loss(params, STEPS), jax.jit(jax.grad(loss))
  for _ in range(5):
    params = jax.tree.map(
        lambda p, g: p - 0.1 * g / jnp.maximum(jnp.linalg.norm(g), 1e-12),
        params, grad(params, STEPS))
  assert loss(params, STEPS) > before
  assert loss(params, 0) == loss(params, STEPS), 'the value knows no schedule'


def test_a_temperature_for_each_example():
  module = temperature(instance=True, start=2.0, span=3.0, width=9)
  out = module(POOL['student_logits'], POOL['teacher_logits'], 0)['temperature']
  assert out.dtype == jnp.float32 and len(np.unique(out)) == B
  x = np.concatenate([special.softmax(np.float64(POOL[f'{n}_logits']), -1)
                      for n in ('student', 'teacher')], 1)
  assert module.hidden.kernel.shape == (2 * K, 9)
  for linear in (module.hidden, module.out):  # biases: 0 and 1
    x = np.maximum(x, 0) @ np.float64(linear.kernel) + np.float64(linear.bias)
  close(out, 2 + 3 * special.expit(x[:, 0]))
  # Its inputs are constants: the student's gradient is that at these taus.
  kd = lambda s, tau: losses.kd(
      s, POOL['teacher_logits'], temperature=tau).sum()
  to_student = lambda s: kd(
      s, module(s, POOL['teacher_logits'], STEPS)['temperature'])
  close(*jax.jit(lambda s: (jax.grad(to_student)(s), jax.grad(kd)(s, out)))(
      POOL['student_logits']))


def test_padding_does_not_reach_the_weights():
  loss, params = pure(temperature(instance=True))
  pad = lambda v: jnp.concatenate([v, jnp.full((2, K), jnp.nan)])
  padded = dict(student_logits=pad(POOL['student_logits']),
                teacher_logits=pad(POOL['teacher_logits']),
                where=jnp.arange(B + 2) < B)
  both = jax.jit(jax.value_and_grad(loss))
  close(both(params, STEPS, **padded), both(params, STEPS))


def test_weak_head_feeds_uskd():
  head = modules.WeakHead(shape(B, 3, 4, 7), rngs=nnx.Rngs(0), classes=K)
  head.head.bias[...] = jnp.arange(K, dtype=jnp.float32)
  where = jnp.arange(B) < B - 1
  def total(features):
    pool = POOL | core.bind(head.__call__, {
        'student_features': features, 'where': where}) | {'where': where}
    return core.masked_mean(core.bind(losses.uskd, pool), where)
  features = POOL['student_features']
  weak = head(features)['student_weak_logits']
  assert weak.shape == (B, K)
  close(weak, (features.mean((1, 2)) @ head.head.kernel[...]
               + head.head.bias[...]))
  both = jax.jit(jax.value_and_grad(total))
  value, grad = both(features)
  assert (jnp.abs(grad[:-1]).max((1, 2, 3)) > 0).all()
  close(both(features.at[-1].set(jnp.nan)), (value, grad))
  close(grad[-1], 0 * grad[-1])


@pytest.mark.parametrize('call,message', [
    (lambda: modules.CurriculumTemperature(
        shape(B, K), shape(B, K + 1), rngs=nnx.Rngs(0)),
     r'CurriculumTemperature.*\(6, 5\).*\(6, 6\)'),
    (lambda: modules.CurriculumTemperature(
        shape(K), shape(K), rngs=nnx.Rngs(0)), r'\[B, K\].*\(5,\)'),
    (lambda: temperature(span=0), 'span must be > 0, got 0'),
    (lambda: temperature(start=-1.0), 'start.*-1'),
    (lambda: modules.WeakHead(shape(B), rngs=nnx.Rngs(0), classes=K),
     r'WeakHead.*\(6,\)'),
    (lambda: modules.WeakHead(shape(B, 7), rngs=nnx.Rngs(0), classes=0),
     'classes.*0'),
])
def test_bad_input(call, message):
  with pytest.raises(ValueError, match=message):
    call()
