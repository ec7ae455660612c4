"""Losses on tokens against PyTorch's numbers and identities; their heads."""
import functools
import itertools
import pathlib
import re

from flax import nnx
import jax
from jax import numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest

from kt_jax import core
from kt_jax import losses
from kt_jax import modules
from kt_jax.losses.sequence._threshold import at_least

GOLDEN = np.load(pathlib.Path(__file__).parent / 'golden/losses/sequence.npz')
S, T, OTHER, Y, SAMPLED, WHERE = (jnp.asarray(GOLDEN[name]) for name in (
    'student_logits', 'teacher_logits', 'other_logits', 'labels',
    'sample_log_probs', 'where'))
V = S.shape[-1]
NAMES = [name for name in GOLDEN.files if f'{name}.grad' in GOLDEN.files]


def close(got, want, rtol=1e-5, atol=1e-6):
  np.testing.assert_allclose(got, want, rtol=rtol, atol=atol)


def call(name, s):
  loss, *rest = name.split('/')
  fn = getattr(losses, loss)
  match loss:
    case 'adaptive_kl':
      return fn(s, T, head=float(rest[0]))
    case 'taid':
      return fn(s, T, share=float(rest[0]))
    case 'top_kld':
      return fn(s, T, k=3, top=rest[0], corrected=rest[1] == 'True')
    case 'logit_swap':
      return fn(s, T, Y)
    case 'uld':
      return fn(s, OTHER)
    case 'self_evolution_kd':
      return fn(s, T, Y, WHERE, form=rest[0])
  if rest == ['sum']:
    return fn(s, T, Y, WHERE, SAMPLED, length_normalized=False, clip=jnp.inf)
  return fn(s, T, Y, WHERE, SAMPLED if rest else None)


@pytest.mark.parametrize('name', NAMES)
def test_torch(name):
  def total(s):
    value = call(name, s)
    return jnp.sum(value), value
  grad, value = jax.jit(jax.grad(total, has_aux=True))(S)
  close(value, GOLDEN[name])
  close(grad, GOLDEN[f'{name}.grad'], rtol=1e-4, atol=1e-5)


def test_golden_has_versions():
  assert any(v.startswith('torch ') for v in GOLDEN['versions'])


def test_the_largest_without_a_sort():
  r = np.random.default_rng(0)
  x = r.normal(size=(5, 40)).astype(np.float32) * 10.0**r.integers(-30, 30, 40)
  x[:, 3:5] = np.array([-np.inf, -0.0])
  for k in (1, 7, 40):
    least = np.sort(x, -1)[:, -k:][:, :1]
    top, above = at_least(jnp.asarray(x), lambda m: jnp.sum(m, -1) >= k)
    np.testing.assert_array_equal(top, x >= least)
    np.testing.assert_array_equal(above, x > least)


def test_taid_starts_with_nothing_and_ends_as_kd():
  def both(share, t):
    value = losses.taid(S, t, share=share)
    return value, jax.grad(lambda s: losses.taid(s, t, share=share).sum())(S)
  traced = jax.jit(both)
  close(traced(1.0, T)[0], losses.kd(S, T, temperature=1.0))
  close(traced(0.0, T)[1], 0)
  # Early on it is kd times t: the control is a warm-up of its weight.
  kd = jax.grad(lambda s: losses.kd(s, S + 1e-2 * T, temperature=1.0).sum())(S)
  close(traced(1e-2, S + T)[1], kd, rtol=1e-3)
  masked = T.at[..., 0].set(-jnp.inf)
  assert jnp.isfinite(traced(1.0, masked)[0]).all()


@pytest.mark.parametrize('top', ['reverse', 'forward'])
def test_top_kld_is_a_divergence_where_corrected(top):
  p = jnp.asarray(np.random.default_rng(1).normal(size=(40, V)), jnp.float32)
  in_top = p >= jnp.sort(p)[:, -3:][:, :1]
  way = -1 if top == 'reverse' else 1
  @jax.jit
  def run(q):
    fn = lambda q, corrected: losses.top_kld(q, p, k=3, top=top,
                                             corrected=corrected)
    return fn(q, True), fn(q, False), jax.grad(lambda q: fn(q, False).sum())(q)
  value, partial, _ = run(p + way * in_top)
  assert (value > 0).all() and (partial < 0).all()
  # At equality mass leaves the top down the gradient, or enters it.
  value, partial, grad = run(p)
  close(value, 0)
  close(partial, 0)
  assert (way * jnp.sum(grad, -1, where=in_top) < 0).all()


def test_uld_ignores_order_and_masked_words():
  fn = jax.jit(losses.uld)
  close(fn(S, S[..., ::-1]), 0)
  more = jnp.pad(S, ((0, 0), (0, 0), (0, 3)), constant_values=-jnp.inf)
  close(fn(S, more), 0)
  close(fn(more, T), fn(S, T))


def test_what_is_hard():
  plain = losses.kd(S, T, temperature=1.0)
  @functools.partial(jax.jit, static_argnames=('share', 'choice'))
  def call(share, where, key, choice):
    z = S if where is None else jnp.where(where[..., None], S, jnp.nan)
    return losses.self_evolution_kd(z, T, Y, where, key, hard=share,
                                    choice=choice)
  def hard(share, where=None, key=None, choice='difficulty'):
    return np.abs(call(share, where, key, choice) - plain) > 1e-5
  for share in (0.0, 0.25, 1.0):
    assert hard(share).sum() == share * Y.size
    count = (hard(share, WHERE) & WHERE).sum()
    assert count == np.round(share * WHERE.sum())
  key = lambda i: dict(choice='random', key=jax.random.key(i))
  drawn = np.stack([hard(0.5, **key(i)) for i in range(40)])
  assert (drawn.sum((1, 2)) == Y.size / 2).all()
  assert (np.abs(drawn.mean(0) - 0.5) < 0.35).all()
  np.testing.assert_array_equal(hard(0.5, key=jax.random.key(0)), hard(0.5))


def test_minillm_has_the_gradient_of_the_sequences():
  """All 27 sequences of 3 tokens: the expected gradient is exact."""
  r = np.random.default_rng(2)
  n, v = 3, 3
  ids = jnp.asarray(list(itertools.product(range(v), repeat=n)))
  prefix = jnp.stack([sum(ids[:, j] * v**j for j in range(i))
                      + jnp.zeros(len(ids), int) for i in range(n)], -1)
  theta, teacher = (jnp.asarray(r.normal(size=(n, v**n, v)), jnp.float32)
                    for _ in range(2))
  at = lambda table: table[jnp.arange(n), prefix]  # [27, 3, V]
  def log_prob(table):
    each = jax.nn.log_softmax(at(table))
    return jnp.take_along_axis(each, ids[..., None], -1).sum((-2, -1))
  def exact(theta):
    log_q = log_prob(theta)
    return jnp.sum(jnp.exp(log_q) * (log_q - log_prob(teacher)))
  q = jnp.exp(log_prob(theta))
  def surrogate(theta):
    values = losses.minillm(at(theta), at(teacher), ids,
                            length_normalized=False)
    return jnp.sum(q * values.sum(-1))
  got, want = jax.jit(lambda x: (jax.grad(surrogate)(x), jax.grad(exact)(x)))(
      theta)
  close(got, want, atol=1e-6)


# linear_head


B, L, W, W2, C = 3, 7, 6, 5, 11
r = np.random.default_rng(3)
normal = lambda *shape: jnp.asarray(r.normal(size=shape), jnp.float32)
H, HEAD, H2, HEAD2 = normal(B, L, W), normal(W, C), normal(B, L, W2), normal(
    W2, C)
IDS = jnp.asarray(r.integers(0, C - 2, (B, L)))
VALID, WEIGHT = jnp.asarray(r.random((B, L)) < 0.6), normal(B, L)**2
FREE = {'cross_entropy': {}, 'jsd': {'beta': 0.3, 'temperature': 2.0},
        'logit_swap': {}, 'top_kld': {'k': 3}, 'total_variation': {}}


def plain(fn, h, head, h2=H2, head2=HEAD2, where=VALID, weight=WEIGHT, *,
          caps=(0.0, 0.0), vocabulary=None, **settings):
  """linear_head of all tokens at once."""
  def logits(h, head, cap):
    z = jnp.matmul(h, head, preferred_element_type=jnp.float32)
    return (cap * jnp.tanh(z / cap) if cap else z)[..., :vocabulary]
  pool = dict(student_logits=logits(h, head, caps[0]),
              teacher_logits=logits(h2, head2, caps[1]), labels=IDS)
  return core.masked_sum(weight * core.bind(fn, pool, **settings), where)


def both(fn):
  """`hidden, head -> mean, its gradients by both`."""
  def mean(*args):
    total, count = fn(*args)
    return total / count
  return jax.jit(jax.value_and_grad(mean, (0, 1)))


@pytest.mark.parametrize('loss', FREE)
def test_linear_head_is_the_loss_on_logits(loss):
  fn, settings = getattr(losses, loss), FREE[loss]
  spoiled = lambda x: jnp.where(VALID[..., None], x, jnp.nan)
  weight = None if loss == 'cross_entropy' else WEIGHT
  got = both(lambda h, head: losses.linear_head(
      fn, h, head, spoiled(H2), HEAD2, jnp.where(VALID, IDS, -1), VALID, weight,
      chunk=8, block=3, student_softcap=2.0, teacher_softcap=3.0, **settings))
  want = both(lambda h, head: plain(
      fn, h, head, weight=1.0 if weight is None else weight, caps=(2.0, 3.0),
      **settings))
  got, want = jax.jit(lambda h, bad, head: (got(bad, head), want(h, head)))(
      H, spoiled(H), HEAD)
  jax.tree.map(lambda g, w: close(g, w, 1e-4, 1e-6), got, want)


@pytest.mark.parametrize('other,vocabulary', [(C, C - 2), (C + 4, None)])
def test_linear_head_of_padded_and_tied_vocabularies(other, vocabulary):
  """Columns that are no tokens, as many in both or not; heads `[V, W]`."""
  wide, fn = normal(W2, other), losses.kd
  def run(h, head):
    want = both(lambda h, head: plain(
        fn, h, head, head2=wide[:, :C], vocabulary=vocabulary))(h, head)
    for tied in (False, True):
      turn = (lambda x: x.T) if tied else (lambda x: x)
      value, (dh, dhead) = both(lambda h, head: losses.linear_head(
          fn, h, head, H2, turn(wide), None, VALID, WEIGHT, chunk=5, block=9,
          transposed=tied, vocabulary=vocabulary))(h, turn(head))
      yield (value, (dh, turn(dhead))), want
  for got, want in jax.jit(lambda *a: list(run(*a)))(H, HEAD):
    jax.tree.map(lambda g, w: close(g, w, 1e-4, 1e-6), got, want)


def test_linear_head_without_gradient_and_in_bfloat16():
  total, count = losses.linear_head(losses.kd, H, HEAD, H2, HEAD2, chunk=4)
  want, _ = plain(losses.kd, H, HEAD, where=None, weight=1.0)
  close(total, want, 1e-5)
  assert count == B * L and total.dtype == jnp.float32
  half = [x.astype(jnp.bfloat16) for x in (H, HEAD, H2, HEAD2)]
  def of(fn):
    return both(lambda h, head: fn(losses.kd, h, head, *half[2:]))(*half[:2])
  got, want = of(lambda *a: losses.linear_head(*a, chunk=4)), of(
      lambda *a: plain(*a, where=None, weight=1.0))
  assert got[0].dtype == jnp.float32 and got[1][0].dtype == jnp.bfloat16
  close(got[0], want[0])
  for g, w in zip(got[1], want[1]):
    close(np.float32(g), np.float32(w), 0.03, 0.01 * np.abs(w).max())


def test_linear_head_settings_may_be_traced_and_get_no_gradient():
  def total(share, h2, head2):
    return losses.linear_head(losses.taid, H, HEAD, h2, head2, chunk=8,
                              share=share)[0]
  value, grads = jax.jit(jax.value_and_grad(total, (0, 1, 2)))(0.7, H2, HEAD2)
  close(value, plain(losses.taid, H, HEAD, where=None, weight=1.0,
                     share=0.7)[0])
  for g in grads:
    np.testing.assert_array_equal(g, 0)


def test_linear_head_stays_sharded():
  """Tokens over 'data', vocabulary over 'model'; V-sized arrays do not move."""
  if jax.device_count() < 8:
    pytest.skip('eight devices: XLA_FLAGS simulates them in conftest')
  mesh = jax.make_mesh((4, 2), ('data', 'model'), axis_types=(
      jax.sharding.AxisType.Auto,) * 2)
  n, v = 8, 6 * 16
  arrays = [normal(n, L + 1, W), normal(W, v), normal(n, L + 1, W2),
            normal(W2, v)]
  ids = jnp.arange(n * (L + 1)).reshape(n, L + 1)
  def total(h, head, h2, head2, ids):
    return losses.linear_head(losses.logit_swap, h, head, h2, head2, ids,
                              chunk=32, block=16, vocabulary=v - 3)
  columns = P(None, 'model')
  specs = (P('data'), columns, P('data'), columns, P('data'))
  placed = [jax.device_put(x, NamedSharding(mesh, s))
            for x, s in zip((*arrays, ids), specs)]
  compiled = both(total).lower(*placed).compile()
  got, want = compiled(*placed), both(total)(*arrays, ids)
  jax.tree.map(lambda g, w: close(g, w, 1e-4, 1e-6), got, want)
  assert got[1][1].sharding.is_equivalent_to(placed[1].sharding, 2)
  text = compiled.as_text()
  moved = re.findall(r'= \S+\[([\d,]*)\]\S* (?:all-gather|all-to-all)\(', text)
  assert not [dims for dims in moved
              if {str(v), str(v // 2)} & set(dims.split(','))]


ones = np.ones((4, 2), np.float32)


@pytest.mark.parametrize('kw,message', [
    (dict(fn=losses.dist), 'linear_head: dist reads .*where'),
    (dict(fn=losses.dkpp), 'linear_head: dkpp reads .*key'),
    (dict(fn=losses.uld), 'uld sorts'),
    (dict(fn=losses.nst), 'nst reads'),
    (dict(teacher_head=None), 'teacher_hidden and teacher_head are needed'),
    (dict(fn=losses.logit_swap), 'labels, which are needed'),
    (dict(student_head=jnp.ones((3, 5))), r'student_head \(3, 5\)'),
    (dict(teacher_hidden=ones[:3]), r'teacher_hidden has shape \(3, 2\)'),
    (dict(where=ones[:3, 0]), r'where has shape \(3,\).*\(4,\)'),
    (dict(vocabulary=6), 'vocabulary must be from 1 to 5, got 6'),
    (dict(chunk=0), 'chunk must be > 0, got 0'),
    (dict(temperature=jnp.ones(4)), r'temperature must be a scalar.*\(4,\)'),
    (dict(temprature=2.0), "Did you mean 'temperature'")])
def test_linear_head_bad_input(kw, message):
  valid = dict(fn=losses.kd, student_hidden=ones, teacher_hidden=ones,
               student_head=np.ones((2, 5), np.float32),
               teacher_head=np.ones((2, 5), np.float32))
  with pytest.raises(ValueError, match=message):
    losses.linear_head(**valid | kw)


# TaidSchedule


def shares(values, **kw):
  module = modules.TaidSchedule(rngs=nnx.Rngs(0), **kw)
  graph, state = nnx.split(module)
  @jax.jit
  def step(state, loss):
    m = nnx.merge(graph, state, copy=True)
    before = m()['share']
    m.update(loss)
    assert m.share[...].shape == ()
    return nnx.state(m), before
  out = []
  for loss in values:
    state, before = step(state, loss)
    out.append(float(before))
  return out


def test_taid_schedule_is_the_recurrence():
  n, steps, start, end, alpha, beta = 60, 50, 0.3, 0.95, 0.2, 0.9
  values = np.random.default_rng(0).uniform(0.5, 2, n)
  want, t, m, last = [], start, 0.0, None
  for i, loss in enumerate(values):
    want.append(t)
    if last is not None:
      m = beta * m + (1 - beta) * (last - loss) / (last + 1e-15)
      t = min(end, max(start + (end - start) * i / steps,
                       t + alpha / (1 + np.exp(-m)) * (1 - t)))
    last = loss
  kw = dict(steps=steps, start=start, end=end, alpha=alpha, beta=beta)
  got = shares(values, **kw)
  close(got, want, 1e-5)
  assert (np.diff(got) >= 0).all() and got[-1] == pytest.approx(end)
  floor = np.minimum(end, start + (end - start) * (np.arange(n) - 1) / steps)
  assert (np.array(got)[1:] >= floor[1:] - 1e-6).all()
  close(shares(values, adaptive=False, **kw)[1:], floor[1:], 1e-5)
  close(shares(values[:5], start=0.4, end=0.4, adaptive=False), 0.4)


def test_taid_schedule_survives_a_loss_that_is_not_a_number():
  kw = dict(steps=1000, alpha=0.1)
  got = shares([1.0, 0.9, np.nan, 0.8, 0.7], **kw)
  assert np.isfinite(got).all() and (np.diff(got) >= 0).all()


@pytest.mark.parametrize('kw,message', [
    (dict(steps=0), 'steps must be > 0'),
    (dict(start=1.5), 'start must be in'),
    (dict(start=0.5, end=0.4), 'end must be from start, 0.5, to 1, got 0.4'),
    (dict(beta=1.0), 'beta in'), (dict(alpha=-1.0), 'alpha must be >= 0')])
def test_taid_schedule_bad_input(kw, message):
  with pytest.raises(ValueError, match=message):
    modules.TaidSchedule(**kw)
