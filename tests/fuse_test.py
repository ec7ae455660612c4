"""Fusion: properties that every function has, and parity with references."""
import functools
import inspect
import re
from typing import Any, NamedTuple

import jax
from jax import numpy as jnp
import numpy as np
import pytest
from scipy import optimize
from scipy import special

from kt_jax import core
from kt_jax import fuse

T, B, V = 3, 4, 12
MODELS = ('base_logits', 'expert_logits', 'anti_expert_logits')


class Case(NamedTuple):
  """A call of a function of fuse."""
  fn: str
  several: bool = True  # experts
  shared: bool = False  # one anti-expert for all
  weighted: bool = False
  settings: dict[str, Any] = {}


CASES = {
    'probability': Case('ensemble'),
    'logit': Case('ensemble', settings={'space': 'logit'}),
    'weighted': Case('ensemble', weighted=True),
    'weighted_logit': Case('ensemble', weighted=True,
                           settings={'space': 'logit'}),
    'eft': Case('emulated_fine_tuning', several=False),
    'eft_several': Case('emulated_fine_tuning', settings={
        'scale': (0.5, 0.25, 1.0)}),
    'eft_shared': Case('emulated_fine_tuning', shared=True,
                       settings={'scale': 0.5}),
    'eft_nucleus': Case('emulated_fine_tuning', settings={'top_p': 0.8}),
    'dlf': Case('dynamic_logit_fusion', several=False),
    'dlf_several': Case('dynamic_logit_fusion', settings={
        'largest': 0.9, 'points': 8}),
    'dlf_grid': Case('dynamic_logit_fusion', shared=True, settings={
        'solver': 'grid', 'largest': 1.3, 'points': 12}),
    'dlf_joint': Case('dynamic_logit_fusion', settings={
        'solver': 'grid', 'experts': 'joint', 'largest': 1.5, 'points': 4}),
}
each = pytest.mark.parametrize('name', CASES)
of_experts = pytest.mark.parametrize(
    'name', [n for n, c in CASES.items() if c.fn != 'ensemble'])


def public():
  return {n: f for n, f in vars(fuse).items() if inspect.isfunction(f)}


def normal(rng, *shape):
  return rng.normal(size=shape).astype(np.float32) * 1.5


def pool(name, seed=0, lead=(B,)):
  """Arrays of a case, by name."""
  case, r = CASES[name], np.random.default_rng(seed)
  if case.fn == 'ensemble':
    p = {'logits': normal(r, T, *lead, V)}
    return p | ({'weight': np.float32([1, 2, 0.5])} if case.weighted else {})
  t = (T,) * case.several
  anti = normal(r, *t[case.shared:], *lead, V)
  return {'base_logits': normal(r, *lead, V),
          'expert_logits': anti + 0.7 * normal(r, *t, *lead, V),
          'anti_expert_logits': anti}


def eager(name, p):
  case = CASES[name]
  out = public()[case.fn](**jax.tree.map(jnp.asarray, p), **case.settings)
  return out if isinstance(out, tuple) else (out,)


@functools.cache
def compiled(name):
  return jax.jit(functools.partial(eager, name))


def close(got, want, rtol=1e-5, atol=2e-5):
  jax.tree.map(lambda g, w: np.testing.assert_allclose(
      np.asarray(g), np.asarray(w), rtol=rtol, atol=atol), got, want)


# Properties of all.


def test_table_is_complete():
  assert {case.fn for case in CASES.values()} == set(public())


@pytest.mark.parametrize('name', list(public()))
def test_signature(name):
  fn = public()[name]
  assert fn.__name__ == name
  assert fn.__module__ == f'kt_jax.fuse.{name}'
  for param in inspect.signature(fn).parameters.values():
    if param.kind is param.POSITIONAL_OR_KEYWORD:
      assert f'`{param.name}`' in fuse.__doc__
    else:
      assert param.kind is param.KEYWORD_ONLY
      assert param.default is not param.empty
  sections = re.findall(r'^([A-Z]\w+):\s', inspect.getdoc(fn), re.MULTILINE)
  assert sections[:3] == ['Args', 'Returns', 'Raises']
  assert sections[3:] == [s for s in ('Departures', 'References')
                          if s in sections]


@each
def test_is_a_distribution(name):
  p = pool(name)
  log_p, *weight = compiled(name)(p)
  assert log_p.shape == (B, V) and log_p.dtype == jnp.float32
  close(special.logsumexp(log_p, axis=-1), np.zeros(B))
  for w in weight:
    assert w.shape == p['expert_logits'].shape[:-1] and w.dtype == jnp.float32
    assert np.all((w >= 0) & (w <= 2))


@each
def test_leading_axes_are_free(name):
  """Tokens are independent, in any order and on any axes."""
  p = pool(name)
  more = {n: v if n == 'weight' else
          v[..., ::-1, :].reshape(v.shape[:-2] + (2, B // 2, V))
          for n, v in p.items()}
  got, want = compiled(name)(more), compiled(name)(p)
  at = lambda i: (..., slice(None, None, -1), slice(None))[:3 - i]
  close(tuple(g.reshape(w.shape)[at(i)] for i, (g, w) in enumerate(
      zip(got, want))), want, atol=1e-4)
  one = {n: v if n == 'weight' else v[..., 0, :] for n, v in p.items()}
  shapes = jax.eval_shape(functools.partial(eager, name), one)
  assert [x.shape for x in shapes] == [(V,), *(w.shape[:-1] for w in want[1:])]


@each
def test_shift_invariance(name):
  """Constants that differ by model and token change nothing."""
  p, r = pool(name), np.random.default_rng(1)
  moved = {n: v if n == 'weight' else
           v + r.integers(-4, 5, v.shape[:-1] + (1,)).astype(v.dtype)
           for n, v in p.items()}
  close(compiled(name)(moved), compiled(name)(p), atol=1e-4)


@each
def test_words_may_be_permuted(name):
  p, order = pool(name), np.random.default_rng(2).permutation(V)
  log_p, *weight = compiled(name)(p)
  permuted = {n: v if n == 'weight' else v[..., order] for n, v in p.items()}
  close(compiled(name)(permuted), (log_p[..., order], *weight), atol=1e-4)


@each
def test_bfloat16(name):
  p = {n: jnp.asarray(v, jnp.bfloat16) for n, v in pool(name).items()}
  got = jax.eval_shape(functools.partial(eager, name), p)
  assert all(x.dtype == jnp.float32 for x in got)
  if name in ('probability', 'eft', 'dlf'):
    close(compiled(name)(p), compiled(name)({
        n: v.astype(jnp.float32) for n, v in p.items()}), atol=1e-4)


@each
def test_equal_models_change_nothing(name):
  p = pool(name)
  z = normal(np.random.default_rng(3), B, V)
  same = {n: v if n == 'weight' else np.broadcast_to(z, v.shape)
          for n, v in p.items()}
  log_p, *weight = compiled(name)(same)
  close(log_p, special.log_softmax(z, axis=-1))
  assert not any(np.any(w) for w in weight), 'f is flat'


@of_experts
def test_untuned_experts_leave_the_base(name):
  p = pool(name)
  p['expert_logits'] = 3 + np.broadcast_to(
      p['anti_expert_logits'], p['expert_logits'].shape)
  close(compiled(name)(p)[0], special.log_softmax(p['base_logits'], axis=-1))


@each
def test_masks(name):
  """Words that all models mask stay masked and have no effect."""
  def at_two(value):
    return compiled(name)({
        n: v if n == 'weight' else np.where(np.arange(V) == 2, value, v)
        for n, v in pool(name).items()})
  masked, tiny = at_two(np.float32(-np.inf)), at_two(np.float32(-300))
  assert np.all(np.isneginf(masked[0][:, 2]))
  close((np.delete(masked[0], 2, axis=-1), *masked[1:]),
        (np.delete(tiny[0], 2, axis=-1), *tiny[1:]), atol=1e-4)


@of_experts
def test_masks_of_some(name):
  p = pool(name)
  mask = lambda n, k: p | {n: np.where(np.arange(V) == k, -np.inf, p[n])}
  log_p, *_ = compiled(name)(mask('base_logits', 2))
  assert np.all(np.isneginf(log_p[:, 2])) and np.isfinite(log_p[:, 3]).all()
  log_p, *weight = compiled(name)(mask('expert_logits', 5))
  moves = weight[0] > 0 if weight else np.ones(B, bool)
  moves = moves.any(0) if moves.ndim > 1 else moves
  if name != 'eft_nucleus':  # there a word may be out of the nucleus
    assert np.array_equal(np.isneginf(log_p[:, 5]), moves)
  assert not np.isnan(log_p).any()
  log_p, *weight = compiled(name)(mask('anti_expert_logits', 5))
  assert np.isfinite(log_p).all() and all(np.isfinite(w).all() for w in weight)


@pytest.mark.parametrize('name', [
    n for n in CASES if not n.startswith('dlf_')])
def test_gradients_are_finite(name):
  p = pool(name)
  for v in p.values():
    if v.shape[-1] == V:
      v[..., 2] = -np.inf
  grads = jax.jit(jax.grad(lambda p: jnp.sum(
      eager(name, p)[0][..., 3:] ** 2)))(p)
  for n, g in grads.items():
    assert np.isfinite(g).all(), n
    assert np.any(g), n


@each
def test_nan_is_not_hidden(name):
  p = pool(name)
  first = next(iter(p))
  p[first] = p[first].copy()
  p[first][..., 0, 3] = np.nan
  log_p = compiled(name)(p)[0]
  assert np.isnan(log_p[0]).any() and np.isfinite(log_p[1:]).all()


def refused(fn, *parts, **arguments):
  with pytest.raises(core.UserError) as error:
    fn(**arguments)
  text = str(error.value)
  assert '\n' not in text and text.startswith(fn.__name__) or 'No ' in text
  for part in parts:
    assert part in text, text


@of_experts
def test_refuses_shapes(name):
  case, p = CASES[name], pool(name)
  fn = functools.partial(refused, public()[case.fn], **case.settings)
  for n in MODELS[1:]:
    fn(n, f'{V - 1} words', f'base_logits {V}', **p | {n: p[n][..., 1:]})
    fn(n, 'allowed are', **p | {n: p[n][..., 1:, :]})
  fn('base_logits', 'scalar', **p | {'base_logits': jnp.zeros(())})
  if case.several:
    fn('expert_logits', 'T >= 1', **p | {
        'expert_logits': p['expert_logits'][:0],
        'anti_expert_logits': p['base_logits']})
    if not case.shared:
      fn('anti_expert_logits', f'({T - 1}, {B}, {V})', **p | {
          'anti_expert_logits': p['anti_expert_logits'][1:]})


@pytest.mark.parametrize('name,settings,parts', [
    ('eft', {'top_p': 1.5}, ['top_p', '1.5']),
    ('eft', {'scale': jnp.ones(T)}, ['scale', '(3,)', '(4,)']),
    ('eft_several', {'scale': (1., 1.)}, ['scale', '(2,)', '(3,)', '(3, 4)']),
    ('dlf', {'solver': 'bisect'}, ['solver', "'bisection'"]),
    ('dlf', {'experts': 'all'}, ['experts', 'joint']),
    ('dlf', {'experts': 'joint'}, ["solver='grid'", "'bisection'"]),
    ('dlf', {'largest': 0.}, ['largest', '0.0']),
    ('dlf', {'points': 1}, ['points', '1']),
    ('probability', {'space': 'probabilities'}, ["'probability'"]),
    ('probability', {'logits': jnp.ones(3)}, ['logits', '(3,)']),
    ('probability', {'weight': jnp.ones(2)}, ['weight', '(2,)', '(3,)']),
    ('probability', {'weight': jnp.zeros(3)}, ['weight', '[0.0, 0.0, 0.0]']),
    ('probability', {'weight': jnp.array([1., -1., 1.])}, ['weight', '-1.0']),
])
def test_refuses_settings(name, settings, parts):
  case = CASES[name]
  refused(public()[case.fn], *parts, **pool(name) | case.settings | settings)


# Ensembles.


def test_means_by_hand():
  p = pool('weighted')
  q, w = special.softmax(p['logits'], axis=-1), p['weight'] / 3.5
  close(np.exp(compiled('weighted')(p)[0]),
        w[0] * q[0] + w[1] * q[1] + w[2] * q[2])
  product = q[0]**w[0] * q[1]**w[1] * q[2]**w[2]
  close(np.exp(compiled('weighted_logit')(p)[0]),
        product / product.sum(-1, keepdims=True))
  by_token = np.random.default_rng(0).uniform(size=(T, B)).astype(np.float32)
  for name in ('weighted', 'weighted_logit'):
    got, = compiled(name)(p | {'weight': by_token})
    for b in range(B):
      want, = compiled(name)(p | {'weight': by_token[:, b]})
      close(got[b], want[b])


def test_masks_of_some_in_a_mean():
  z = pool('probability')['logits']
  z[0, :, 1] = -np.inf
  mean, = compiled('probability')({'logits': z})
  close(np.exp(mean[:, 1]), special.softmax(z, axis=-1)[1:, :, 1].sum(0) / 3)
  mean, = compiled('logit')({'logits': z})
  assert np.isneginf(mean[:, 1]).all()
  got, = compiled('weighted_logit')({
      'logits': z, 'weight': np.float32([0, 1, 1])})
  close(got, special.log_softmax(z[1:].mean(0), axis=-1))


# Emulated fine-tuning.


def test_tuning_of_the_model_itself_is_that_model():
  """Where base and anti-expert agree, scale 1 gives the tuned model."""
  p = pool('eft')
  p['anti_expert_logits'] = p['base_logits'] + 2
  close(compiled('eft')(p)[0], special.log_softmax(p['expert_logits'], axis=-1))


def test_is_proxy_tuning():
  """The sum of raw logits, as that paper has it."""
  p = pool('eft_several')
  base, expert, anti = p.values()
  want = base + 0.5 * (expert - anti)[0] + 0.25 * (expert - anti)[1] + (
      expert - anti)[2]
  close(compiled('eft_several')(p)[0], special.log_softmax(want, axis=-1))


def test_is_best_under_a_divergence_from_the_base():
  """max_pi E[r] - KL(pi || base) with r = log p_t - log p_anti is log Z."""
  base, expert, anti = (special.log_softmax(np.float64(z), axis=-1)
                        for z in pool('eft').values())
  reward = expert - anti
  value = lambda log_pi: np.sum(
      np.exp(log_pi) * (reward + base - log_pi), axis=-1)
  best = np.float64(compiled('eft')(pool('eft'))[0])
  close(value(best), special.logsumexp(base + reward, axis=-1))
  r = np.random.default_rng(0)
  for size in (0.05, 0.5, 2):
    other = special.log_softmax(best + size * r.normal(size=best.shape), -1)
    assert np.all(value(other) < value(best))


def test_several_experts_are_one_after_the_other():
  p = pool('eft_several')
  z = p['base_logits']
  for expert, anti, scale in zip(p['expert_logits'], p['anti_expert_logits'],
                                 CASES['eft_several'].settings['scale']):
    z = fuse.emulated_fine_tuning(z, expert, anti, scale=scale)
  close(z, compiled('eft_several')(p)[0])


def test_scale_by_token():
  p = pool('eft')
  scale = jnp.array([0., 0.5, 1., 2.])
  tune = jax.jit(fuse.emulated_fine_tuning)
  got = tune(**p, scale=scale)
  for b in range(B):
    close(got[b], tune(**p, scale=scale[b])[b])
  close(tune(**p | {'base_logits': got}, scale=-scale),
        special.log_softmax(p['base_logits'], axis=-1))
  # Where its weight is 0, an expert's mask has no effect.
  p['expert_logits'][:, 5] = -np.inf
  got = tune(**p, scale=scale)
  np.testing.assert_array_equal(np.isneginf(got[:, 5]), scale > 0)


def test_nucleus():
  """Words outside keep their odds to one another, those inside move."""
  p = pool('eft')
  base = special.log_softmax(p['base_logits'], axis=-1)
  got = np.asarray(fuse.emulated_fine_tuning(**p, top_p=0.7))
  ratio = got - base - (special.log_softmax(p['expert_logits'], axis=-1)
                        - special.log_softmax(p['anti_expert_logits'], axis=-1))
  for b in range(B):
    order, total, inside = np.argsort(-base[b]), 0, []
    while total < 0.7:
      inside.append(order[len(inside)])
      total = np.exp(base[b, inside]).sum()
    outside = np.setdiff1d(np.arange(V), inside)
    assert len(outside) > 2
    assert np.ptp((got - base)[b, outside]) < 1e-4
    assert np.ptp(ratio[b, inside]) < 1e-4
    # The same constant for both: only the normalizer.
    close((got - base)[b, outside[0]], ratio[b, inside[0]], atol=1e-4)
  close(fuse.emulated_fine_tuning(**p, top_p=0.0), base)


# Dynamic logit fusion.

FUSION = jax.jit(fuse.dynamic_logit_fusion, static_argnames='solver')


def kl(p, q):
  return special.rel_entr(p, q).sum(-1)


def objective(base, experts, antis, weight):
  """f in float64, by the definition: softmax of sums of logits."""
  base, experts, antis = map(np.float64, (base, experts, antis))
  p = special.softmax(base)
  moved = special.softmax(base + np.tensordot(weight, experts - antis, 1))
  total = 0
  for expert, anti in zip(experts, antis):
    q, q_0 = special.softmax(expert), special.softmax(anti)
    total += (kl(moved, p) - kl(q, q_0))**2 + (kl(p, moved) - kl(q_0, q))**2
  return total


def draw(count, seed=0, scale=1.5, words=30, t=1):
  r = np.random.default_rng(seed)
  anti = normal(r, t, count, words) * scale
  size = r.uniform(0.1, 1.5, (t, count, 1)).astype(np.float32)
  return (normal(r, count, words) * scale, anti + size * normal(
      r, t, count, words), anti)


def test_base_as_anti_expert_moves_by_one():
  p = pool('dlf')
  p['anti_expert_logits'] = p['base_logits'] + 1
  log_p, weight = compiled('dlf')(p)
  close(weight, np.ones(B), atol=1e-4)
  close(log_p, special.log_softmax(p['expert_logits'], axis=-1), atol=2e-4)
  for b in range(B):
    assert objective(p['base_logits'][b], p['expert_logits'][b][None],
                     p['anti_expert_logits'][b][None], [weight[b]]) < 1e-7


def test_against_scipy():
  """Between the roots of both divergences, which grow with the weight."""
  count, largest = 20, 2.0
  base, experts, antis = draw(30)
  _, weight = FUSION(base, experts[0], antis[0])
  _, on_grid = FUSION(base, experts[0], antis[0], solver='grid')
  clipped = 0
  for b in range(count):
    token = base[b], experts[:, b], antis[:, b]
    f = lambda a, token=token: objective(*token, [a])
    found = optimize.minimize_scalar(
        f, bounds=(0, 20), method='bounded', options={'xatol': 1e-9})
    want = min(found.x, largest)
    clipped += want == largest
    assert abs(weight[b] - want) < 1e-4, (weight[b], want)
    assert f(weight[b]) <= f(on_grid[b]) + 1e-9
    tries = np.linspace(0, largest, 21)
    assert abs(on_grid[b] - tries[np.argmin([f(a) for a in tries])]) < 1e-6
    # The roots enclose it. KL(q || p) is bounded, so that it may have none.
    p, q, q_0 = (special.softmax(np.float64(z)) for z in (
        base[b], experts[0, b], antis[0, b]))
    at = lambda a, token=token: special.softmax(
        token[0] + a * np.float64(token[1][0] - token[2][0]), axis=-1)
    moved = at(np.linspace(0, 5, 50)[:, None])
    forth = lambda a, at=at, p=p: kl(at(a), p)
    back = lambda a, at=at, p=p: kl(p, at(a))
    for grow in (kl(moved, p), kl(p, moved)):
      assert (np.diff(grow) > 0).all()
    roots = [optimize.brentq(lambda a, d=d, aim=aim: d(a) - aim, 0, 20)
             if d(20) > aim else np.inf
             for d, aim in ((forth, kl(q, q_0)), (back, kl(q_0, q)))]
    assert min(*roots, largest) - 1e-4 <= weight[b] <= max(roots) + 1e-4
  assert 0 < clipped < count / 2
  assert np.std(weight) > 0.1, 'it differs by token'


def test_sure_models():
  """Divergences far below the rounding of 1, as language models have them."""
  count = 20
  base, experts, antis = draw(30, seed=4)
  for z in (base, experts[0], antis[0]):
    z[:, 0] = z[:, 1:].max(-1) + 11
  _, weight = FUSION(base, experts[0], antis[0])
  for b in range(count):
    token = base[b], experts[:, b], antis[:, b]
    # Far from 1, so that scipy can see it.
    f = lambda a, token=token: 1e8 * objective(*token, [a])
    found = optimize.minimize_scalar(
        f, bounds=(0, 2), method='bounded', options={'xatol': 1e-9})
    assert abs(weight[b] - found.x) < 2e-3, (weight[b], found.x)


def test_one_expert_of_several_moves_a_token():
  """That of least f, with f as the sum over all experts."""
  count, tries = 6, np.linspace(0, 2, 21)
  base, experts, antis = draw(30, seed=1, t=T)
  _, weight = FUSION(base, experts, antis)
  log_p, on_grid = FUSION(base, experts, antis, solver='grid')
  assert np.all((weight > 0).sum(0) <= 1) and np.all((on_grid > 0).sum(0) <= 1)
  assert len(np.unique(np.argmax(on_grid, axis=0))) == T
  for b in range(count):
    token = base[b], experts[:, b], antis[:, b]
    f = np.array([[objective(*token, a * row) for a in tries]
                  for row in np.eye(T)])
    t, i = np.unravel_index(np.argmin(f), f.shape)
    close(on_grid[:, b], tries[i] * np.eye(T)[t], atol=1e-6)
    assert objective(*token, weight[:, b]) <= f.min() + 1e-9
    best = [optimize.minimize_scalar(
        lambda a, row=row, token=token: objective(*token, a * row),
        bounds=(max(tries[np.argmin(f[t])] - 0.1, 0),
                min(tries[np.argmin(f[t])] + 0.1, 2)), method='bounded',
        options={'xatol': 1e-9}) for t, row in enumerate(np.eye(T))]
    t = np.argmin([x.fun for x in best])
    close(weight[:, b], best[t].x * np.eye(T)[t], atol=1e-4)
  close(log_p, fuse.emulated_fine_tuning(base, experts, antis, scale=on_grid))


def objectives(name, b, weights):
  """f of each of `weights` at token b of a case."""
  p = pool(name)
  base, experts, antis = (p[n][..., b, :] for n in MODELS)
  antis = np.broadcast_to(antis, experts.shape)
  return np.array([objective(base, experts, antis, a) for a in weights])


@pytest.mark.parametrize('name,largest,points', [
    ('dlf_grid', 1.3, 12), ('dlf_several', 0.9, 8)])
def test_grid_has_as_many_points_up_to_the_largest(name, largest, points):
  _, weight = compiled(name)(pool(name))
  grid = np.linspace(0, largest, points)
  for b, got in enumerate(np.asarray(weight).T):
    f = np.stack([objectives(name, b, np.outer(grid, row))
                  for row in np.eye(T)])
    expert = np.argmax(got)
    best = grid[np.argmin(f[expert])]
    if name == 'dlf_grid':
      close(got, best * np.eye(T)[expert], atol=1e-6)
    else:  # in the cells beside the best point of the grid
      assert abs(got[expert] - best) <= grid[1] + 1e-6
      assert got[expert] <= largest + 1e-6
    assert objectives(name, b, [got])[0] <= f.min() + 1e-6
  assert (weight > 0).any()


def test_joint_grid():
  p = pool('dlf_joint')
  _, weight = compiled('dlf_joint')(p)
  axis = np.linspace(0, 1.5, 4)
  tries = np.stack(np.meshgrid(*[axis] * T, indexing='ij'), -1).reshape(-1, T)
  for b in range(B):
    f = objectives('dlf_joint', b, tries)
    close(weight[:, b], tries[np.argmin(f)], atol=1e-6)


def test_weights_have_no_gradient():
  """The gradient is that of emulated fine-tuning at these weights."""
  p = pool('dlf')
  r = np.random.default_rng(0).normal(size=(B, V))
  def total(p):
    log_p, weight = fuse.dynamic_logit_fusion(**p)
    return jnp.sum(r * log_p), weight
  def at(p, scale):
    return jnp.sum(r * fuse.emulated_fine_tuning(**p, scale=scale))
  grads, weight = jax.jit(jax.grad(total, has_aux=True))(p)
  close(grads, jax.jit(jax.grad(at))(p, weight), atol=1e-4)


def test_one_of_several_is_one():
  p = pool('dlf')
  log_p, weight = compiled('dlf')(p)
  got, weights = FUSION(
      p['base_logits'], p['expert_logits'][None], p['anti_expert_logits'])
  assert weights.shape == (1, B)
  close((got, weights[0]), (log_p, weight))


def test_double_precision():
  base, experts, antis = draw(30)
  with jax.enable_x64(True):
    arrays = [jnp.asarray(np.float64(z)) for z in (base, experts[0], antis[0])]
    log_p, weight = FUSION(*arrays)
    assert log_p.dtype == weight.dtype == jnp.float64
  _, single = FUSION(base, experts[0], antis[0])
  close(weight, single, atol=5e-5)
