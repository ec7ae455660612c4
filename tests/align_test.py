"""Alignment: specs of all networks, planted solutions, identities."""
import functools
import itertools
import sys

import jax
from jax import numpy as jnp
from models_test import TINY
import numpy as np
import pytest
from scipy import optimize
from scipy.spatial import distance

from kt_jax import align
from kt_jax import core
from kt_jax import models

SPEC = {'fc1/kernel': (None, 'one'), 'fc1/bias': ('one',),
        'fc2/kernel': ('one', 'two'), 'fc2/bias': ('two',),
        'fc3/kernel': ('two', None), 'fc3/bias': (None,)}
# One network of each kind of block; sizes too small to hide a wrong axis.
KINDS = {
    'mlp': {'width': 6}, 'residual_mlp': {}, 'convnet': {}, 'vgg8': {},
    'resnet8': {},
    'resnet18': {'depths': (2, 1)}, 'resnet50': {'depths': (2, 1)},
    'wrn_16_2': {'depth': 16}, 'mobilenet_v2': {}, 'mobilenet_v2_half': {},
    'vit_tiny': {'depth': 2, 'width': 12, 'heads': 4, 'knowledge_tokens': 2},
    'mixer_small': {'depth': 2}}


def mlp(seed, widths=(5, 7, 6, 3)):
  r = np.random.default_rng(seed)
  params = {}
  for n, (i, o) in enumerate(zip(widths, widths[1:]), 1):
    params |= {f'fc{n}/kernel': r.normal(size=(i, o)).astype(np.float32),
               f'fc{n}/bias': r.normal(size=o).astype(np.float32)}
  return params


def forward(params, x):
  """Logits and the activations of both groups."""
  one = np.maximum(x @ params['fc1/kernel'] + params['fc1/bias'], 0)
  two = np.maximum(one @ params['fc2/kernel'] + params['fc2/bias'], 0)
  return two @ params['fc3/kernel'] + params['fc3/bias'], dict(one=one, two=two)


def inputs(n=40):
  return np.random.default_rng(9).normal(size=(n, 5)).astype(np.float32)


def shuffled(sizes, seed=0):
  """Permutations, none of them the identity."""
  r = np.random.default_rng(seed)
  found = {name: r.permutation(size) for name, size in sizes.items()}
  return {name: order[::-1] if (order == np.arange(len(order))).all() else order
          for name, order in found.items()}


@functools.cache
def network(name, **more):
  """`(net, leaves, x)`: parameters and statistics of every shape, all random.
  """
  sizes, shape = TINY[name]
  kw = sizes | KINDS.get(name, {}) | more
  build = models.builder(name, classes=3, input_shape=shape, **kw)
  net = models.abstract(build)
  shapes = jax.eval_shape(lambda: models.arrays(net, build()))
  r = np.random.default_rng(0)
  leaves = [{path: (0.5 + r.random(s.shape) if path.endswith('/var') else
                    r.normal(size=s.shape) / max(1, np.sqrt(np.prod(
                        s.shape[:-1])))).astype(np.float32)
             for path, s in tree.items()} for tree in shapes]
  return net, *leaves, r.normal(size=(4, *shape)).astype(np.float32)


@pytest.mark.parametrize('name', TINY)
def test_every_network_has_a_spec(name):
  """Every axis is in a group or has a reason."""
  net, params, stats, _ = network(name)
  spec, fixed = models.permutation_spec(net), models.fixed_axes(net)
  assert set(spec) == set(params) | set(stats)
  assert align.check_spec(params | stats, spec)
  for path, entries in spec.items():
    for axis, entry in enumerate(entries):
      if not isinstance(entry, str):
        assert fixed[path, axis], (path, axis)


@pytest.mark.parametrize('name', sorted({*KINDS} - {
    'resnet18', 'mobilenet_v2_half'}))  # their blocks are in others
def test_permuting_leaves_the_function_and_moves_the_taps(name):
  net, params, stats, x = network(name)
  spec, leaves = models.permutation_spec(net), params | stats
  sizes = align.check_spec(leaves, spec)
  assert all(size > 1 for size in sizes.values()), sizes
  order = shuffled(sizes)
  run = jax.jit(lambda p, s: models.apply(net, p, s, x, taps=list(sizes)))
  new = align.permute(leaves, spec, order)
  before = run(params, stats)
  after = run({p: new[p] for p in params}, {p: new[p] for p in stats})
  np.testing.assert_allclose(after.logits, before.logits, rtol=1e-4, atol=1e-4)
  assert np.ptp(before.logits, axis=0).max() > 1e-3
  for path, entries in spec.items():
    if any(entries):
      assert not np.array_equal(new[path], leaves[path]), path
  for tap, size in sizes.items():
    seen, was = after.features[tap], before.features[tap]
    if 'token_mlp' in tap:  # [B, width, hidden]
      was = was[:, order['blocks/1']]
    blocks = (*was.shape[:-1], size, -1)
    np.testing.assert_allclose(
        seen, was.reshape(blocks)[..., order[tap], :].reshape(was.shape),
        rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('name', KINDS)
def test_weight_matching_undoes_a_permutation(name):
  """Exactly, with statistics or without."""
  net, params, stats, _ = network(name)
  spec = models.permutation_spec(net)
  for leaves in (params, params | stats):
    order = shuffled(align.check_spec(leaves, spec))
    moved = align.permute(leaves, spec, order)
    found = align.weight_matching(moved, leaves, spec, seed=1)
    assert set(found) == set(order)
    for group in order:
      np.testing.assert_array_equal(order[group][found[group]],
                                    np.arange(len(order[group])))
    back = align.permute(moved, spec, found)
    for path in leaves:
      np.testing.assert_array_equal(back[path], leaves[path])


def test_user_networks_are_told_to_write_a_spec():
  from flax import nnx  # pylint: disable=g-import-not-at-top
  net = models.abstract(lambda: nnx.Linear(2, 3, rngs=nnx.Rngs(0)))
  with pytest.raises(core.UserError, match='not Linear; write'):
    models.permutation_spec(net)


def product(a, b):
  return sum(np.vdot(a[path].astype(np.float64), b[path]) for path in a)


def test_weight_matching_against_all_permutations():
  """One group: the optimum. Two: what no move of one group improves."""
  a, b = mlp(0, (5, 5, 4, 3)), mlp(1, (5, 5, 4, 3))
  spec = SPEC | {'fc2/kernel': ('one', None), 'fc2/bias': (None,),
                 'fc3/kernel': (None, None)}
  value = lambda spec, **order: product(align.permute(a, spec, order), b)
  best = max(value(spec, one=np.array(p))
             for p in itertools.permutations(range(5)))
  found = align.weight_matching(a, b, spec)
  assert value(spec, **found) == pytest.approx(best, rel=1e-12)

  every = {(p, q): value(SPEC, one=np.array(p), two=np.array(q))
           for p in itertools.permutations(range(5))
           for q in itertools.permutations(range(4))}
  reached = []
  for seed in range(4):
    found = align.weight_matching(a, b, SPEC, seed=seed)
    one, two = (tuple(map(int, found[name])) for name in ('one', 'two'))
    reached.append(every[one, two])
    for (p, q), at in every.items():
      if p == one or q == two:
        assert at <= reached[-1] + 1e-9
  assert every[tuple(range(5)), tuple(range(4))] < min(reached)
  assert max(reached) == pytest.approx(max(every.values()), rel=1e-12)


@pytest.mark.parametrize('iterations', [1, 2, 100])
@pytest.mark.parametrize('seed', [0, 3])
def test_weight_matching_sweep_by_sweep(seed, iterations):
  """Against sweeps over all permutations of a group, in the same order."""
  a, b = mlp(0, (5, 5, 4, 3)), mlp(1, (5, 5, 4, 3))
  order = {'one': np.arange(5), 'two': np.arange(4)}
  random = np.random.default_rng(seed)
  value = lambda name, p: product(align.permute(
      a, SPEC, order | {name: np.array(p)}), b)
  for _ in range(iterations):
    before = dict(order)
    for n in random.permutation(2):
      name = ('one', 'two')[n]
      order[name] = np.array(max(itertools.permutations(order[name]),
                                 key=lambda p, name=name: value(name, p)))
    if all((before[name] == order[name]).all() for name in order):
      break
  got = align.weight_matching(a, b, SPEC, seed=seed, iterations=iterations)
  for name in order:
    np.testing.assert_array_equal(got[name], order[name])


def test_weight_matching_of_a_group_twice_in_a_leaf():
  """Quadratic: at least it never loses, and finds what is planted."""
  r = np.random.default_rng(0)
  spec = {'in': (None, 'u'), 'square': ('u', 'u')}
  b = {'in': r.normal(size=(16, 6)), 'square': r.normal(size=(6, 6))}
  order = shuffled({'u': 6}, 3)
  a = align.permute(b, spec, order)
  np.testing.assert_array_equal(a['square'],
                                b['square'][order['u']][:, order['u']])
  found = align.weight_matching(a, b, spec)
  np.testing.assert_array_equal(order['u'][found['u']], np.arange(6))
  c = {'in': r.normal(size=(16, 6)), 'square': r.normal(size=(6, 6))}
  found = align.permute(c, spec, align.weight_matching(c, b, spec))
  assert product(found, b) >= product(c, b)


def test_aligned_a_alone_is_a():
  """Two networks that have nothing to do with each other, three ways."""
  a, b, x = mlp(0), mlp(1), inputs()
  logits, features_a = forward(a, x)
  features_b = forward(b, x)[1]
  orders = [align.weight_matching(a, b, SPEC),
            align.activation_matching(features_a, features_b, SPEC)]
  maps = [align.optimal_transport(a, b, SPEC),
          align.optimal_transport(a, b, SPEC, features_a=features_a,
                                  features_b=features_b)]
  moved = [*(align.permute(a, SPEC, order) for order in orders),
           *(align.transport(a, SPEC, m) for m in maps)]
  for new in moved:
    assert all(new[path].dtype == np.float32 for path in new)
    assert not np.array_equal(new['fc2/kernel'], a['fc2/kernel'])
    np.testing.assert_allclose(forward(new, x)[0], logits, rtol=1e-4, atol=1e-4)
  for m in maps:  # permutations
    for plan in m.values():
      assert set(np.unique(plan)) == {0, 1}
      np.testing.assert_array_equal(plan.sum(0), 1)
      np.testing.assert_array_equal(plan.sum(1), 1)
  assert product(moved[0], b) > product(a, b)


def test_activation_matching_undoes_a_permutation():
  """Also after each unit is scaled and shifted; dead units do not disturb."""
  r = np.random.default_rng(0)
  spec = {'kernel': (None, 'u'), 'query': (None, ('h', 3)), 'out': (('h', 3),)}
  b = {'u': r.normal(size=(10, 4, 8)), 'h': r.normal(size=(50, 4 * 3))}
  b['u'][..., 5] = 0.1  # constant
  order = shuffled({'u': 8, 'h': 4}, 2)
  a = {'u': b['u'][..., order['u']] * r.uniform(0.5, 2, 8) + r.normal(size=8),
       'h': b['h'].reshape(50, 4, 3)[:, order['h']].reshape(50, 12)}
  found = align.activation_matching(a, b, spec)
  for group in order:
    np.testing.assert_array_equal(order[group][found[group]],
                                  np.arange(len(order[group])))


def test_optimal_transport_of_one_layer_is_the_assignment():
  a, b = mlp(0), mlp(1)
  maps = align.optimal_transport(a, b, SPEC)
  rows = lambda p: np.vstack([p['fc1/kernel'], p['fc1/bias']]).T
  i, j = optimize.linear_sum_assignment(distance.cdist(rows(a), rows(b)))
  assert (maps['one'][i, j] == 1).all()
  carried = a['fc2/kernel'][i[np.argsort(j)]]
  rows = lambda kernel, p: np.vstack([kernel, p['fc2/bias']]).T
  i, j = optimize.linear_sum_assignment(distance.cdist(
      rows(carried, a), rows(b['fc2/kernel'], b)))
  assert (maps['two'][i, j] == 1).all()


def test_optimal_transport_undoes_a_permutation():
  for name in ('resnet8', 'vit_tiny', 'mobilenet_v2'):
    net, params, stats, _ = network(name)
    spec = models.permutation_spec(net)
    leaves = params | stats
    moved = align.permute(leaves, spec,
                          shuffled(align.check_spec(leaves, spec)))
    maps = align.optimal_transport({p: moved[p] for p in params}, params, spec)
    back = align.transport(moved, spec, maps)
    for path in leaves:
      np.testing.assert_array_equal(back[path], leaves[path])


@pytest.mark.parametrize('incoming', ['columns', 'rows'])
def test_transport_is_a_sum_over_units(incoming):
  """Of any maps, to other widths; heads are blocks of three."""
  r = np.random.default_rng(0)
  tree = {'w': r.normal(size=(4, 6)), 'n': r.normal(size=6).astype(np.float32),
          'out': r.normal(size=(6, 4)), 'step': np.arange(3)}
  spec = {'w': ('u', ('h', 3)), 'n': (('h', 3),), 'out': (('h', 3), 'u'),
          'step': (None,)}
  maps = {'u': r.random((4, 5)), 'h': r.random((2, 3))}
  maps = {name: m / m.sum(0) for name, m in maps.items()}
  into = {name: m if incoming == 'columns' else m / m.sum(1, keepdims=True)
          for name, m in maps.items()}  # for axes that are inputs
  heads = lambda x: x.reshape(*x.shape[:-1], 2, 3)
  want = {
      'w': np.einsum('uhk,uv,hg->vgk', heads(tree['w']), into['u'], maps['h']
                     ).reshape(5, 9),
      'n': np.einsum('hk,hg->gk', heads(tree['n']), maps['h']).ravel(),
      'out': np.einsum('hku,hg,uv->gkv', tree['out'].reshape(2, 3, 4),
                       into['h'], maps['u']).reshape(9, 5),
      'step': tree['step']}
  got = align.transport(tree, spec, maps, incoming=incoming)
  for path, leaf in want.items():
    assert got[path].dtype == tree[path].dtype
    np.testing.assert_allclose(got[path], leaf, rtol=1e-6)


def test_optimal_transport_by_features_is_the_assignment():
  r = np.random.default_rng(0)
  features = [{'one': r.normal(size=(9, 7)), 'two': r.normal(size=(9, 2, 6))}
              for _ in 'ab']
  maps = align.optimal_transport(mlp(0), mlp(1), SPEC, features_a=features[0],
                                 features_b=features[1])
  for name, plan in maps.items():
    a, b = (f[name].reshape(-1, f[name].shape[-1]).T for f in features)
    i, j = optimize.linear_sum_assignment(distance.cdist(a, b))
    np.testing.assert_array_equal(plan, np.eye(len(j))[j[np.argsort(i)]])


def duplicated(a):
  """Each unit of A twice, handing on half: the same function, twice as wide."""
  r = np.random.default_rng(5)
  b, copies = dict(a), {}
  for group, size in (('one', 7), ('two', 6)):
    copies[group] = r.permutation(np.repeat(np.arange(size), 2))
  for path, entries in SPEC.items():
    for axis, name in enumerate(entries):
      if name is not None:
        b[path] = b[path].take(copies[name], axis=axis)
        if axis < len(entries) - 1:
          b[path] = b[path] / 2
  return b, copies


def test_optimal_transport_finds_duplicates():
  pytest.importorskip('ot', reason="pip install 'kt_jax[align]'")
  a, x = mlp(0), inputs()
  b, copies = duplicated(a)
  np.testing.assert_allclose(forward(a, x)[0], forward(b, x)[0], 1e-4, 1e-4)
  maps = align.optimal_transport(a, b, SPEC, incoming='rows')
  for group, plan in maps.items():
    np.testing.assert_allclose(plan, np.eye(plan.shape[0])[:, copies[group]],
                               atol=1e-12)
  moved = align.transport(a, SPEC, maps, incoming='rows')
  for path in b:
    np.testing.assert_allclose(moved[path], b[path], rtol=1e-6)
  # The paper's columns hand on the whole to each copy.
  twice = align.transport(a, SPEC, maps)
  np.testing.assert_allclose(twice['fc2/kernel'], 2 * b['fc2/kernel'], 1e-6)
  # Back again: pairs are averaged, and what they hand on is summed.
  back = align.optimal_transport(b, a, SPEC, incoming='rows')
  moved = align.transport(b, SPEC, back, incoming='rows')
  for path in a:
    np.testing.assert_allclose(moved[path], a[path], rtol=1e-5, atol=1e-6)
  features = [forward(p, x)[1] for p in (a, b)]
  again = align.optimal_transport(a, b, SPEC, features_a=features[0],
                                  features_b=features[1])
  for group in maps:
    np.testing.assert_allclose(again[group], maps[group], atol=1e-12)


def test_exact_plans_of_unequal_widths_are_optimal():
  """Against the linear program."""
  pytest.importorskip('ot', reason="pip install 'kt_jax[align]'")
  a, b = mlp(0), mlp(1, (5, 4, 9, 3))
  maps = align.optimal_transport(a, b, SPEC)
  rows = lambda p: np.vstack([p['fc1/kernel'], p['fc1/bias']]).T
  cost = distance.cdist(rows(a), rows(b))
  marginals = np.vstack([np.kron(np.eye(7), np.ones(4)),
                         np.kron(np.ones(7), np.eye(4))])
  best = optimize.linprog(cost.ravel(), A_eq=marginals,
                          b_eq=[1 / 7] * 7 + [1 / 4] * 4)
  np.testing.assert_allclose((maps['one'] / 4 * cost).sum(), best.fun, 1e-8)
  np.testing.assert_allclose(maps['one'].sum(1), 4 / 7, 1e-8)
  moved = align.transport(a, SPEC, maps)
  assert {p: x.shape for p, x in moved.items()} == {
      p: x.shape for p, x in b.items()}


def test_sinkhorn_nears_the_exact_plan():
  pytest.importorskip('ott', reason="pip install 'kt_jax[align]'")
  r = np.random.default_rng(0)
  a, spec = {'k': r.normal(size=(5, 7)), 'n': r.normal(size=7)}, {
      'k': (None, 'u'), 'n': ('u',)}
  order = {'u': r.permutation(7)}
  b = align.permute(a, spec, order)
  plan = align.optimal_transport(a, b, spec, solver='sinkhorn',
                                 regularization=0.01)['u']
  np.testing.assert_allclose(plan, np.eye(7)[:, order['u']], atol=1e-2)
  soft = align.optimal_transport(a, b, spec, solver='sinkhorn',
                                 regularization=10.0)['u']
  np.testing.assert_allclose(soft, 1 / 7, atol=0.05)
  np.testing.assert_allclose(soft.sum(0), 1, rtol=1e-12)


@pytest.mark.parametrize('module,kw', [
    ('ot', {}), ('ott.geometry', {'solver': 'sinkhorn'})])
def test_solvers_that_are_not_installed(module, kw, monkeypatch):
  monkeypatch.setitem(sys.modules, module, None)
  with pytest.raises(ImportError, match=r"'kt_jax\[align\]'"):
    align.optimal_transport(mlp(0), mlp(1, (5, 4, 6, 3)), SPEC, **kw)


def test_units_in_blocks():
  """Heads are blocks; a dense layer reads channels at each of 6 places."""
  r = np.random.default_rng(0)
  spec = {'conv': (None, 'c'), 'dense': ((6, 'c'), None), 'q': (('h', 2),)}
  tree = {'conv': jnp.asarray(r.normal(size=(3, 4)), jnp.bfloat16),
          'dense': r.normal(size=(24, 2)), 'q': np.arange(6)}
  assert align.check_spec(tree, spec) == {'c': 4, 'h': 3}
  order = {'c': np.array([2, 0, 3, 1]), 'h': np.array([1, 2, 0])}
  new = align.permute(tree, spec, order)
  np.testing.assert_array_equal(new['q'], [2, 3, 4, 5, 0, 1])
  assert new['conv'].dtype == jnp.bfloat16
  maps = r.normal(size=(5, 6, 3))  # images of [place, channel]
  flat = lambda m: m.reshape(5, -1)
  run = lambda t: flat(maps @ np.asarray(t['conv'], np.float64)) @ t['dense']
  np.testing.assert_allclose(run(new), run(tree))
  plans = {name: np.eye(len(p))[:, p] for name, p in order.items()}
  for incoming in ('columns', 'rows'):
    carried = align.transport(tree, spec, plans, incoming=incoming)
    for path in tree:
      np.testing.assert_array_equal(carried[path], new[path])
      assert carried[path].dtype == new[path].dtype


@pytest.mark.parametrize('change,words', [
    ({'fc1/kernel': None}, ["leaf 'fc1/kernel'"]),
    ({'fc1/kernel': ('one',)}, ["'fc1/kernel' has 2 axes", 'one for each']),
    ({'fc1/kernel': 'one'}, ["'fc1/kernel'"]),
    ({'fc1/kernel': (None, 'two')}, ["'two' has 7 units in 'fc1/kernel'", '6']),
    ({'fc1/kernel': (None, (2, 'one'))}, ['(5, 7)', 'multiple of 2']),
    ({'fc1/kernel': (None, ('one', 'two'))}, ['sizes and one name']),
    ({'fc1/kernel': (None, ('one', 0))}, ['sizes and one name'])])
def test_refuses_specs(change, words):
  spec = {k: v for k, v in (SPEC | change).items() if v is not None}
  with pytest.raises(core.UserError) as e:
    align.check_spec(mlp(0), spec)
  assert all(word in str(e.value) for word in words), e.value


def test_names_the_nearest_leaf():
  spec = {k.replace('fc1/kernel', 'fc1/kernl'): v for k, v in SPEC.items()}
  with pytest.raises(core.UserError, match="Did you mean 'fc1/kernl'"):
    align.weight_matching(mlp(0), mlp(1), spec)


a_, b_ = mlp(0), mlp(1)
f_ = forward(a_, inputs())[1]


@pytest.mark.parametrize('call,words', [
    (lambda: align.permute(a_, SPEC, {'one': np.arange(7)}),
     "lack group 'two'"),
    (lambda: align.permute(a_, SPEC, {'one': np.zeros(7, int)}), '0 to 6'),
    (lambda: align.weight_matching(a_, mlp(1, (5, 8, 6, 3)), SPEC), '(8,)'),
    (lambda: align.weight_matching(a_, {k: b_[k] for k in list(b_)[1:]}, SPEC),
     'is missing'),
    (lambda: align.activation_matching({'one': f_['one']}, f_, SPEC),
     "lacks group 'two'"),
    (lambda: align.activation_matching(f_ | {'tow': 0}, f_, SPEC),
     "Did you mean 'two'"),
    (lambda: align.activation_matching(
        f_, {k: v[1:] for k, v in f_.items()}, SPEC), '39'),
    (lambda: align.optimal_transport(a_, b_, SPEC, solver='exakt'),
     "Did you mean 'exact'"),
    (lambda: align.optimal_transport(a_, b_, SPEC, features_a=f_), 'together'),
    (lambda: align.optimal_transport(a_, mlp(1, (5, 7, 6, 4)), SPEC),
     'in no group'),
    (lambda: align.optimal_transport(
        {'k': np.ones((3, 3))}, {'k': np.ones((3, 3))}, {'k': ('u', 'u')}),
     'give features'),
    (lambda: align.transport(a_, SPEC, {'one': np.eye(7)}), "group 'two'"),
    (lambda: align.transport(a_, SPEC, {'one': np.eye(6)}), '[7, units of B]'),
    (lambda: align.transport(a_, SPEC, {}, incoming='row'), "'rows'"),
])
def test_refuses(call, words):
  with pytest.raises(core.UserError) as e:
    call()
  assert words in str(e.value)
