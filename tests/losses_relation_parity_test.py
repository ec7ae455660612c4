"""Relation losses against PyTorch's numbers, and against theorems."""
import pathlib

import jax
from jax import numpy as jnp
from losses_cases import reference
import numpy as np
import pytest

from kt_jax import core
from kt_jax import losses

GOLDEN = np.load(pathlib.Path(__file__).parent / 'golden/losses/relation.npz')
A = {n: jnp.asarray(GOLDEN[n], jnp.float32) for n in GOLDEN.files
     if '.' not in n and n != 'versions' and GOLDEN[n].ndim > 1}
NAMES = [n for n in GOLDEN.files
         if n not in A and '.grad' not in n and n != 'versions']
MAPS = ('map0_s', 'map1_s', 'map2_s')
MAPS_T = tuple(n[:-1] + 't' for n in MAPS)


def call(name, m):
  """The loss that a stored name stands for, of the arrays `m`."""
  fn, *rest = name.split('/')
  loss = getattr(losses, fn)
  match rest:
    case [own] if fn == 'pkt':
      return loss(m['s'], m['t'], include_self=own == '1')
    case [own] if fn == 'cka':
      return loss(m['s'], m['t'], debiased=own == '1')
    case [own] if fn == 'info_nce':
      return loss(m['s'], m['t_same'], temperature=0.2, symmetric=own == '1')
    case kernel, gamma, order if fn == 'correlation_congruence':
      return loss(m['s'], m['t'], kernel=kernel, gamma=float(gamma),
                  order=None if order == 'None' else int(order))
    case z_s, z_t if fn == 'crd':
      return loss(m['unit_s'], m['unit_t'], m['unit_s_n'], m['unit_t_n'],
                  temperature=0.3, examples=40, student_normalizer=float(z_s),
                  teacher_normalizer=float(z_t))
    case part, sigma if fn == 'token_graph':
      weights = {f'{name}_weight': float(part.startswith(name))
                 for name in ('local', 'global', 'inner')}
      return loss(m['tokens_s'], m['tokens_t'], neighbors=3, temperature=0.1,
                  sigma=float(sigma) or None, **weights)
    case [tau] if fn == 'class_relation':
      return loss(m['novel_s'], m['novel_t'], temperature=float(tau))
    case k, n, threshold:
      return loss(m['score_s'], m['score_t'], candidates=int(k), ranked=int(n),
                  threshold=None if threshold == 'None' else float(threshold))
    case [] if fn in ('ickd', 'intra_layer_pattern', 'inter_layer_relation'):
      return loss([m[n] for n in MAPS], [m[n] for n in MAPS_T])
    case []:
      return loss(m['s'], m['t'])
  raise AssertionError(name)


@pytest.mark.parametrize('name', NAMES)
def test_torch(name):
  names = [n.rsplit('.', 1)[1] for n in GOLDEN.files
           if n.startswith(f'{name}.grad.')]
  assert names
  want = GOLDEN[name]
  def total(arrays):
    out = call(name, A | arrays)
    value = jnp.mean(out) if want.ndim == 0 else out
    return jnp.sum(value), value
  grads, value = jax.jit(jax.grad(total, has_aux=True))(
      {n: A[n] for n in names})
  np.testing.assert_allclose(value, want, rtol=1e-5, atol=1e-7)
  for n in names:
    grad = GOLDEN[f'{name}.grad.{n}']
    np.testing.assert_allclose(grads[n], grad, rtol=1e-4,
                               atol=1e-4 * np.abs(grad).max())


def test_golden_has_versions():
  assert any(v.startswith('torch ') for v in GOLDEN['versions'])
  relation = {n for n in vars(losses) if 'relation.' in getattr(
      getattr(losses, n), '__module__', '')}
  assert {n.split('/')[0] for n in NAMES} == relation


def orthogonal(width, seed=0):
  q, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(width, width)))
  return q.astype(np.float32)


def close(got, want, atol=1e-5, rtol=1e-5):
  np.testing.assert_allclose(got, want, rtol=rtol, atol=atol)


@pytest.mark.parametrize('name', ['rkd_distance', 'rkd_angle', 'cka'])
def test_geometry_only(name):
  """Rotated, shifted and scaled embeddings are the same to them."""
  loss = jax.jit(getattr(losses, name))
  s, t = np.asarray(A['s']), np.asarray(A['t'])
  moved = 30 * t @ orthogonal(t.shape[1]) + 7
  close(loss(s, moved), loss(s, t))
  close(loss(s, 0.01 * s @ orthogonal(s.shape[1]) - 2), 0 * s[:, 0])


def test_rkd_coinciding_examples():
  """They are at distance 0, make no angle and break no gradient."""
  s = A['s'].at[3].set(A['s'][2])
  for name in ('rkd_distance', 'rkd_angle'):
    loss = getattr(losses, name)
    value, grad = jax.jit(jax.value_and_grad(
        lambda s: jnp.mean(loss(s, A['t']))))(s)
    assert jnp.isfinite(value) and jnp.isfinite(grad).all()
    loss = jax.jit(loss)
    close(loss(2 * s, s), 0 * s[:, 0])
    # Compiled together with the operations before it.
    features = lambda s: s / jnp.max(jnp.abs(s)) * 1.7 + 0.3
    close(jax.jit(lambda s: loss(features(s), A['t']))(s),
          loss(features(s), A['t']))


def test_rkd_angle_in_blocks():
  """More triples than are held at once."""
  r = np.random.default_rng(0)
  s, t = (jnp.asarray(r.normal(size=(170, 3)), jnp.float32) for _ in range(2))
  def u(x):
    x = np.asarray(x, np.float64)
    d = x[None] - x[:, None]
    n = np.linalg.norm(d, axis=-1, keepdims=True)
    return d / np.where(n == 0, 1, n)
  gap = np.abs(sum(sign * np.einsum('ijd,ikd->ijk', u(x), u(x))
                   for x, sign in ((s, 1), (t, -1))))
  want = np.where(gap < 1, gap**2 / 2, gap - 0.5).mean((1, 2))
  fn = jax.jit(losses.rkd_angle)
  close(fn(s, t), want, rtol=1e-4)
  assert jnp.isfinite(jax.jit(jax.grad(lambda s: fn(s, t).mean()))(s)).all()


def test_cka_of_independent_layers():
  """Of many channels on few examples: aligned if biased, else not."""
  r = np.random.default_rng(0)
  s, t = r.normal(size=(2, 16, 1000)).astype(np.float32)
  biased, debiased = jax.jit(lambda s, t: (
      losses.cka(s, t).mean(), losses.cka(s, t, debiased=True).mean()))(s, t)
  assert biased < 0.1
  close(debiased, 1, atol=0.1)


def test_cka_constant_layer():
  constant = jnp.full_like(A['t'], 0.1)
  for debiased in (False, True):
    fn = jax.jit(lambda s, t: losses.cka(s, t, debiased=debiased).mean())
    for s in (A['s'], constant):
      close(fn(s, constant), 1)


def test_inter_layer_relation_ignores_scale_and_shift():
  """Of each channel, as Pearson's correlation does."""
  s = [np.asarray(A[n]) for n in MAPS]
  moved = [x * np.arange(1, x.shape[-1] + 1, dtype=np.float32) + 3 for x in s]
  loss = jax.jit(lambda *pair: losses.inter_layer_relation(*pair, eps=0.0))
  close(loss(moved, s), np.zeros(3))
  assert (loss(s, [-s[0], *s[1:]]) > 1).all()


def test_ickd_ignores_scale_and_order_of_positions():
  s = A['map1_s']
  other = 5 * s.reshape(3, 16, 5)[:, ::-1]
  close(losses.ickd(s, other.reshape(3, 4, 4, 5)), jnp.zeros(3))


def test_info_nce_bounds():
  """log B if all embeddings agree; almost 0 if pairs are far apart."""
  b = 8
  same, apart = np.ones((b, b)), np.eye(b)
  fn = jax.jit(lambda x, where: losses.info_nce(x, x, where, temperature=0.02))
  close(fn(same, np.ones(b, bool)), np.full(b, np.log(b)))
  close(fn(apart, np.ones(b, bool)), np.zeros(b))
  close(fn(same, np.arange(b) < 5)[:5], np.full(5, np.log(5)))


def test_crd_is_noise_contrastive():
  """h is 1/2 where the two densities meet: Z N / M = e^{<s, t> / tau}."""
  e = jnp.ones((2, 1))
  n = jnp.ones((2, 3, 1))
  z = np.exp(1 / 0.5) * 12 / 3
  close(losses.crd(e, e, n, n, temperature=0.5, examples=12,
                   student_normalizer=z, teacher_normalizer=z),
        jnp.full(2, 2 * 4 * np.log(2)))


def test_crd_confident():
  """Where the published logarithm of a float32 probability is -inf."""
  e, n = jnp.ones((2, 1)), jnp.full((2, 3, 1), -1.0)
  fn = lambda s: losses.crd(s, e, -n, -n, temperature=0.005).sum()
  value, grad = jax.jit(jax.value_and_grad(fn))(e)
  assert jnp.isfinite(value) and jnp.isfinite(grad).all()
  assert value > 1000


def test_pkt_is_symmetric_under_scale():
  fn = jax.jit(losses.pkt)
  close(fn(A['s'], A['t']), fn(3 * A['s'], A['t']))


def test_partial_ranking_reads_order_only():
  s, t = A['score_s'], A['score_t']
  fn = jax.jit(losses.partial_ranking)
  close(fn(s, t), fn(s, jnp.exp(3 * t)))
  assert fn(s, s).mean() < fn(s, -s).mean()


def test_partial_ranking_takes_out():
  """A candidate with a score of -inf in either does not exist."""
  s, t = np.asarray(A['score_s']), np.asarray(A['score_t'])
  off = np.where(np.arange(s.shape[1]) < s.shape[1] - 2, 0, -np.inf)
  none = np.full_like(s, -np.inf)
  def both(s, t):
    values = losses.partial_ranking(s, t)
    return values.sum(), values
  fn = jax.jit(jax.grad(both, has_aux=True))
  want = reference.get('partial_ranking')(s[:, :-2], t[:, :-2])
  for args in ((s + off, t), (s, t + off)):
    close(fn(*args)[1], want)
  close(fn(none, t)[1], np.zeros(len(s)))
  assert np.isfinite(fn(s, none)[0]).all()


def test_class_relation_without_novelty():
  """If no sample resembles a novel class all weigh the same: kd + entropy."""
  t = A['novel_t']
  s = jnp.concatenate([A['novel_s'][:, :4], jnp.full((len(t), 3), -jnp.inf)], 1)
  tau = 2.0
  r = jax.nn.softmax(t / tau)
  entropy = -tau**2 * jnp.sum(r * jnp.log(r), axis=-1)
  close(losses.class_relation(s, t, temperature=tau),
        losses.kd(s[:, :4], t, temperature=tau) + entropy, rtol=1e-4)


def test_squared_distances_of_rows_equal_up_to_rounding():
  x = np.array([[1, 2], [1 + 1.2e-7, 2], [1 + 1e-4, 2]], np.float32)
  square = np.asarray(core.squared_distances(x))
  assert square[0, 1] == square[1, 0] == 0
  close(square[0, 2], 1e-8, rtol=1e-2, atol=0)


def test_squared_distances():
  """Value and both derivatives, at a point far from the origin."""
  x = A['s'] + 100
  plain = lambda x: jnp.sum(jnp.square(x[:, None] - x[None]), axis=-1)
  close(core.squared_distances(x), plain(x))
  def derivatives(f):
    slope = jax.grad(lambda x: jnp.sum(jnp.sin(f(x))))
    return jax.jit(lambda x: (slope(x), jax.jvp(slope, (x,), (A['s'],))[1]))(x)
  for got, want in zip(*map(derivatives, (core.squared_distances, plain))):
    close(got, want, atol=1e-3)
