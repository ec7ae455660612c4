"""Generation: the cache changes nothing; draws are from what is said."""
import functools

from decoder_test import CONTEXT
from decoder_test import filled
from decoder_test import ids
from decoder_test import KINDS
from decoder_test import made
import jax
from jax import numpy as jnp
import numpy as np
import pytest

from kt_jax import core
from kt_jax import models

P, R = 7, 6


def member(kind):
  return models.DecodeModel(*made(kind), {})


def small():
  """One block: compiles fast."""
  return models.DecodeModel(*filled(depth=1, width=16, heads=2), {})


def logits_of(kind, tokens, where):
  net, params = made(kind)
  return _logits(net, params, tokens, where)


@functools.partial(jax.jit, static_argnums=0)
def _logits(net, params, tokens, where):
  return models.call(net, params, {}, lambda m: m(
      tokens, where.astype(jnp.int32)))[0]


def padded():
  where = np.ones((3, P), bool)
  where[1, :2] = where[2, :5] = False
  return ids(3, P), where


@pytest.mark.parametrize('kind', KINDS)
def test_the_cache_equals_the_whole(kind):
  """Greedy tokens, and the logits of each step, of three paddings."""
  prompts, where = padded()

  def choose(logits, key):
    del key
    return jnp.argmax(logits[0], -1).astype(jnp.int32), dict(z=logits[0])
  run = jax.jit(lambda t, w: models.generate(
      member(kind), t, steps=R, where=w, choose=choose))
  found = run(prompts, where)
  rows = np.concatenate([prompts, found.tokens], 1)
  seen = np.concatenate([where, found.where], 1)
  want = logits_of(kind, rows, seen)[:, P - 1:-1]
  np.testing.assert_allclose(found.info['z'], want, rtol=0, atol=5e-5)
  np.testing.assert_array_equal(found.tokens, want.argmax(-1))
  assert found.where.all() and found.tokens.dtype == jnp.int32


def test_extending_in_pieces_equals_the_whole():
  net, params = made('rotary')
  tokens = ids(2, 12)
  at = np.broadcast_to(np.arange(12, dtype=np.int32), tokens.shape)

  def pieces(m):
    cache, found = m.empty_cache(2, 14), []
    for a, b in ((0, 5), (5, 6), (6, 12)):
      x, cache = m.extend(tokens[:, a:b], at[:, a:b], cache)
      found.append(x)
    return jnp.concatenate(found, 1), m.hidden(tokens), cache.length
  got, want, length = jax.jit(
      lambda p: models.call(net, p, {}, pieces)[0])(params)
  np.testing.assert_allclose(got, want, rtol=0, atol=5e-5)
  assert length == 12


def test_padding_changes_no_draw():
  """The same prompts in a wider row: the same tokens, sampled."""
  prompts = ids(2, 4)
  wide = np.concatenate([ids(2, 3, seed=5), prompts], 1)
  choose = models.sampler(temperature=0.8, top_k=9, top_p=0.9)
  run = functools.partial(models.generate, small(), steps=R,
                          key=jax.random.key(3), choose=choose)
  a = jax.jit(run)(prompts)
  b = jax.jit(lambda t, w: run(t, where=w))(
      wide, np.arange(7) >= np.array([[3], [3]]))
  np.testing.assert_array_equal(a.tokens, b.tokens)


def test_it_ends_at_the_stop_token():
  prompts, where = padded()
  run = jax.jit(lambda stop: models.generate(
      small(), prompts, steps=R, where=where, stop=stop, pad=30))
  free = np.asarray(run(-1).tokens)
  stop = int(free[0, 2])
  found = run(stop)
  for row, kept in enumerate(found.where):
    hits = np.flatnonzero(free[row] == stop)
    length = hits[0] + 1 if hits.size else R
    assert kept.sum() == length and kept[:length].all()
    np.testing.assert_array_equal(found.tokens[row, :length],
                                  free[row, :length])
    assert (found.tokens[row, length:] == 30).all()
  assert not found.where.all()
  all_end = run(int(free[0, 0]))
  assert all_end.where[0].sum() == 1
  assert run._cache_size() == 1


def test_two_members_and_a_choice_of_ones_own():
  """Greedy on the sum of two models' logits, each with its own cache."""
  prompts, where = padded()

  def choose(logits, key):
    del key
    z = logits[0] + 0.5 * logits[1]
    token = jnp.argmax(z, -1).astype(jnp.int32)
    return token, dict(differs=token != jnp.argmax(logits[0], -1))
  members = [member('capped'), member('rotary')]
  found = jax.jit(lambda: models.generate(
      members, prompts, steps=R, where=where, choose=choose))()
  rows = np.concatenate([prompts, found.tokens], 1)
  seen = np.concatenate([where, found.where], 1)
  z = [logits_of(kind, rows, seen)[:, P - 1:-1]
       for kind in ('capped', 'rotary')]
  np.testing.assert_array_equal(found.tokens, (z[0] + 0.5 * z[1]).argmax(-1))
  np.testing.assert_array_equal(
      found.info['differs'], found.tokens != z[0].argmax(-1))
  assert found.info['differs'].any()


def test_prompts_longer_than_the_context_are_refused():
  run = lambda steps: models.generate(
      member('rotary'), ids(1, 20), steps=steps)
  with pytest.raises(core.UserError, match=f'25 positions.*has {CONTEXT}'):
    run(5)
  jax.eval_shape(lambda: run(4))


def test_likeliest_of_known_logits():
  p = np.array([0.05, 0.4, 0.15, 0.3, 0.1], np.float32)
  kept = lambda **kw: set(np.flatnonzero(np.isfinite(
      models.filter_top_k_top_p(jnp.log(p), **kw))))
  assert kept() == {0, 1, 2, 3, 4}
  assert kept(top_k=2) == {1, 3} and kept(top_k=9) == {0, 1, 2, 3, 4}
  assert kept(top_p=0.4) == {1} and kept(top_p=0.41) == {1, 3}
  assert kept(top_p=0.86) == {1, 2, 3, 4}
  # The share counts within what top_k left: 0.4 of 0.7.
  assert kept(top_k=2, top_p=0.5) == {1} and kept(top_k=2, top_p=0.6) == {1, 3}
  both = models.filter_top_k_top_p(jnp.log(np.stack([p, p[::-1]])), top_k=1)
  np.testing.assert_array_equal(np.isfinite(both).argmax(1), [1, 3])
  tie = models.filter_top_k_top_p(jnp.zeros(4), top_k=2)
  assert np.isfinite(tie).all()


def test_draws_have_the_distribution():
  p = np.array([0.05, 0.4, 0.15, 0.3, 0.1])
  z = jnp.broadcast_to(jnp.log(jnp.asarray(p, jnp.float32)), (40000, 5))
  for kw, want in (
      (dict(temperature=1.0), p),
      (dict(temperature=0.5), p ** 2),
      (dict(temperature=2.0, top_k=3), np.where(p > 0.1, p ** 0.5, 0)),
      (dict(top_p=0.65), np.where(p > 0.2, p, 0))):
    got = np.bincount(jax.jit(functools.partial(models.sample_token, **kw))(
        z, jax.random.key(0)), minlength=5) / len(z)
    want = want / want.sum()
    assert np.abs(got - want).max() < 5 * np.sqrt(0.25 / len(z))
    assert (got[want == 0] == 0).all()
  greedy = models.sample_token(z[:3], jax.random.key(0), temperature=0)
  assert (greedy == 1).all()


@pytest.mark.parametrize('kw', [dict(temperature=-1), dict(top_k=-1),
                                dict(top_p=0), dict(top_p=1.1)])
def test_sampler_refuses(kw):
  with pytest.raises(core.UserError, match='temperature and top_k'):
    models.sampler(**kw)


def test_bfloat16_weights_keep_a_bfloat16_cache():
  net, params = made('rotary')
  half = {k: v.astype(jnp.bfloat16) for k, v in params.items()}
  cache = models.call(net, half, {}, lambda m: m.empty_cache(1, 8))[0]
  assert cache.keys[0].dtype == jnp.bfloat16
  hidden = lambda: models.call(net, half, {}, lambda m: m.hidden(ids(1, 4)))[0]
  assert jax.eval_shape(hidden).dtype == jnp.bfloat16
