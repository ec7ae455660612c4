"""Losses on logits against PyTorch's numbers and the papers' own identities."""
import functools
import pathlib

import jax
from jax import numpy as jnp
from losses_cases import reference
import numpy as np
import pytest

from kt_jax import losses

GOLDEN = np.load(pathlib.Path(__file__).parent / 'golden/losses/response.npz')
S, T, W, YES, Y = (jnp.asarray(GOLDEN[name]) for name in (
    'student_logits', 'teacher_logits', 'student_weak_logits',
    'teacher_aspects', 'labels'))
K = S.shape[-1]
NAMES = [name for name in GOLDEN.files if f'{name}.grad' in GOLDEN.files]


def close(got, want, rtol=1e-5, atol=1e-6):
  np.testing.assert_allclose(got, want, rtol=rtol, atol=atol)


def call(name, s):
  """The loss that a stored name, such as 'dkd/3.0', stands for."""
  loss, *rest = name.split('/')
  fn = getattr(losses, loss)
  at = dict(temperature=float(rest[0])) if rest else {}
  match loss:
    case 'cwtm' | 'squared_error_logit' | 'dkd' | 'nkd':
      return fn(s, T, Y, **at)
    case 'uskd':
      return fn(s, W, Y)
    case 'multi_aspect':
      return fn(s, YES)
    case 'label_smoothing_kd':
      return fn(s, Y, **at)
    case 'jsd':
      return fn(s, T, beta=float(rest[1]), **at)
    case 'bd_kd':
      return fn(s, T, gate=rest[1], **at)
    case 'dist':
      return fn(s, T, gamma=1.0, **at)
    case 'logit_standardized_kd':
      # The deviation of the sample is that of the population, times this.
      tau, ratio = float(rest[0]), (K / (K - 1))**0.5
      return fn(s, T, temperature=tau * ratio) / ratio**2
  return fn(s, T, **at)


@pytest.mark.parametrize('name', NAMES)
def test_torch(name):
  want = GOLDEN[name]
  def total(s):
    value = call(name, s) if want.ndim else jnp.mean(call(name, s))
    return jnp.sum(value), value
  grad, value = jax.jit(jax.grad(total, has_aux=True))(S)
  close(value, want)
  close(grad, GOLDEN[f'{name}.grad'], rtol=1e-4, atol=1e-5)


def test_golden_has_versions():
  assert any(v.startswith('torch ') for v in GOLDEN['versions'])


def test_dkd_is_kd_when_the_rest_has_its_own_mass():
  """Zhao et al., Eq. 5: KD = TCKD + (1 - p_y) NCKD."""
  p = jax.nn.softmax(T / 4.0)[jnp.arange(len(Y)), Y]
  close(losses.dkd(S, T, Y, beta=0.0)
        + (1 - p) * losses.dkd(S, T, Y, alpha=0.0, beta=1.0),
        losses.kd(S, T), rtol=1e-4)


def test_dkd_of_a_sure_teacher_keeps_the_rest():
  """Where 1 - p_y rounds to 0, published sums of probabilities lose it."""
  sure = T + 200 * jax.nn.one_hot(Y, K)
  close(losses.dkd(S, sure, Y, alpha=0.0, temperature=1.0),
        losses.dkd(S, T, Y, alpha=0.0, temperature=1.0), rtol=1e-4)
  assert jnp.isfinite(losses.dkd(S, sure, Y)).all()


def test_jsd():
  close(losses.jsd(S, T, beta=0.3), losses.jsd(T, S, beta=0.7))
  assert (losses.jsd(S, T) <= np.log(2)).all()
  close(losses.jsd(100 * S, -100 * S), np.log(2), rtol=1e-4)
  for end, want in ((0, losses.kd), (1, losses.reverse_kl)):
    want = want(S, T, temperature=1.0)
    np.testing.assert_array_equal(losses.jsd(S, T, beta=end), want)
    near = losses.jsd(S, T, beta=abs(end - 1e-3))
    close(near / 1e-3, want, rtol=0.05)


def test_skew():
  for skewed, plain in ((losses.skew_kl, losses.kd),
                        (losses.skew_reverse_kl, losses.reverse_kl)):
    close(skewed(S, T, skew=0.0), plain(S, T, temperature=1.0))
    bounded = skewed(100 * S, T)
    assert (bounded <= -np.log(0.1) + 1e-5).all()
    assert (skewed(S, T) < plain(S, T, temperature=1.0)).all()


def test_pinsker():
  assert (2 * losses.total_variation(S, T)**2
          <= losses.kd(S, T, temperature=1.0)).all()


def test_label_smoothing_at_temperature_one():
  """Yuan et al.: label smoothing is distillation from a made-up teacher."""
  a = 0.9
  u = jnp.where(jax.nn.one_hot(Y, K) == 1, a, (1 - a) / (K - 1))
  close(losses.label_smoothing_kd(S, Y, temperature=1.0, correct_prob=a),
        losses.cross_entropy(S, Y, label_smoothing=K * (1 - a) / (K - 1))
        + jnp.sum(u * jnp.log(u), axis=-1))


def test_logit_standardized_kd_ignores_shift_and_scale():
  close(losses.logit_standardized_kd(3 * S + 5, 0.1 * T - 2),
        losses.logit_standardized_kd(S, T), rtol=1e-4)
  close(losses.logit_standardized_kd(S, 7 * S + 1), 0)


def test_the_gate_calibrates():
  """The forward term moves a student that is too sure faster towards its
  teacher's entropy, the reverse term one that is not sure enough."""
  def entropy(z):
    return -jnp.sum(jax.nn.softmax(z) * jax.nn.log_softmax(z), axis=-1)
  @functools.partial(jax.jit, static_argnames='gate')
  def speed(gate, z):
    """Change of the entropy when z descends the loss."""
    down = -jax.grad(lambda z: losses.bd_kd(z, T, gate=gate).sum())(z)
    return jnp.mean(jax.jvp(entropy, (z,), (down,))[1])
  assert speed('forward', 2 * T) > speed('reverse', 2 * T) > 0
  assert speed('reverse', 0.4 * T) < speed('forward', 0.4 * T) < 0
  for z, better in ((2 * T, 'forward'), (0.4 * T, 'reverse')):
    total = losses.bd_kd(z, T, gate='both') + losses.bd_kd(z, T, gate=better)
    close(losses.bd_kd(z, T), total)


@jax.jit
def permuted(key, t=T, index=None):
  """The target of dkpp: softmax of the student minus the gradient."""
  grad = jax.grad(lambda s: losses.dkpp(s, t, key, index).sum())(S)
  return jax.nn.softmax(S) - grad


def test_dkpp_permutes_all_but_the_top():
  p = np.asarray(jax.nn.softmax(T))
  drawn = np.asarray(jax.vmap(permuted)(jax.random.split(
      jax.random.key(0), 200)))
  close(np.sort(drawn), np.broadcast_to(np.sort(p), drawn.shape))
  top = p.argmax(-1)
  np.testing.assert_array_equal(drawn.argmax(-1), np.broadcast_to(
      top, drawn.shape[:2]))
  # Each class gets each of the others' values equally often.
  mean = drawn.mean(0)
  rest = (1 - p.max(-1, keepdims=True)) / (K - 1)
  error = np.where(np.arange(K) == top[:, None], 0, mean - rest)
  assert np.abs(error).max() < 5 * p.std(-1).max() / np.sqrt(len(drawn))


def test_dkpp_draws_by_example():
  key, order = jax.random.key(0), np.array([3, 0, 5, 1, 4, 2])
  same = jnp.broadcast_to(T[:1], T.shape)
  rows = np.asarray(permuted(key, same))
  assert len({tuple(row.round(5)) for row in rows}) > 1, 'rows of their own'
  close(permuted(key, same, jnp.asarray(order)), rows[order])
  np.testing.assert_array_equal(rows, permuted(key, same))


def test_dkpp_is_a_divergence_to_its_target():
  key = jax.random.key(1)
  close(losses.dkpp(S, T, key), losses.kd(S, jnp.log(permuted(key)),
                                          temperature=1.0), rtol=1e-4)


@pytest.mark.parametrize('loss', ['kd', 'reverse_kl', 'jsd', 'skew_kl',
                                  'skew_reverse_kl', 'bd_kd', 'dkd', 'nkd',
                                  'label_smoothing_kd',
                                  'logit_standardized_kd'])
def test_a_temperature_for_each_example(loss):
  fn, taus = getattr(losses, loss), np.linspace(1.0, 5.0, len(S))
  arrays = {'label_smoothing_kd': (S, Y), 'dkd': (S, T, Y), 'nkd': (S, T, Y)
            }.get(loss, (S, T))
  got = jax.jit(lambda *a: fn(*a[:-1], temperature=a[-1]))(*arrays, taus)
  close(got, reference.get(loss)(*map(np.asarray, arrays), temperature=taus),
        rtol=1e-4)


def test_dist_ignores_scale_and_shift():
  """Huang et al., Sec. 3: the correlation is 1 for m p + n, m > 0."""
  p, half = jax.nn.softmax(T), 1 / (2 * K)
  close(jnp.mean(losses.dist(jnp.log(0.5 * p + half), T)), 0, atol=1e-5)


def test_expected_reward_is_reinforce_over_all_answers():
  z, y = np.asarray(S, np.float64), np.asarray(Y)
  p = np.exp(z - z.max(-1, keepdims=True))
  p /= p.sum(-1, keepdims=True)
  close(losses.expected_reward(S, Y), -p[np.arange(len(y)), y])
  want = np.zeros_like(z)
  for a in range(K):  # the score of answer a is onehot(a) - p
    want -= (p[:, a] * (y == a))[:, None] * (np.eye(K)[a] - p)
  grad = jax.grad(lambda s: jnp.sum(losses.expected_reward(s, Y)))(S)
  close(grad, want)
