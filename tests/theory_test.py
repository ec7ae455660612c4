"""Closed forms of procedures against theorems and other computations."""
import jax
from jax import numpy as jnp
import numpy as np
import pytest
from sklearn import kernel_ridge
from sklearn import metrics

from kt_jax import core
from kt_jax import losses
from kt_jax import procedures

# Self-distillation: eleven noisy points of a sinusoid, the paper's example.

X = np.linspace(0, 1, 11)[:, None]
Y = np.array([
    0.38476636465198066, 1.2333967683416893, 1.33232242218057,
    0.69201594888895180, -0.29756145531871736, -0.24189291901377769,
    -0.7964485769175675, -0.9616480167034174, -0.49672509509916934,
    -0.3469066003991437, 0.5589512650600734])
GRID = np.arange(0, 1.01, 0.01)[:, None]
RIDGE = 0.2
rbf = lambda a, b: metrics.pairwise.rbf_kernel(a, b, gamma=80)
KERNEL, AT = rbf(X, X), rbf(GRID, X)


def error(predicted):
  """Mean squared error from the curve without noise."""
  return np.mean((predicted - np.sin(2 * np.pi * GRID[:, 0]))**2)


def chain(weight, steps):
  """One ridge regression of scikit-learn per step, predictions at the grid."""
  fitted, out = Y, []
  for _ in range(steps):
    model = kernel_ridge.KernelRidge(alpha=RIDGE, kernel='rbf', gamma=80)
    model.fit(X, weight * Y + (1 - weight) * fitted)
    fitted = model.predict(X)
    out.append(model.predict(GRID))
  return np.stack(out)


@pytest.mark.parametrize('weight', [0.0, 0.25, 0.35, 1.0])
def test_steps_are_ridge_regressions(weight):
  fit = procedures.self_distillation_fit(
      KERNEL, Y, RIDGE, label_weight=weight, steps=8, at=AT)
  np.testing.assert_allclose(fit, chain(weight, 8), rtol=1e-8, atol=1e-10)
  several = procedures.self_distillation_fit(
      KERNEL, np.stack([Y, 2 * Y], 1), RIDGE, label_weight=weight, steps=8,
      at=AT)
  np.testing.assert_allclose(several[..., 0], fit, atol=1e-10)
  np.testing.assert_allclose(several[..., 1], 2 * fit, atol=1e-10)


def test_a_step_minimizes_its_objective():
  weight = 0.3
  first, second = procedures.self_distillation_fit(
      KERNEL, Y, RIDGE, label_weight=weight, steps=2)
  def objective(coefficients):
    f = KERNEL @ coefficients
    return 0.5 * (weight * np.sum((f - Y)**2)
                  + (1 - weight) * np.sum((f - first)**2)
                  + RIDGE * coefficients @ KERNEL @ coefficients)
  best = np.linalg.solve(KERNEL, second)
  rng = np.random.default_rng(0)
  for scale in (1e-3, 1e-1, 1):
    for _ in range(20):
      assert objective(best + scale * rng.normal(size=11)) > objective(best)


@pytest.mark.parametrize('weight', [0.0, 0.25, 0.35, 0.7, 1.0])
def test_steps_equal_their_spectrum(weight):
  fit = procedures.self_distillation_fit(
      KERNEL, Y, RIDGE, label_weight=weight, steps=12)
  vectors, filters = procedures.self_distillation_spectrum(
      KERNEL, RIDGE, label_weight=weight, steps=12)
  np.testing.assert_allclose((filters * (vectors.T @ Y)) @ vectors.T, fit,
                             atol=1e-6)
  # The recursion itself.
  values = np.linalg.eigvalsh(KERNEL)
  one = values / (values + RIDGE)
  b = one
  for t in range(12):
    np.testing.assert_allclose(filters[t], b, atol=1e-12)
    b = one * (weight + (1 - weight) * b)


@pytest.mark.parametrize('weight', [0.25, 0.35, 0.7, 1.0])
def test_the_limit_is_ridge_regression_with_a_larger_ridge(weight):
  limit = procedures.self_distillation_limit(
      KERNEL, Y, RIDGE, label_weight=weight, at=AT)
  model = kernel_ridge.KernelRidge(alpha=RIDGE / weight, kernel='rbf', gamma=80)
  np.testing.assert_allclose(limit, model.fit(X, Y).predict(GRID), atol=1e-10)
  fit = procedures.self_distillation_fit(
      KERNEL, Y, RIDGE, label_weight=weight, steps=50, at=AT)
  np.testing.assert_allclose(fit[-1], limit, atol=1e-6)
  # The path over ridges contains it.
  path = procedures.kernel_ridge_path(
      KERNEL, Y, [RIDGE, RIDGE / weight], at=AT)
  np.testing.assert_allclose(path[0], fit[0], atol=1e-10)
  np.testing.assert_allclose(path[1], limit, atol=1e-10)


def test_without_labels_it_collapses_and_with_labels_alone_it_stays():
  fit = lambda weight, steps: procedures.self_distillation_fit(
      KERNEL, Y, RIDGE, label_weight=weight, steps=steps)
  assert np.abs(fit(0.0, 2000)[-1]).max() < 1e-6
  assert not procedures.self_distillation_limit(
      KERNEL, Y, RIDGE, label_weight=0.0).any()
  np.testing.assert_allclose(fit(1.0, 5), np.tile(fit(1.0, 1), (5, 1)),
                             atol=1e-12)


@pytest.mark.parametrize('weight, want', [
    (0.0, [0.16477, 0.15076, 0.14915, 0.15561, 0.16735, 0.18251]),
    (0.35, [0.16477, 0.15424, 0.15089, 0.14983, 0.14954, 0.14948])])
def test_errors_of_the_toy(weight, want):
  """The table of the authors' public code."""
  fit = procedures.self_distillation_fit(
      KERNEL, Y, RIDGE, label_weight=weight, steps=6, at=AT)
  np.testing.assert_allclose([error(f) for f in fit], want, atol=6e-6)
  limit = procedures.self_distillation_limit(
      KERNEL, Y, RIDGE, label_weight=weight, at=AT)
  assert abs(error(limit) - (0.14959 if weight else 0.49505)) < 6e-6


def test_without_labels_the_error_is_u_shaped_with_them_it_settles():
  errors = {weight: [error(f) for f in procedures.self_distillation_fit(
      KERNEL, Y, RIDGE, label_weight=weight, steps=50, at=AT)]
            for weight in (0.0, 0.25, 0.35)}
  u = errors[0.0]
  assert np.argmin(u) == 2
  assert np.all(np.diff(u[:3]) < 0) and np.all(np.diff(u[2:]) > 0)
  np.testing.assert_allclose(
      [errors[0.25][t - 1] for t in (1, 2, 3, 6, 50)],
      [0.1648, 0.1531, 0.1496, 0.1501, 0.1525], atol=6e-5)
  for weight in (0.25, 0.35):
    assert np.abs(np.diff(errors[weight][30:])).max() < 1e-6


def test_ratio_of_filters_grows_without_limit_only_without_labels():
  filters = lambda weight: procedures.self_distillation_spectrum(
      KERNEL, RIDGE, label_weight=weight, steps=40)[1]
  ratio = lambda b: b[:, -1] / b[:, 0]  # largest eigenvalue over smallest
  b = filters(0.0)
  np.testing.assert_allclose(
      ratio(b), (b[0, -1] / b[0, 0])**np.arange(1, 41), rtol=1e-8)
  settled = ratio(filters(0.25))
  values = np.linalg.eigvalsh(KERNEL)
  limit = 0.25 * values / (0.25 * values + RIDGE)
  np.testing.assert_allclose(settled[-1], limit[-1] / limit[0], rtol=1e-6)
  # It overshoots: no monotone growth.
  np.testing.assert_allclose(
      [*settled[:2], settled.max(), settled[-1]], [1.80, 2.67, 3.61, 3.51],
      atol=0.006)


@pytest.mark.parametrize('step', [2, 3, 5])
def test_best_label_weight_is_that_of_a_grid_search(step):
  rng = np.random.default_rng(step)
  points = rng.uniform(size=(15, 1))
  truth = np.sin(2 * np.pi * points[:, 0]) + rng.normal(size=15) * 0.3
  at = rbf(points, X)
  before = procedures.self_distillation_fit(
      KERNEL, Y, RIDGE, label_weight=0.3, steps=step - 1)[-1]
  best = procedures.optimal_label_weight(
      KERNEL, Y, before, RIDGE, at=at, at_targets=truth)
  def loss(weight):
    mixed = weight * Y + (1 - weight) * before
    predicted = at @ np.linalg.solve(KERNEL + RIDGE * np.eye(11), mixed)
    return np.sum((truth - predicted)**2)
  grid = best + np.linspace(-1, 1, 20001)
  assert abs(grid[np.argmin([loss(w) for w in grid])] - best) < 1e-4
  # It has no bounds: for labels far beyond the model it is above 1.
  far = procedures.optimal_label_weight(
      KERNEL, Y, before, RIDGE, at=at, at_targets=truth * 5)
  assert far > 1


SELF = dict(kernel=KERNEL, targets=Y, ridge=RIDGE)
BAD = [
    (lambda: procedures.self_distillation_fit(
        **SELF, label_weight=1.5, steps=2), r'label_weight.*\[0, 1\].*1.5'),
    (lambda: procedures.self_distillation_fit(
        **SELF, label_weight=float('nan'), steps=2), 'label_weight'),
    (lambda: procedures.self_distillation_fit(
        **SELF, label_weight=0.5, steps=0), 'steps'),
    (lambda: procedures.self_distillation_limit(
        **{**SELF, 'ridge': 0}, label_weight=0.5), 'ridge'),
    (lambda: procedures.self_distillation_fit(
        **{**SELF, 'targets': Y[1:]}, label_weight=0.5, steps=1), 'kernel'),
    (lambda: procedures.self_distillation_fit(
        **SELF, label_weight=0.5, steps=1, at=AT[:, 1:]), 'at has shape'),
    (lambda: procedures.kernel_ridge_path(KERNEL, Y, [1, -1]), 'ridge.*-1'),
    (lambda: procedures.kernel_ridge_path(np.triu(KERNEL), Y, [1]),
     'symmetric'),
    (lambda: procedures.optimal_label_weight(
        KERNEL, Y, Y, RIDGE, at=AT, at_targets=AT[:, 0]), 'every share'),
    (lambda: procedures.optimal_label_weight(
        KERNEL, Y, Y[1:], RIDGE, at=AT, at_targets=AT[:, 0]), 'previous'),
    (lambda: procedures.ce_sgl(np.ones((2, 3)), np.ones((2, 3))), 'teacher'),
    (lambda: procedures.ce_ful(np.ones(3), np.ones((2, 3)) / 3), 'counts'),
    (lambda: procedures.sample(np.ones((2, 4)) / 4, [1, 1], 3,
                               np.random.default_rng(0)), 'inputs'),
    (lambda: procedures.total_variation_risk(
        np.ones((2, 3)), np.ones((2, 4)) / 4, [0.5, 0.5]), 'student'),
]


@pytest.mark.parametrize('case', range(len(BAD)))
def test_bad_input(case):
  call, message = BAD[case]
  with pytest.raises(ValueError, match=message):
    call()


# Tables.

S, A = 100, 25
LEARNERS = ('ce_sgl', 'ce_ptl', 'sel_ptl', 'ce_ful')


def instance(s=S, a=A, seed=0):
  rng = np.random.default_rng(seed)
  return rng.dirichlet(np.ones(a), s), np.full(s, 1 / s)


def risks(learner, n, seeds=5, s=S, a=A):
  teacher, inputs = instance(s, a)
  fn = getattr(procedures, learner)
  return np.mean([procedures.total_variation_risk(
      fn(procedures.sample(teacher, inputs, n, np.random.default_rng(i)),
         teacher), teacher, inputs) for i in range(seeds)])


def slope(learner, sizes):
  errors = [risks(learner, n) for n in sizes]
  assert min(errors) > 0
  return np.polyfit(np.log(sizes), np.log(errors), 1)[0]


def test_slope_of_labels_alone():
  assert abs(slope('ce_sgl', [10**4, 10**5, 10**6]) + 0.5) < 0.1


def test_slope_of_probabilities_of_labels():
  assert slope('sel_ptl', [2500, 5000, 10_000, 20_000]) <= -0.9


def test_slope_of_whole_rows_and_then_it_is_exact():
  assert slope('ce_ful', [100, 200, 400]) <= -0.9
  assert risks('ce_ful', 20 * S) == 0


def test_weighted_cross_entropy_is_biased():
  teacher, inputs = instance()
  squared = teacher**2 / np.sum(teacher**2, axis=1, keepdims=True)
  plateau = procedures.total_variation_risk(squared, teacher, inputs)
  assert abs(risks('ce_ptl', 40 * S * A) / plateau - 1) < 0.02
  assert risks('ce_ptl', 40 * S * A) > 3 * risks('ce_sgl', 40 * S * A)
  # In expectation it is the square, but where rows are even on their support.
  np.testing.assert_allclose(procedures.ce_ptl(teacher / S, teacher), squared)
  even = np.array([[0.5, 0.5, 0], [1, 0, 0], [1 / 3, 1 / 3, 1 / 3]])
  np.testing.assert_allclose(procedures.ce_ptl(even, even), even)


def test_order_of_the_learners_at_many_samples():
  errors = [risks(learner, 10**5) for learner in LEARNERS]
  assert errors[1] > errors[0] > errors[2] > errors[3] == 0


@pytest.mark.parametrize('n', [0, 50, 2000, 10**5])
def test_learners_read_only_their_data_and_are_distributions(n):
  teacher, inputs = instance()
  counts = procedures.sample(teacher, inputs, n, np.random.default_rng(1))
  assert counts.sum() == n and counts.shape == (S, A)
  for learner in LEARNERS:
    student = getattr(procedures, learner)(counts, teacher)
    np.testing.assert_allclose(student.sum(1), 1, rtol=1e-12)
    assert student.min() >= 0
    np.testing.assert_array_equal(student[counts.sum(1) == 0], 1 / A)
  copied = procedures.sel_ptl(counts, teacher)
  np.testing.assert_array_equal(copied[counts > 0], teacher[counts > 0])
  for row, observed in zip(copied, counts > 0):
    assert len(set(row[~observed])) <= 1, 'the rest is shared evenly'
  rows = counts.sum(1) > 0
  np.testing.assert_array_equal(
      procedures.ce_ful(counts, teacher)[rows], teacher[rows])
  # Another teacher that agrees on the observed labels gives the same student.
  other = np.where(counts > 0, teacher, 0)
  other = other + (1 - other.sum(1, keepdims=True)) * (counts == 0) * (
      np.arange(A) == np.argmin(counts, axis=1)[:, None])
  if np.allclose(other.sum(1), 1):
    for learner in LEARNERS[:3]:
      fn = getattr(procedures, learner)
      np.testing.assert_allclose(fn(counts, other), fn(counts, teacher),
                                 atol=1e-12)


def data_loss(learner, counts, teacher):
  """logits -> objective of a learner, by the losses of the library."""
  pairs = jnp.stack(jnp.nonzero(counts), 1)
  s, a = pairs[:, 0], pairs[:, 1]
  weight = jnp.asarray(counts)[s, a] / counts.sum()
  log_p = jnp.log(jnp.asarray(teacher))
  def total(logits):
    if learner == 'ce_sgl':
      each = losses.cross_entropy(logits[s], a)
    elif learner == 'ce_ptl':
      each = jnp.asarray(teacher)[s, a] * losses.cross_entropy(logits[s], a)
    elif learner == 'sel_ptl':
      each = losses.squared_error_logit(logits[s], log_p[s], a)
    else:
      each = losses.kd(logits[s], log_p[s], temperature=1.0)
    return jnp.sum(weight * each)
  return total


@pytest.mark.parametrize('learner', LEARNERS)
def test_learners_minimize_their_losses(learner):
  teacher, inputs = instance(6, 4, seed=3)
  rng = np.random.default_rng(0)
  counts = procedures.sample(teacher, inputs, 400, rng)
  student = getattr(procedures, learner)(counts, teacher)
  # Where a probability is zero the minimum is at infinity: use a low one.
  logits = jnp.log(jnp.maximum(jnp.asarray(student), 1e-12))
  total = jax.jit(data_loss(learner, counts, teacher))
  best, gradient = jax.jit(jax.value_and_grad(total))(logits)
  np.testing.assert_allclose(gradient, 0, atol=1e-6)
  for scale in (0.01, 0.1, 1.0):
    for _ in range(10):
      moved = logits + scale * rng.normal(size=logits.shape)
      assert total(moved) > best - 1e-6
  if learner in ('sel_ptl', 'ce_ful'):
    assert abs(best) < 1e-7


def test_soft_labels_have_the_minimum_of_the_divergence():
  """Cross entropy with the teacher's rows has the minimum of `kd`."""
  teacher, _ = instance(6, 4, seed=3)
  fn = lambda z: jnp.sum(losses.cross_entropy(z, jnp.asarray(teacher)))
  np.testing.assert_allclose(
      jax.grad(fn)(jnp.log(jnp.asarray(teacher))), 0, atol=1e-6)


def test_errors_are_user_errors():
  with pytest.raises(core.UserError):
    procedures.kernel_ridge_path(KERNEL, Y, [0])
