"""Feature losses against PyTorch's numbers and the papers' identities."""
import pathlib

import jax
from jax import numpy as jnp
import numpy as np
import pytest

from kt_jax import losses
from kt_jax.losses.feature import _resize

GOLDEN = np.load(pathlib.Path(__file__).parent / 'golden/losses/feature.npz')
NAMES = [name.removesuffix('/loss') for name in GOLDEN.files
         if name.endswith('/loss')]


def stored(name):
  """List of the arrays stored as `name/0`, `name/1`, ..."""
  layers = []
  while f'{name}/{len(layers)}' in GOLDEN:
    layers.append(jnp.asarray(GOLDEN[f'{name}/{len(layers)}']))
  return layers


def call(name, s, t):
  """The loss that a stored name, such as 'nst/linear', stands for."""
  match name.split('/'):
    case 'hint', _:
      return losses.hint(s, t)
    case 'attention_transfer', p, how:
      return losses.attention_transfer(s, t, power=int(p),
                                       squared=how == 'mean')
    case 'nst', kernel:
      return losses.nst(s, t, kernel=kernel)
    case 'fsp',:
      return losses.fsp(s, t)
    case 'factor_transfer', p:
      return losses.factor_transfer(s, t, p=int(p))
    case 'activation_boundary', margin, decay:
      return losses.activation_boundary(s, t, margin=float(margin),
                                        decay=float(decay))
    case 'vid',:
      return losses.vid(s, t, stored('variance'))
    case 'overhaul', decay:
      return losses.overhaul(s, t, stored('margin'), decay=float(decay))
    case 'review_kd', levels:
      return losses.review_kd(s, t, levels=tuple(map(int, levels.split(','))))
    case 'class_attention', grid, how, classes:
      return losses.class_attention(
          *s, *t, *stored('head'), pool=int(grid),
          normalize=how == 'normal', binarize=how == 'binary',
          classes=int(classes) or None)
  raise AssertionError(name)


@pytest.mark.parametrize('name', NAMES)
def test_torch(name):
  maps = str(GOLDEN[f'{name}/maps'])
  s, t = stored(f'{maps}/student'), stored(f'{maps}/teacher')
  def total(s):
    values = call(name, s, t)
    return jnp.sum(values), values
  grads, values = jax.jit(jax.grad(total, has_aux=True))(s)
  np.testing.assert_allclose(values, GOLDEN[f'{name}/loss'], rtol=1e-5)
  for got, want in zip(grads, stored(f'{name}/grad'), strict=True):
    np.testing.assert_allclose(got, want, rtol=1e-4,
                               atol=1e-4 * np.abs(want).max())


def test_golden_has_versions():
  assert any(v.startswith('torch ') for v in GOLDEN['versions'])
  assert {name.split('/')[0] for name in NAMES} == {
      'hint', 'attention_transfer', 'nst', 'fsp', 'factor_transfer',
      'activation_boundary', 'vid', 'overhaul', 'review_kd', 'class_attention'}


def test_adaptive_pool_is_torchs():
  x = jnp.asarray(GOLDEN['pool/x'])
  sizes = [name.split('/')[1:] for name in GOLDEN.files
           if name.startswith('pool/') and name != 'pool/x']
  assert len(sizes) == 36
  pooled = jax.jit(lambda x: {
      f'pool/{h}/{w}': _resize.adaptive_pool(x, int(h), int(w))
      for h, w in sizes})(x)
  for name, got in pooled.items():
    np.testing.assert_allclose(got, GOLDEN[name], rtol=1e-5, atol=1e-6,
                               err_msg=name)


def draw(*shapes, seed=0):
  r = np.random.default_rng(seed)
  return [r.normal(size=shape).astype(np.float32) for shape in shapes]


def close(got, want, rtol=1e-5, atol=1e-6):
  np.testing.assert_allclose(got, want, rtol=rtol, atol=atol)


def test_class_attention_normalized_ignores_scale():
  x, y, v, w = draw((4, 6, 6, 5), (4, 6, 6, 5), (5, 6), (5, 6))
  call = jax.jit(lambda v: losses.class_attention(x, y, v, w, normalize=True))
  close(call(v), call(1e4 * v))


@pytest.mark.parametrize('loss', [losses.attention_transfer, losses.nst,
                                  losses.factor_transfer])
def test_normalized_losses_ignore_scale(loss):
  loss = jax.jit(loss)
  s, t = draw((4, 3, 5, 6), (4, 3, 5, 6))
  close(loss(1e4 * s, t), loss(s, t))
  close(loss(s, 1e-4 * t), loss(s, t))


def test_attention_transfer_ignores_order_and_sign_of_channels():
  s, t = draw((4, 3, 5, 6), (4, 3, 5, 6))
  loss = jax.jit(losses.attention_transfer)
  close(loss(-s[..., ::-1], t), loss(s, t))


def test_nst_ignores_order_and_number_of_channels():
  """Two distributions are compared: each channel twice is the same one."""
  s, t = draw((4, 3, 5, 6), (4, 3, 5, 6))
  twice = np.tile(s, 2)[..., ::-1]
  for kernel in ('polynomial', 'linear', 'gaussian'):
    got, want, none = jax.jit(lambda kernel=kernel: [
        losses.nst(*pair, kernel=kernel)
        for pair in ((twice, t), (s, t), (twice, s))])()
    close(got, want)
    # Three sums near 1, in float32, that cancel.
    np.testing.assert_allclose(none, 0, atol=5e-6)


def test_fsp_ignores_positions():
  """Moving both layers' positions alike changes no Gram matrix."""
  a, b, c, d = draw((4, 5, 5, 3), (4, 5, 5, 2), (4, 5, 5, 3), (4, 5, 5, 2))
  moved = lambda x: np.roll(np.rot90(x, axes=(1, 2)), 2, axis=1)
  close(losses.fsp([moved(a), moved(b)], [c, d]), losses.fsp([a, b], [c, d]))


def test_activation_boundary_counts_wrong_neurons_without_margin():
  """No cost where signs agree by the margin; 4 m^2 a neuron at -m for m."""
  t, = draw((4, 3, 5, 6))
  sign = jnp.where(t > 0, 1.0, -1.0)
  close(losses.activation_boundary(1.5 * sign, t), jnp.zeros(4))
  close(losses.activation_boundary(-1.0 * sign, t), jnp.full(4, 4.0 * 90))


def test_vid_is_least_at_the_square_of_the_error():
  s, t = draw((4, 3, 5, 6), (4, 3, 5, 6))
  best = np.mean((s - t)**2, (0, 1, 2))
  slope = jax.jit(jax.grad(lambda v: losses.vid(s, t, v).sum()))(best)
  close(slope, jnp.zeros(6), atol=1e-5)


def test_overhaul_ignores_responses_below_a_negative_target():
  t = -jnp.abs(draw((4, 3, 5, 6))[0])
  m = jnp.full(6, -0.2)
  low = jnp.minimum(t, -0.2) - 0.1
  close(losses.overhaul(low, t, m), jnp.zeros(4))
  # Positive responses are matched in full, whatever the margin.
  s, = draw((4, 3, 5, 6), seed=1)
  close(losses.overhaul(s, -t, m), ((s + t)**2).sum((1, 2, 3)))


def test_review_kd_of_constant_maps_is_hint():
  """Every level has the same difference."""
  s, t = (jnp.broadcast_to(x, (4, 8, 8, 3))
          for x in draw((4, 1, 1, 3), (4, 1, 1, 3)))
  close(*jax.jit(lambda: (losses.review_kd(s, t), losses.hint(s, t)))())


def test_layer_weights_halve_towards_the_input():
  s, t, u, v = draw(*[(4, 3, 5, 6)] * 4)
  for loss in (losses.activation_boundary,
               lambda s, t, **kw: losses.overhaul(
                   s, t, [jnp.zeros(6)] * len(s), **kw)):
    one = lambda s, t: loss([s], [t])
    close(loss([s, t], [u, v]), 0.5 * one(s, u) + one(t, v))
    close(loss([s, t], [u, v], decay=1), one(s, u) + one(t, v))
  close(losses.hint((s, t), (u, v)), losses.hint([s, t], [u, v]))


def test_traced_settings():
  s, t = draw((4, 3, 5, 6), (4, 3, 5, 6))
  for loss, kw in ((losses.attention_transfer, {'power': 3.0}),
                   (losses.activation_boundary,
                    {'margin': 0.5, 'decay': 0.7})):
    traced = jax.jit(lambda kw, loss=loss: loss([s, t], [t, s], **kw))
    close(traced(kw), loss([s, t], [t, s], **kw))
