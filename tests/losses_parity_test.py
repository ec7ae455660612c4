"""Losses against PyTorch's numbers, and against the papers' identities."""
import pathlib

import jax
from jax import numpy as jnp
import numpy as np
import optax
import pytest

from kt_jax import losses

GOLDEN = np.load(pathlib.Path(__file__).parent / 'golden/losses/losses.npz')
S, INIT, TEACHERS, Y, SOFT = (jnp.asarray(GOLDEN[name]) for name in (
    'student_logits', 'initial_logits', 'teacher_logits', 'labels',
    'soft_labels'))
TEACHER = TEACHERS[0]
NAMES = [name for name in GOLDEN.files
         if '/' in name and not name.endswith('.grad')]


def call(name, s):
  """The loss that a stored name, such as 'kd/4.0', stands for."""
  match name.split('/'):
    case 'cross_entropy', how, a:
      return losses.cross_entropy(s, Y if how == 'hard' else SOFT,
                                  label_smoothing=float(a))
    case 'kd', tau:
      return losses.kd(s, TEACHER, temperature=float(tau))
    case 'partitioned_kd', count, how, tau:
      supervised = how == 'supervised'
      return losses.partitioned_kd(
          s, TEACHERS[:int(count)], INIT, Y if supervised else None,
          temperature=float(tau), supervised=supervised)
  raise AssertionError(name)


@pytest.mark.parametrize('name', NAMES)
def test_torch(name):
  def total(s):
    value = call(name, s)
    return jnp.sum(value), value
  grad, value = jax.jit(jax.grad(total, has_aux=True))(S)
  np.testing.assert_allclose(value, GOLDEN[name], rtol=1e-5, atol=1e-5)
  np.testing.assert_allclose(grad, GOLDEN[f'{name}.grad'],
                             rtol=1e-4, atol=1e-4)


def test_golden_has_versions():
  assert any(v.startswith('torch ') for v in GOLDEN['versions'])
  assert {name.split('/')[0] for name in NAMES} == {
      'cross_entropy', 'kd', 'partitioned_kd'}


def test_cross_entropy_is_optax():
  close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
  close(losses.cross_entropy(S, Y),
        optax.losses.softmax_cross_entropy_with_integer_labels(S, Y))
  close(losses.cross_entropy(S, SOFT),
        optax.losses.softmax_cross_entropy(S, SOFT))
  one_hot = jax.nn.one_hot(Y, S.shape[-1])
  close(losses.cross_entropy(S, Y), losses.cross_entropy(S, one_hot))
  close(losses.cross_entropy(S, Y, label_smoothing=0.1),
        losses.cross_entropy(S, optax.smooth_labels(one_hot, 0.1)))


def test_cross_entropy_in_parts():
  """Linear in the labels, as mixup needs it."""
  a, b = jax.nn.one_hot(Y, S.shape[-1]), jax.nn.one_hot(Y[::-1], S.shape[-1])
  np.testing.assert_allclose(
      losses.cross_entropy(S, 0.3 * a + 0.7 * b),
      0.3 * losses.cross_entropy(S, Y) + 0.7 * losses.cross_entropy(S, Y[::-1]),
      rtol=1e-5)


def test_kd_keeps_the_size_of_gradients():
  """Hinton et al., Sec. 2.1: at high tau the gradient of tau^2 KL tends to
  that of logit matching, (z_s - z_t) / K for centered logits."""
  s, t = (z - z.mean(-1, keepdims=True) for z in (S, TEACHER))
  grad = jax.grad(lambda s: losses.kd(s, t, temperature=1000.0).sum())(s)
  np.testing.assert_allclose(grad, (s - t) / S.shape[-1], atol=2e-2)


def test_kd_traced_temperature():
  fn = jax.jit(lambda tau: losses.kd(S, TEACHER, temperature=tau))
  np.testing.assert_allclose(fn(2.0), losses.kd(S, TEACHER, temperature=2.0),
                             rtol=1e-5, atol=1e-6)
  with pytest.raises(ValueError, match='temperature'):
    losses.kd(S, TEACHER, temperature=0.0)


def test_kd_only_student_masks():
  """A class that only the student masks costs infinity."""
  masked = S.at[:, 0].set(-jnp.inf)
  assert jnp.isinf(losses.kd(masked, TEACHER)).all()
  assert jnp.isfinite(losses.kd(S, TEACHER.at[:, 0].set(-jnp.inf))).all()


@pytest.mark.parametrize('supervised', [True, False])
def test_one_stacked_teacher_is_one_teacher(supervised):
  args = dict(labels=Y, supervised=supervised)
  np.testing.assert_array_equal(
      losses.partitioned_kd(S, TEACHER[None], INIT, **args),
      losses.partitioned_kd(S, TEACHER, INIT, **args))


@pytest.mark.parametrize('supervised', [True, False])
def test_ties(supervised):
  """Equal confidence: the initial student first, then the earlier teacher."""
  y = jnp.asarray([0])
  s = jnp.asarray([[0.3, 0.1, -1.0]])
  # Bit for bit the same largest probability, 1 / (1 + e^-2), on class 0.
  i, a, b = (z + jnp.asarray([[2.0, *rest]]) for z, rest in (
      (0.0, (0.0, -jnp.inf)), (0.0, (-jnp.inf, 0.0)), (1.0, (0.0, -jnp.inf))))
  low = jnp.asarray([[0.0, 0.5, 0.5]])
  kd = jax.jit(lambda z: losses.kd(s, z, temperature=1.0))
  dp = jax.jit(lambda t, i: losses.partitioned_kd(s, t, i, y,
                                                  supervised=supervised))
  assert kd(a) != kd(b)
  np.testing.assert_array_equal(dp(a, i), kd(i))
  np.testing.assert_array_equal(dp(jnp.stack([a, b]), low), kd(a))
  np.testing.assert_array_equal(dp(jnp.stack([b, a]), low), kd(b))


def test_choice_does_not_depend_on_the_student():
  """For any student the loss is the divergence from the same targets."""
  confidence = lambda z: jax.nn.softmax(z)[jnp.arange(len(Y)), Y]
  targets = jnp.where((confidence(TEACHER) > confidence(INIT))[:, None],
                      TEACHER, INIT)
  for student in (S, -S, 100 * S, TEACHER):
    np.testing.assert_array_equal(
        losses.partitioned_kd(student, TEACHER, INIT, Y),
        losses.kd(student, targets, temperature=1.0))
