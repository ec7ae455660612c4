"""Merging procedures: identities, gradients, searches that go on exactly."""
import io
import json

import cmaes
import jax
from jax import numpy as jnp
import numpy as np
import optax
import pytest

from kt_jax import core
from kt_jax import merge
from kt_jax import procedures

T, D, K = 3, 4, 3


def model(seed, scale=1.0):
  r = np.random.default_rng(seed)
  real = lambda *shape: jnp.asarray(scale * r.normal(size=shape), jnp.float32)
  return {'blocks/0/kernel': real(D, D), 'blocks/0/bias': real(D),
          'blocks/1/kernel': real(D, D),
          'head/kernel': real(D, K), 'step': jnp.asarray(seed, jnp.int32)}


def forward(params, x):
  for i in (0, 1):
    x = jnp.tanh(x @ params[f'blocks/{i}/kernel'] + params['blocks/0/bias'])
  return x @ params['head/kernel']


BASE = model(0)
MODELS = [model(seed) for seed in range(1, T + 1)]
FLOATING = [path for path in BASE if path != 'step']
_R = np.random.default_rng(9)
BATCH = dict(inputs=jnp.asarray(_R.normal(size=(8, D)), jnp.float32),
             labels=jnp.asarray(_R.integers(0, K, 8)))


def same(one, other):
  """Bit for bit, all leaves."""
  assert one.keys() == other.keys()
  for path in one:
    np.testing.assert_array_equal(np.asarray(one[path]).tobytes(),
                                  np.asarray(other[path]).tobytes(), path)


def near(one, other, tol=1e-5):
  assert one.keys() == other.keys()
  for path in one:
    np.testing.assert_allclose(one[path], other[path], tol, tol, err_msg=path)


# --- soups ---


def distance(target):
  """Higher is better: a score whose optimum is `target`."""
  return lambda params: -float(sum(
      jnp.sum((params[path] - target[path])**2) for path in FLOATING))


def test_greedy_soup_never_falls():
  for seed in range(2):
    target = model(100 + seed)
    soup = procedures.greedy_soup(MODELS, distance(target))
    singles = [distance(target)(m) for m in MODELS]
    assert soup.score >= max(singles)
    assert soup.members[0] == int(np.argmax(singles))
    kept = [value for _, value, kept in soup.history if kept]
    assert kept == sorted(kept) and kept[-1] == soup.score
    assert soup.score == distance(target)(soup.params)
    assert [m for m, _, kept in soup.history if kept] == list(soup.members)
    assert len(soup.history) == T


def test_greedy_soup_of_one_is_the_model():
  soup = procedures.greedy_soup(MODELS, distance(MODELS[1]))
  assert soup.members == (1,)
  same(soup.params, MODELS[1])


def test_greedy_soup_takes_equal_scores_and_known_ones():
  calls = []
  soup = procedures.greedy_soup(MODELS, lambda p: calls.append(1) or 1.0,
                                scores=[1.0] * T)
  assert soup.members == (0, 1, 2) and len(calls) == T - 1
  same(soup.params, merge.over_tree(merge.linear, MODELS[0], MODELS,
                                    [1 / T] * T))


# --- coefficients ---


@pytest.mark.parametrize('op,per,parts', [
    (merge.linear, 'model', 1), (merge.linear, 'leaf', 2),
    (merge.task_arithmetic, 'leaf', 1)])
def test_coefficient_gradients(op, per, parts):
  """Against differences of the loss along a direction."""
  start = procedures.init_coefficients(BASE, T, per=per, parts=parts)
  labels = procedures.random_parts(BASE, parts) if parts > 1 else None
  objective = procedures.cross_entropy_objective(forward)

  @jax.jit
  def loss(coefficients):
    return objective(procedures.merge_per_leaf(
        op, BASE, MODELS, coefficients, parts=labels), BATCH)

  grads = jax.grad(loss)(start)
  r = np.random.default_rng(0)
  direction = {name: jnp.asarray(r.choice([-1.0, 1.0], c.shape), jnp.float32)
               for name, c in start.items()}
  step = 2e-3
  move = lambda s: {n: c + s * direction[n] for n, c in start.items()}
  slope = (loss(move(step)) - loss(move(-step))) / (2 * step)
  inner = sum(jnp.vdot(direction[n], g) for n, g in grads.items())
  np.testing.assert_allclose(inner, slope, rtol=1e-2, atol=1e-3)


def test_coefficients_are_scaled_task_vectors():
  """By the formula, per leaf; and per model it is `over_tree`."""
  r = np.random.default_rng(0)
  weight = {path: jnp.asarray(r.normal(size=T), jnp.float32)
            for path in FLOATING}
  got = procedures.merge_per_leaf(merge.linear, BASE, MODELS, weight)
  near(got, {path: BASE[path] if path == 'step' else BASE[path] + sum(
      w * (m[path] - BASE[path]) for w, m in zip(weight[path], MODELS))
             for path in BASE})


@pytest.mark.parametrize('op,settings', [
    (merge.linear, {}), (merge.ties, dict(density=0.5))])
def test_coefficients_per_model_are_over_tree(op, settings):
  flat = jnp.asarray([0.2, 0.3, 0.1])
  near(jax.jit(lambda w: procedures.merge_per_leaf(
      op, BASE, MODELS, {'': w}, **settings))(flat),
       jax.jit(lambda w: merge.over_tree(op, BASE, MODELS, w, **settings))(
           flat))


def test_merge_per_leaf_prefers_exact_paths_then_the_first_regex():
  got = procedures.merge_per_leaf(merge.linear, BASE, MODELS, {
      'kernel': [1.0, 0.0, 0.0], 'blocks': [0.0, 1.0, 0.0],
      'blocks/1/kernel': [0.0, 0.0, 1.0]})
  same(got, {path: {'blocks/0/kernel': MODELS[0], 'head/kernel': MODELS[0],
                    'blocks/0/bias': MODELS[1], 'blocks/1/kernel': MODELS[2]
                    }.get(path, BASE)[path] for path in BASE})


def test_merge_per_leaf_rules_and_missing_weights():
  got = procedures.merge_per_leaf(
      merge.linear, BASE, MODELS, {'blocks': [0.0, 1.0, 0.0]},
      rules=[('bias', None), ('', {})])
  same(got, {path: MODELS[1][path] if 'blocks' in path and 'bias' not in path
             else BASE[path] for path in BASE})


@pytest.mark.parametrize('parts', [1, 2, 3, 7])
def test_parts_cover_each_entry_once(parts):
  labels = procedures.random_parts(BASE, parts, seed=1)
  assert set(labels) == set(FLOATING)
  for path, label in labels.items():
    assert label.shape == BASE[path].shape
    counts = np.bincount(np.asarray(label).ravel(), minlength=parts)
    assert len(counts) == parts and counts.sum() == BASE[path].size
    assert counts.max() - counts.min() <= 1
  if parts > 1:  # leaves of one shape are split apart
    assert (labels['blocks/0/kernel'] != labels['blocks/1/kernel']).any()


def test_parts_move_vectors_and_matrices_alike():
  """Each part of each leaf hears its own coefficient and no other."""
  labels = procedures.random_parts(BASE, 2)
  weight = procedures.init_coefficients(BASE, T, parts=2, value=0.0)
  weight = {path: w.at[1, 1].set(1.0) for path, w in weight.items()}
  got = procedures.merge_per_leaf(merge.linear, BASE, MODELS, weight,
                                  parts=labels)
  same(got, {path: jnp.where(labels[path] == 1, MODELS[1][path], BASE[path])
             if path in labels else BASE[path] for path in BASE})


def test_learned_coefficients_lower_the_entropy():
  traced = []
  def traced_forward(params, x):
    traced.append(x)
    return forward(params, x)
  learned = procedures.learned_coefficients(
      procedures.task_sum_objective(
          dict(a=procedures.entropy_objective(traced_forward))),
      optax.adam(0.05), bounds=(0.0, 1.0))
  state = learned.init(procedures.init_coefficients(BASE, T))
  batch = dict(a=dict(inputs=BATCH['inputs']))
  values = []
  for _ in range(15):
    state, value = learned.step(state, BASE, MODELS, batch)
    values.append(float(value))
  assert values[-1] < values[0] and int(state.count) == 15
  assert len(traced) == 1
  merged = learned.params(state.theta, BASE, MODELS)
  assert merged.keys() == BASE.keys()


def test_learned_coefficients_go_on_from_what_was_saved():
  learned = procedures.learned_coefficients(
      procedures.cross_entropy_objective(forward), optax.adamw(0.1),
      merge.dare, key=jax.random.key(0), density=0.5)
  state = learned.init(procedures.init_coefficients(BASE, T, per='model'))
  states = [state]
  for _ in range(4):
    states.append(learned.step(states[-1], BASE, MODELS, BATCH)[0])
  again = jax.tree.map(lambda x: jnp.asarray(np.asarray(x)), states[2])
  for _ in range(2):
    again, _ = learned.step(again, BASE, MODELS, BATCH)
  same(again.theta, states[4].theta)


def test_objectives():
  logits = np.asarray(forward(BASE, BATCH['inputs']), np.float64)
  log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
  ce = lambda labels: -log_p[np.arange(8), labels].mean()
  labels = np.asarray(BATCH['labels'])
  other = dict(BATCH, labels=jnp.asarray((labels + 1) % K))
  entropy = procedures.entropy_objective(forward)
  cross = procedures.cross_entropy_objective(forward)
  close = lambda got, want: np.testing.assert_allclose(got, want, rtol=1e-5)
  close(entropy(BASE, BATCH), -np.mean(np.sum(np.exp(log_p) * log_p, 1)))
  close(cross(BASE, BATCH), ce(labels))
  close(procedures.negation_objective(forward)(
      BASE, dict(target=BATCH, control=other)),
        ce((labels + 1) % K) - ce(labels))
  close(procedures.task_sum_objective(dict(a=cross, b=entropy))(
      BASE, dict(a=other, b=BATCH)), cross(BASE, other) + entropy(BASE, BATCH))
  # A class that is masked out adds nothing.
  masked = lambda params, x: forward(params, x).at[:, 1].set(-jnp.inf)
  some = np.delete(logits, 1, 1)
  p = np.exp(some) / np.exp(some).sum(1, keepdims=True)
  close(procedures.entropy_objective(masked)(BASE, BATCH),
        -np.mean(np.sum(p * np.log(p), 1)))


def test_descent_by_hand():
  """Two steps with momentum and weight decay, which reads theta."""
  descent = procedures.descend(
      lambda theta, c: jnp.sum(c * theta['x']**2),
      optax.chain(optax.add_decayed_weights(0.3), optax.sgd(0.1, momentum=0.5)))
  x, c, velocity = np.array([1.0, -2.0]), np.array([0.5, 3.0]), 0
  state = descent.init(dict(x=x))
  for _ in range(2):
    state, value = descent.step(state, c)
    np.testing.assert_allclose(value, np.sum(c * x**2), rtol=1e-6)
    velocity = 0.5 * velocity + 2 * c * x + 0.3 * x
    x = x - 0.1 * velocity
    np.testing.assert_allclose(state.theta['x'], x, rtol=1e-6)


def test_coefficients_are_clipped():
  """Beyond the bounds the gradient is 0, within it is the merge's."""
  learned = procedures.learned_coefficients(
      lambda params, batch: jnp.sum(params['x'] * batch), optax.sgd(0.1),
      merge.task_arithmetic, bounds=(-0.1, 0.25), scale=0.7)
  base, models = {'x': jnp.ones(2)}, [{'x': jnp.asarray(v)} for v in (
      [2.0, 4.0], [0.0, 3.0], [5.0, 1.0])]
  theta = {'': jnp.asarray([0.9, 0.2, -0.5])}
  near(learned.params(theta, base, models), {
      'x': 1 + 0.7 * (0.25 * np.array([1.0, 3]) + 0.2 * np.array([-1.0, 2])
                      - 0.1 * np.array([4.0, 0]))})
  state, _ = learned.step(learned.init(theta), base, models,
                          jnp.asarray([1.0, 2.0]))
  near(state.theta, {'': np.array([0.9, 0.2 - 0.1 * 0.7 * 3, -0.5])})


# --- searches ---


def quadratic(genome):
  """Maximal, 0, at 0.3; badly scaled."""
  return -jnp.sum((10.0**jnp.linspace(0, 1, genome.size))
                  * (genome - 0.3)**2)


def run(search, state, generations, score=quadratic):
  for _ in range(generations):
    genomes = search.ask(state)
    state = search.tell(state, genomes, procedures.evaluate_population(
        score, genomes, batch_size=8))
  return state


def through_json(state):
  text = json.dumps({k: [v.dtype.str, v.tolist()] for k, v in state.items()})
  return {k: np.array(v, dtype) for k, (dtype, v) in json.loads(text).items()}


def through_npz(state):
  file = io.BytesIO()
  np.savez(file, **state)
  file.seek(0)
  return dict(np.load(file, allow_pickle=False))


SEARCHES = {
    'cma': lambda: procedures.cma_es(np.zeros(6), 0.5, seed=3),
    'diagonal': lambda: procedures.cma_es(np.zeros(6), 0.5, diagonal=True),
    'bounded': lambda: procedures.cma_es(np.zeros(6), 0.5, bounds=(-0.2, 0.2)),
    'random': lambda: procedures.random_search(np.zeros(6), 0.5, population=9),
}


@pytest.mark.parametrize('name', SEARCHES)
@pytest.mark.parametrize('save', [through_json, through_npz])
def test_search_goes_on_bit_for_bit(name, save):
  """Saved after 3 generations and read by a new search, as if never stopped."""
  search = SEARCHES[name]()
  middle = run(search, search.init(), 3)
  saved = save(middle)
  same(saved, middle)
  whole, resumed = run(search, middle, 4), run(SEARCHES[name](), saved, 4)
  same(whole, resumed)
  same(saved, middle)  # a step leaves the state that it was given alone
  assert int(whole['generation']) == 7
  np.testing.assert_array_equal(search.ask(whole), search.ask(whole))


@pytest.mark.parametrize('kw', [
    {}, dict(population=7, bounds=[(-1, 0.5), (0, 1), (-2, 2)]),
    dict(diagonal=True, population=5)])
def test_cma_es_is_that_of_the_package(kw):
  mean, sigma = np.array([0.2, 0.7, -1.0]), 0.4
  kind = cmaes.SepCMA if kw.get('diagonal') else cmaes.CMA
  bounds = kw.get('bounds')
  theirs = kind(mean=mean, sigma=sigma, population_size=kw.get(
      'population', 4 + int(3 * np.log(3))), bounds=None if bounds is None
                else np.asarray(bounds, float))
  search = procedures.cma_es(mean, sigma, seed=5, **kw)
  state = search.init()
  for generation in range(3):
    theirs.reseed_rng(np.random.SeedSequence([5, generation]).generate_state(
        1)[0])
    want = [theirs.ask() for _ in range(theirs.population_size)]
    genomes = search.ask(state)
    np.testing.assert_allclose(genomes, want, rtol=1e-9, atol=1e-12)
    fitness = -np.sum((genomes - 0.3)**2, 1)
    theirs.tell([(x, -value) for x, value in zip(want, fitness)])
    state = search.tell(state, genomes, fitness)
  np.testing.assert_allclose(state['mean'], theirs.mean, rtol=1e-9, atol=1e-12)


def test_random_search_draws_from_its_distribution():
  mean, sigma = np.array([0.2, -3.0]), 0.4
  state = procedures.random_search(mean).init()
  draw = lambda **kw: procedures.random_search(
      mean, sigma, population=4000, **kw).ask(state)
  genomes = draw(seed=2)
  np.testing.assert_allclose(genomes.mean(0), mean, atol=0.03)
  np.testing.assert_allclose(genomes.std(0), sigma, atol=0.02)
  assert not np.array_equal(genomes, draw(seed=3))
  bounded = draw(bounds=[(0, 0.5), (-4, -1)])
  np.testing.assert_allclose(bounded.min(0), [0, -4], atol=0.01)
  np.testing.assert_allclose(bounded.max(0), [0.5, -1], atol=0.01)


def test_search_keeps_the_best():
  search = SEARCHES['cma']()
  state = run(search, search.init(), 40)
  # 360 scores of a quadratic in 6 dimensions; random search reaches -0.4.
  assert state['best_fitness'] > -0.05
  np.testing.assert_allclose(
      quadratic(jnp.asarray(state['best_genome'], jnp.float32)),
      state['best_fitness'], rtol=1e-5, atol=1e-12)
  other = SEARCHES['random']()
  assert run(other, other.init(), 40)['best_fitness'] < state['best_fitness']


def test_search_survives_bad_fitness_and_refuses_bad_input():
  search = SEARCHES['cma']()
  state = search.init()
  genomes = search.ask(state)
  fitness = np.where(np.arange(len(genomes)) == 2, 1.0, np.nan)
  state = search.tell(state, genomes, fitness)
  np.testing.assert_array_equal(state['best_genome'], genomes[2])
  assert np.isfinite(search.ask(state)).all()
  with pytest.raises(core.UserError, match='fitness'):
    search.tell(state, genomes, fitness[1:])
  with pytest.raises(core.UserError, match='float32'):
    search.ask({k: np.float32(v) for k, v in state.items()})
  with pytest.raises(core.UserError, match='9 genomes of 6'):
    procedures.cma_es(np.zeros(6), population=7).ask(state)
  with pytest.raises(core.UserError, match='bounds'):
    procedures.cma_es([2.0], bounds=(0, 1))
  with pytest.raises(core.UserError, match='sigma'):
    procedures.random_search([2.0], -1.0)


def test_population_is_compiled_once():
  """Whatever the generation and the population; padding changes nothing."""
  traces = []
  def score(genome, params):
    traces.append(1)
    return jnp.sum(genome * params['x'])
  r = np.random.default_rng(0)
  for count in (8, 8, 3, 17, 1):
    genomes = r.normal(size=(count, 5))
    got = procedures.evaluate_population(score, genomes,
                                         {'x': jnp.arange(5.0)}, batch_size=4)
    np.testing.assert_allclose(got, genomes @ np.arange(5.0), rtol=1e-5,
                               atol=1e-6)
  assert len(traces) == 1


@pytest.mark.parametrize('op,genes,groups,count', [
    (merge.linear, ('weight',), 'layer', 3),
    (merge.linear, ('weight',), 'leaf', 4),
    (merge.linear, ('weight',), ('bias', 'kernel'), 2),
    (merge.ties, ('weight', 'density'), 'model', 1),
    (merge.ties, ('weight', 'density'), 'layer', 3)])
def test_parameter_space_is_the_recipe(op, genes, groups, count):
  """A genome's merge is that of the numbers that it is said to stand for."""
  space = procedures.parameter_space(op, BASE, T, groups=groups, genes=genes)
  assert space.size == count * T * len(genes) == len(space.mean)
  genome = np.random.default_rng(1).uniform(0, 1.2, space.size).astype('f')
  got = jax.jit(space.decode)(genome, BASE, MODELS)
  recipe = space.recipe(genome)
  assert len(recipe) == count
  want = dict(BASE)
  for pattern, chosen in recipe.items():
    one = jax.jit(lambda chosen, pattern=pattern: merge.over_tree(
        op, BASE, MODELS, rules=[(pattern, {}), ('', None)], **chosen))(
            {gene: jnp.asarray(values) for gene, values in chosen.items()})
    want |= {path: leaf for path, leaf in one.items()
             if (leaf != BASE[path]).any()}
  near(got, want)
  same({'step': got['step']}, {'step': BASE['step']})


def test_parameter_space_search_of_drawing_operators():
  """DARE-TIES genes, one program, the same masks for all genomes."""
  traces = []
  space = procedures.parameter_space(
      merge.dare, BASE, T, groups='model', genes=('weight', 'density'),
      elect='sum', key=jax.random.key(0))
  def score(genome, base, models):
    traces.append(1)
    merged = space.decode(genome, base, models)
    return -jnp.sum(merged['head/kernel']**2)
  for population in (6, 4):
    search = procedures.cma_es(space.mean, population=population)
    state, fitness = search.init(), []
    for _ in range(2):
      genomes = search.ask(state)
      fitness = procedures.evaluate_population(score, genomes, BASE, MODELS,
                                               batch_size=4)
      state = search.tell(state, genomes, fitness)
    assert np.isfinite(fitness).all()
  assert len(traces) == 1


def block(layer, h):
  return h + jnp.tanh(h @ layer['kernel']) * layer['gain']


def test_data_flow_is_the_path_by_hand():
  layers, repeats = 4, 2
  r = np.random.default_rng(0)
  stacked = dict(kernel=jnp.asarray(r.normal(size=(layers, D, D)), jnp.float32),
                 gain=jnp.asarray(r.normal(size=layers), jnp.float32))
  flow = procedures.data_flow(block, layers, repeats=repeats, first=2, bias=0.2)
  assert flow.path(flow.mean) == [0, 1]
  np.testing.assert_array_equal(flow.mean, [0.2] * 2 + [-0.2] * 6 + [1] * 16)
  traces = []
  @jax.jit
  def apply(genome, x):
    traces.append(1)
    return flow.apply(genome, stacked, x)
  for seed in range(4):
    genome = np.random.default_rng(seed).normal(size=flow.size).astype('f')
    if seed == 3:
      genome[:layers * repeats] = -1  # nothing taken
    h, before, scales = BATCH['inputs'], None, flow.scales(genome)
    for j in flow.path(genome):
      scale = 1 if before is None else scales[before, j]
      h = block(jax.tree.map(lambda leaf: leaf[j], stacked), scale * h)
      before = j
    np.testing.assert_allclose(apply(genome, BATCH['inputs']), h, rtol=1e-4,
                               atol=1e-4)
  assert len(traces) == 1
  # The start is model A itself, and W is no gene where it is not searched.
  plain = procedures.data_flow(block, layers, repeats=repeats, first=2,
                               scaled=False)
  assert plain.size == layers * repeats
  np.testing.assert_allclose(
      plain.apply(plain.mean, stacked, BATCH['inputs']),
      apply(flow.mean, BATCH['inputs']), rtol=1e-6)


# --- twins, swaps, patches, singular values ---


def test_twin_at_full_rank_is_the_weighted_sum_of_experts():
  twin = procedures.twin_merging(BASE, MODELS, rank=1.0)
  weight = jnp.asarray([0.5, 0.2, 0.3])
  near(procedures.twin_params(twin, weight),
       {path: sum(w * m[path] for w, m in zip(weight, MODELS))
        if path != 'step' else BASE[path] for path in BASE}, 1e-4)
  near(procedures.twin_params(twin, jnp.zeros(T)),
       merge.over_tree(merge.linear, BASE, MODELS, [0.3] * T))


def test_twin_at_low_rank_is_the_truncated_difference():
  twin = procedures.twin_merging(BASE, MODELS, rank=2, skip=['head'])
  assert twin.left['blocks/0/kernel'].shape == (T, D, 2)
  assert 'head/kernel' not in twin.left and 'blocks/0/bias' in twin.whole
  path = 'blocks/0/kernel'
  for k in range(T):
    u, s, vt = np.linalg.svd(MODELS[k][path] - twin.shared[path])
    np.testing.assert_allclose(twin.left[path][k] @ twin.right[path][k],
                               (u[:, :2] * s[:2]) @ vt[:2], rtol=1e-4,
                               atol=1e-4)


def test_twin_shares_the_scaled_sum():
  twin = procedures.twin_merging(BASE, MODELS, scale=0.7, rank=0.5)
  path = 'blocks/0/kernel'
  np.testing.assert_allclose(
      twin.shared[path], BASE[path] + 0.7 * sum(
          m[path] - BASE[path] for m in MODELS), rtol=1e-5, atol=1e-5)
  assert twin.left[path].shape == (T, D, D // 2)
  assert twin.left['head/kernel'].shape == (T, D, 1)  # int(0.5 * 3)
  near(dict(b=twin.whole['blocks/0/bias']), dict(b=jnp.stack([
      m['blocks/0/bias'] - twin.shared['blocks/0/bias'] for m in MODELS])))


def test_twin_each_example_has_its_model():
  twin = procedures.twin_merging(BASE, MODELS, rank=0.5)
  r = np.random.default_rng(0)
  weight = jnp.asarray(r.dirichlet(np.ones(T), size=8), jnp.float32)
  got = procedures.twin_forward(forward, twin, weight, BATCH['inputs'],
                                batch_size=3)
  last = procedures.twin_params(twin, weight[7])
  np.testing.assert_allclose(got[7:], forward(last, BATCH['inputs'][7:]),
                             rtol=1e-4, atol=1e-5)
  path = 'head/kernel'
  for x in (BATCH['inputs'], jnp.stack([BATCH['inputs']] * 2, 1)):
    got = procedures.twin_dense(x, twin.shared[path], twin.left[path],
                                twin.right[path], weight)
    np.testing.assert_allclose(got[7], x[7] @ last[path], rtol=1e-4, atol=1e-5)


def test_router_learns_who_is_asked():
  r = np.random.default_rng(0)
  tasks = r.integers(0, T, 60)
  features = jnp.asarray(100 * np.eye(T)[tasks] + r.normal(size=(60, T)))
  router = procedures.mlp_router(T, optax.adamw(3e-2), width=8)
  state = router.init(jax.random.key(0), features)
  standard = state.theta['standard']
  for step in range(30):
    state, _ = router.step(state, jax.random.key(step), features, tasks)
  weight = router.weights(state.theta, features)
  np.testing.assert_allclose(weight.sum(1), 1, rtol=1e-5)
  assert (weight.argmax(1) == tasks).mean() > 0.9
  jax.tree.map(np.testing.assert_array_equal, standard,
               state.theta['standard'])


@pytest.mark.parametrize('width,hidden', [(None, 2 * D), (5, 5)])
def test_router_by_hand(width, hidden):
  r = np.random.default_rng(0)
  features = r.normal(size=(30, D)) * [1, 5, 1, 1] + [0, 2, 0, 0]
  features[:, 3] = 7  # constant
  tasks = r.integers(0, T, 30)
  router = procedures.mlp_router(T, width=width, dropout=0.3)
  state = router.init(jax.random.key(0), features)
  layers = [[np.asarray(x, np.float64) for x in layer]
            for layer in state.theta['layers']]
  assert [len(bias) for _, bias in layers] == [hidden, hidden, T]

  def logits(key=None):
    std = np.where(features.std(0) == 0, 1, features.std(0))
    h = (features - features.mean(0)) / std
    for n, (kernel, bias) in enumerate(layers):
      h = h @ kernel + bias
      if n < 2:
        h = np.where(h > 0, h, 0.01 * h)
        if key is not None:
          h = h * jax.random.bernoulli(jax.random.fold_in(key, n), 0.7, h.shape
                                       ) / 0.7
    return h

  e = np.exp(logits())
  np.testing.assert_allclose(router.weights(state.theta, features),
                             e / e.sum(1, keepdims=True), 1e-4, 1e-5)
  _, loss = router.step(state, jax.random.key(4), features, tasks)
  z = logits(jax.random.key(4))
  np.testing.assert_allclose(loss, np.mean(
      np.log(np.exp(z).sum(1)) - z[np.arange(30), tasks]), rtol=1e-4)


@pytest.mark.parametrize('kw,want', [
    (dict(bottom=2, top=1, transition=2, others=0.3),
     [0, 0, 0.5, 0.5, 1, 0.5, 0.5, 0]),
    (dict(bottom=0, top=3, transition=1), [0.5, 1, 1, 1, 0.5, 0, 0, 0]),
    (dict(transition=0), [0] * 5 + [1] + [0] * 2)])
def test_swap_weights(kw, want):
  weight = procedures.swap_weights(stack(0), **kw)
  assert [weight[f'blocks/{i}/w'] for i in range(8)] == want
  assert weight['embed'] == weight['head'] == kw.get('others', 0.0)


def stack(seed, layers=8):
  r = np.random.default_rng(seed)
  paths = ['embed', 'head'] + [f'blocks/{i}/w' for i in range(layers)]
  return {path: jnp.asarray(r.normal(size=3), jnp.bfloat16) for path in paths}


def test_layer_swap_zones():
  language, task = stack(0), stack(1)
  got = procedures.layer_swap(language, task, bottom=2, top=1)
  half = merge.over_tree(merge.linear, language, [task], [0.5])
  zone = [language] * 2 + [half] + [task] * 3 + [half] + [language]
  same(got, {path: language[path] if path in ('embed', 'head')
             else zone[int(path.split('/')[1])][path] for path in got})
  inverse = procedures.layer_swap(task, language, bottom=2, top=1, others=1.0)
  same({'embed': inverse['embed'], 'blocks/4/w': inverse['blocks/4/w'],
        'blocks/7/w': inverse['blocks/7/w']},
       {'embed': language['embed'], 'blocks/4/w': language['blocks/4/w'],
        'blocks/7/w': task['blocks/7/w']})
  everything = procedures.layer_swap(language, task, bottom=0, top=0,
                                     transition=0, others=1.0)
  same(everything, task)
  with pytest.raises(core.UserError, match='8 layers'):
    procedures.layer_swap(language, task, bottom=5, top=2, transition=1)


def test_patches_are_carried():
  patch = procedures.task_patch(MODELS[0], BASE)
  near(procedures.apply_patch(BASE, patch), MODELS[0] | {'step': BASE['step']})
  # The same as the algebra of task vectors.
  near(procedures.apply_patch(MODELS[1], patch, scale=0.5),
       merge.over_tree(merge.task_arithmetic, MODELS[1], [MODELS[0], BASE],
                       [0.5, -0.5]))
  same(procedures.apply_patch(MODELS[1], procedures.task_patch(BASE, BASE)),
       MODELS[1])
  # Away again; skipped leaves stay.
  there = procedures.apply_patch(MODELS[1], patch)
  near(procedures.apply_patch(there, patch, scale=-1.0), MODELS[1])
  part = procedures.task_patch(MODELS[0], BASE, skip=['head'])
  assert 'head/kernel' not in part and 'step' not in part


def test_patches_of_low_rank():
  r = np.random.default_rng(0)
  b, a = (jnp.asarray(r.normal(size=s), jnp.float32) for s in ((D, 1), (1, D)))
  path = 'blocks/0/kernel'
  tuned = BASE | {path: BASE[path] + b @ a}
  lora = procedures.apply_patch(MODELS[1], {path: (b, a)})
  cut = procedures.task_patch(tuned, BASE, rank=1)
  assert cut[path][0].shape == (D, 1)
  assert procedures.task_patch(MODELS[0], BASE, rank=0.5)[path][1].shape == (
      D // 2, D)
  near(procedures.apply_patch(MODELS[1], cut), lora)
  near(procedures.apply_patch(MODELS[1], procedures.task_patch(tuned, BASE)),
       lora)
  with pytest.raises(core.UserError, match='blocks/0/kernel'):
    procedures.apply_patch(MODELS[1], {'blocks/0/kernl': (b, a)})


def test_singular_values_start_at_the_merge_and_stop_at_its_rank():
  merged = merge.over_tree(merge.linear, BASE, MODELS, [0.3] * T)
  r = np.random.default_rng(0)
  path = 'blocks/1/kernel'
  low = jnp.asarray(r.normal(size=(D, 1)) @ r.normal(size=(1, D)), jnp.float32)
  merged[path] = BASE[path] + low
  values, basis = procedures.singular_values(BASE, merged, rank=2)
  assert values['blocks/0/kernel'].shape == (2,)
  assert basis.rest['blocks/0/kernel'].shape == (D - 2,)
  assert values[path].shape == (1,) and basis.rest[path].shape == (0,)
  near(procedures.singular_params(values, basis), merged)
  # Only along the top triplets does training move anything.
  objective = procedures.cross_entropy_objective(forward)
  descent = procedures.descend(
      lambda values, basis, batch: objective(
          procedures.singular_params(values, basis), batch), optax.adam(1e-1))
  state, losses = descent.init(values), []
  for _ in range(10):
    state, value = descent.step(state, basis, BATCH)
    losses.append(float(value))
  assert losses[-1] < losses[0]
  moved = procedures.singular_params(state.theta, basis)
  change = np.asarray(moved['blocks/0/kernel'] - merged['blocks/0/kernel'])
  assert np.linalg.matrix_rank(change, tol=1e-4) <= 2
  same({'b': moved['blocks/0/bias']}, {'b': merged['blocks/0/bias']})


@pytest.mark.parametrize('call,says', [
    (lambda: procedures.greedy_soup([], len), 'models is empty'),
    (lambda: procedures.greedy_soup(MODELS, len, scores=[1.0]), 'scores'),
    (lambda: procedures.init_coefficients(BASE, T, per='leef'), 'leaf'),
    (lambda: procedures.init_coefficients(BASE, T, per='model', parts=2),
     'parts'),
    (lambda: procedures.parameter_space(merge.linear, BASE, T, groups='layr'),
     'layer'),
    (lambda: procedures.parameter_space(merge.linear, BASE, T).decode(
        jnp.zeros(2), BASE, MODELS), '9 genes'),
    (lambda: procedures.data_flow(block, 0), 'layers'),
    (lambda: procedures.twin_merging(BASE, MODELS, rank=0), 'rank'),
    (lambda: procedures.singular_values(BASE, BASE, rank=2.0), 'rank'),
    (lambda: procedures.evaluate_population(quadratic, np.zeros(3),
                                            batch_size=2), 'genomes'),
    (lambda: procedures.evaluate_population(lambda g: g, np.zeros((2, 3))),
     'scalar'),
    (lambda: procedures.task_patch(BASE, {'x': 1.0}), 'lacks leaf'),
    (lambda: procedures.task_patch(BASE, BASE | {'step': jnp.ones(2)}), 'step'),
])
def test_bad_input_is_refused(call, says):
  with pytest.raises(core.UserError, match=says):
    call()


def test_domain_shares():
  """First a softmax; then mass moves to the gap, over a floor; no overflow."""
  ratios, shares = np.array([1.0, 3.0, 2.0]), np.array([0.5, 0.2, 0.3])
  psi = shares * np.exp(np.minimum(ratios, 2.5))
  np.testing.assert_allclose(
      procedures.domain_shares(ratios, shares, smoothing=0.2, limit=2.5),
      0.8 * psi / psi.sum() + 0.2 / 3)
  first = procedures.domain_shares([1.0, 2.0], None)
  np.testing.assert_allclose(first[1] / first[0], np.e)
  after = procedures.domain_shares([1.0, 2.0], first, smoothing=0.5)
  # psi is proportional to (1, e^2).
  np.testing.assert_allclose(after, 0.5 * np.array(
      [1, np.e**2]) / (1 + np.e**2) + 0.25)
  even = procedures.domain_shares([1e9, 50.0], [0.5, 0.5])
  np.testing.assert_allclose(even, [0.5, 0.5])
  with pytest.raises(ValueError, match='smoothing'):
    procedures.domain_shares([1.0], None, smoothing=2.0)
