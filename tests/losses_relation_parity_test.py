"""Relation losses against PyTorch's numbers, and against theorems."""
import pathlib

import jax
from jax import numpy as jnp
from jax import test_util
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
  moving = [n.rsplit('.', 1)[1] for n in GOLDEN.files
            if n.startswith(f'{name}.grad.')]
  assert moving
  want = GOLDEN[name]
  def total(of):
    out = call(name, A | of)
    value = jnp.mean(out) if want.ndim == 0 else out
    return jnp.sum(value), value
  grads, value = jax.jit(jax.grad(total, has_aux=True))(
      {n: A[n] for n in moving})
  np.testing.assert_allclose(value, want, rtol=1e-5, atol=1e-7)
  for n in moving:
    wanted = GOLDEN[f'{name}.grad.{n}']
    np.testing.assert_allclose(grads[n], wanted, rtol=1e-4,
                               atol=1e-4 * np.abs(wanted).max())


def test_golden_says_what_made_it():
  assert any(v.startswith('torch ') for v in GOLDEN['versions'])
  relation = {n for n in vars(losses) if 'relation.' in getattr(
      getattr(losses, n), '__module__', '')}
  assert {n.split('/')[0] for n in NAMES} == relation


def orthogonal(width, seed=0):
  q, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(width, width)))
  return jnp.asarray(q, jnp.float32)


def close(got, want, atol=1e-5, rtol=1e-5):
  np.testing.assert_allclose(got, want, rtol=rtol, atol=atol)


@pytest.mark.parametrize('name', ['rkd_distance', 'rkd_angle', 'cka'])
def test_geometry_only(name):
  """Turned, moved and scaled embeddings are the same to them."""
  loss = getattr(losses, name)
  s, t = A['s'], A['t']
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
    close(loss(2 * s, s), 0 * s[:, 0])
    # However the features came about, compiled together with the loss.
    made = lambda s: loss(s / jnp.max(jnp.abs(s)) * 1.7 + 0.3, A['t'])
    close(jax.jit(made)(s), made(s))


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


def test_cka_of_parts():
  """The mean of the shares is 1 - <K, L> / |K| |L| by features."""
  s, t = (np.asarray(A[n], np.float64) - A[n].mean(0) for n in 'st')
  norm = lambda x, y: np.linalg.norm(x.T @ y)
  close(losses.cka(A['s'], A['t']).mean(),
        1 - norm(s, t)**2 / (norm(s, s) * norm(t, t)))


def test_cka_of_independent_layers():
  """Of many channels on few examples: biased says alike, debiased not."""
  r = np.random.default_rng(0)
  s, t = (jnp.asarray(r.normal(size=(32, 2000)), jnp.float32)
          for _ in range(2))
  assert losses.cka(s, t).mean() < 0.1
  close(losses.cka(s, t, debiased=True).mean(), 1, atol=0.1)


def test_cka_constant_layer():
  constant = jnp.full_like(A['t'], 0.1)
  for debiased in (False, True):
    fn = lambda s, t: losses.cka(s, t, debiased=debiased)
    for call_ in (fn, jax.jit(fn)):
      close(call_(A['s'], constant).mean(), 1)
      close(call_(constant, constant).mean(), 1)


def test_inter_layer_relation_ignores_scale_and_shift():
  """Of each channel, as Pearson's correlation does."""
  s = [A[n] for n in MAPS]
  moved = [x * jnp.arange(1, x.shape[-1] + 1) + 3 for x in s]
  close(losses.inter_layer_relation(moved, s, eps=0.0), jnp.zeros(3))
  assert (losses.inter_layer_relation(s, [-x for x in s][:1] + s[1:]) > 1).all()


def test_ickd_ignores_scale_and_order_of_positions():
  s = A['map1_s']
  other = 5 * s.reshape(3, 16, 5)[:, ::-1]
  close(losses.ickd(s, other.reshape(3, 4, 4, 5)), jnp.zeros(3))


def test_info_nce_bounds():
  """log B if all embeddings agree; 0 is approached by what stands apart."""
  b = 8
  same = jnp.ones((b, 5))
  close(losses.info_nce(same, same), jnp.full(b, np.log(b)))
  close(losses.info_nce(jnp.eye(b), jnp.eye(b), temperature=0.02),
        jnp.zeros(b))
  where = jnp.arange(b) < 5
  close(losses.info_nce(same, same, where)[:5], jnp.full(5, np.log(5)))


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
  value, grad = jax.value_and_grad(fn)(e)
  assert jnp.isfinite(value) and jnp.isfinite(grad).all()
  assert value > 1000


def test_pkt_is_symmetric_under_scale():
  close(losses.pkt(A['s'], A['t']), losses.pkt(3 * A['s'], A['t']))


def test_partial_ranking_reads_order_only():
  s, t = A['score_s'], A['score_t']
  close(losses.partial_ranking(s, t), losses.partial_ranking(s, jnp.exp(3 * t)))
  assert losses.partial_ranking(s, s).mean() < (
      losses.partial_ranking(s, -s).mean())


def test_partial_ranking_takes_out():
  """A score of -inf in either is as if the candidate were not there."""
  s, t = A['score_s'], A['score_t']
  fewer = losses.partial_ranking(s[:, :-2], t[:, :-2])
  close(losses.partial_ranking(s.at[:, -2:].set(-jnp.inf), t), fewer)
  close(losses.partial_ranking(s, t.at[:, -2:].set(-jnp.inf)), fewer)
  none = jnp.full_like(s, -jnp.inf)
  close(losses.partial_ranking(none, t), jnp.zeros(len(s)))
  assert jnp.isfinite(jax.grad(
      lambda s: losses.partial_ranking(s, none).sum())(s)).all()


def test_class_relation_detach():
  """The value stays, the pull through the weight goes."""
  s, t = A['novel_s'], A['novel_t']
  both = [lambda s, d=d: losses.class_relation(s, t, detach=d).mean()
          for d in (False, True)]
  close(both[0](s), both[1](s))
  novel = [jax.grad(fn)(s)[:, t.shape[1]:] for fn in both]
  assert jnp.abs(novel[0]).max() > 1e-3
  close(novel[1], 0 * novel[1])


def test_class_relation_without_novelty():
  """If no sample resembles a novel class all weigh the same: kd + entropy."""
  t = A['novel_t']
  s = jnp.concatenate([A['novel_s'][:, :4], jnp.full((len(t), 3), -jnp.inf)], 1)
  tau = 2.0
  r = jax.nn.softmax(t / tau)
  entropy = -tau**2 * jnp.sum(r * jnp.log(r), axis=-1)
  close(losses.class_relation(s, t, temperature=tau),
        losses.kd(s[:, :4], t, temperature=tau) + entropy, rtol=1e-4)


def test_token_graph_parts_add_up():
  s, t = A['tokens_s'], A['tokens_t']
  weights = dict(local_weight=2.0, global_weight=0.5, inner_weight=3.0)
  close(losses.token_graph(s, t, **weights), sum(
      losses.token_graph(s, t, **dict.fromkeys(weights, 0.0) | {name: weight})
      for name, weight in weights.items()))


def test_token_graph_draw():
  """All tokens drawn is no draw, in any order; fewer change with the key."""
  s, t = A['tokens_s'], A['tokens_t']
  fn = lambda tokens, seed: losses.token_graph(
      s, t, key=jax.random.key(seed), tokens=tokens, neighbors=3)
  close(fn(4, 0), losses.token_graph(s, t, neighbors=3))
  close(fn(2, 0), fn(2, 0))
  assert jnp.abs(fn(2, 0) - fn(2, 1)).max() > 1e-3


def test_token_graph_embeddings_are_of_the_global_part():
  s, t = A['tokens_s'], A['tokens_t']
  wide = jnp.concatenate([t, t], axis=-1)
  got = losses.token_graph(s, wide, s, t, inner_weight=0, local_weight=0)
  close(got, losses.token_graph(s, t, inner_weight=0, local_weight=0))


def test_squared_distances():
  """Value and both derivatives, at a point far from the origin."""
  x = A['s'] + 100
  plain = lambda x: jnp.sum(jnp.square(x[:, None] - x[None]), axis=-1)
  close(core.squared_distances(x), plain(x))
  close(*[jax.grad(lambda x: jnp.sum(jnp.sin(f(x))))(x)
          for f in (core.squared_distances, plain)], atol=1e-4)
  test_util.check_grads(core.squared_distances, (A['s'],), order=2,
                        modes=('fwd', 'rev'), atol=0.05, rtol=0.05)
