"""Scores against counts in Python, scipy and scikit-learn."""
import inspect
import re

import jax
from jax import numpy as jnp
import numpy as np
import pytest
from scipy import special
from sklearn import metrics

from kt_jax import scores

N, K = 200, 6
LOGIT_SCORES = ['rho_positive', 'rho_negative', 'knowledge_gain',
                'knowledge_loss', 'class_flips', 'transfer_rate', 'accuracy',
                'top_k_accuracy', 'agreement', 'churn', 'fidelity']


def public():
  return {n: f for n, f in vars(scores).items() if inspect.isfunction(f)}


def models(seed=0, count=3):
  """`count` logits `[N, K]` that are right on about half, and labels `[N]`."""
  r = np.random.default_rng(seed)
  labels = r.integers(0, K, N).astype(np.int32)
  signal = np.eye(K)[labels] * r.binomial(1, 0.4, (count, N, 1)) * 5
  return *(r.normal(size=(count, N, K)) + signal).astype(np.float32), labels


def right(logits, labels):
  return [int(np.argmax(z)) == y for z, y in zip(np.asarray(logits),
                                                 np.asarray(labels))]


def arguments(name, seed=0):
  initial, student, teacher, labels = models(seed)
  pool = dict(initial_logits=initial, student_logits=student,
              teacher_logits=teacher, labels=labels)
  params = inspect.signature(public()[name]).parameters
  return {n: v for n, v in pool.items() if n in params}


def test_table_is_complete():
  assert set(public()) == {*LOGIT_SCORES, 'areas_of_expertise'}
  for name, fn in public().items():
    assert fn.__module__ == f'kt_jax.scores.{name}'
    sections = re.findall(r'^([A-Z]\w+):\s', inspect.getdoc(fn), re.MULTILINE)
    assert sections[:2] == ['Args', 'Returns']
    assert sections[2:] == [s for s in ('Departures', 'References')
                            if s in sections]


def test_rates_by_hand():
  initial, student, teacher, labels = models()
  t, s, i = (right(m, labels) for m in (teacher, student, initial))
  share = lambda hits: np.float32(sum(hits)) / np.float32(N)
  both = lambda a, b: [x and not y for x, y in zip(a, b)]
  assert scores.rho_positive(student, teacher, labels) == share(both(t, s))
  assert scores.rho_negative(student, teacher, labels) == share(both(s, t))
  assert scores.knowledge_gain(initial, student, labels) == share(both(s, i))
  assert scores.knowledge_loss(initial, student, labels) == share(both(i, s))
  assert scores.accuracy(student, labels) == share(s)


def test_agreement_and_churn_by_hand():
  initial, student, teacher, _ = models()
  share = lambda a, b: np.float32(np.mean(
      np.argmax(a, axis=1) == np.argmax(b, axis=1)))
  assert scores.agreement(student, teacher) == share(student, teacher)
  np.testing.assert_allclose(scores.churn(initial, student),
                             1 - share(initial, student), rtol=1e-6)
  assert scores.agreement(student, student) == 1
  assert scores.churn(student, student) == 0


def test_churn_is_gain_loss_and_wrong_to_wrong():
  initial, student, _, labels = models()
  wrong = [a != b and a != y and b != y for a, b, y in zip(
      np.argmax(initial, 1), np.argmax(student, 1), np.asarray(labels))]
  want = (scores.knowledge_gain(initial, student, labels)
          + scores.knowledge_loss(initial, student, labels) + np.mean(wrong))
  np.testing.assert_allclose(scores.churn(initial, student), want, rtol=1e-6)


def test_nan_never_agrees():
  good = jnp.asarray([[0.0, 1.0]] * 4)
  bad = good.at[0].set(jnp.nan).at[1, 0].set(jnp.nan)
  for a, b in [(good, bad), (bad, good), (bad, bad)]:
    assert scores.agreement(a, b) == 0.5
    assert scores.churn(a, b) == 0.5
  assert jnp.isnan(scores.fidelity(bad, good))
  assert scores.fidelity(bad, good, jnp.arange(4) > 1) == 0


def test_fidelity_is_the_mean_divergence():
  """Against scipy, in float64."""
  _, student, teacher, _ = models()
  p, q = (special.softmax(np.asarray(z, np.float64), axis=1)
          for z in (teacher, student))
  np.testing.assert_allclose(scores.fidelity(student, teacher),
                             special.rel_entr(p, q).sum(1).mean(), rtol=1e-5)
  assert scores.fidelity(teacher, teacher) == 0
  # Its direction: a class that the teacher alone rules out costs little.
  sure, torn = jnp.asarray([[30.0, 0.0]]), jnp.zeros((1, 2))
  np.testing.assert_allclose(scores.fidelity(torn, sure), np.log(2), rtol=1e-6)
  np.testing.assert_allclose(scores.fidelity(sure, torn), 15 - np.log(2),
                             rtol=1e-6)
  masked = jnp.asarray([[0.0, -jnp.inf]])
  assert scores.fidelity(masked, masked) == 0
  assert scores.fidelity(torn, masked) == np.float32(np.log(2))


def test_top_k_accuracy():
  """Against scikit-learn; ties in favour of the first."""
  _, student, _, labels = models()
  for k in range(1, K):
    np.testing.assert_allclose(
        scores.top_k_accuracy(student, labels, k=k),
        metrics.top_k_accuracy_score(np.asarray(labels), np.asarray(student),
                                     k=k, labels=np.arange(K)), rtol=1e-6)
  assert scores.top_k_accuracy(student, labels, k=K) == 1
  assert scores.top_k_accuracy(student, labels, k=1) == (
      scores.accuracy(student, labels))
  tied = jnp.zeros((3, 4))
  for k, want in [(1, 1 / 3), (2, 2 / 3), (3, 2 / 3), (4, 1)]:
    assert scores.top_k_accuracy(tied, jnp.asarray([0, 1, 3]), k=k) == (
        np.float32(want))
  # A label out of range and a row with NaN are wrong for every k.
  odd = tied.at[1, 2].set(jnp.nan)
  assert scores.top_k_accuracy(odd, jnp.asarray([4, 0, -1]), k=4) == 0


@pytest.mark.parametrize('seed', range(5))
def test_accuracy_identity_in_counts(seed):
  """acc_t - acc_s = rho_pos - rho_neg, exact in whole examples."""
  initial, student, teacher, labels = models(seed)
  count = lambda rate: int(np.rint(rate * N))
  acc = lambda m: count(scores.accuracy(m, labels))
  assert acc(teacher) - acc(student) == (
      count(scores.rho_positive(student, teacher, labels))
      - count(scores.rho_negative(student, teacher, labels)))
  assert acc(student) - acc(initial) == (
      count(scores.knowledge_gain(initial, student, labels))
      - count(scores.knowledge_loss(initial, student, labels)))
  flips = scores.class_flips(student, teacher, labels)
  assert flips.dtype == jnp.int32
  assert int(flips.sum()) == count(
      scores.rho_positive(student, teacher, labels))


def test_wrong_to_other_wrong_does_not_count():
  eye = 5 * jnp.eye(3)
  labels = jnp.asarray([0, 0, 0])
  student, teacher = eye[jnp.asarray([1, 1, 0])], eye[jnp.asarray([2, 0, 0])]
  assert scores.rho_positive(student, teacher, labels) == np.float32(1 / 3)
  assert scores.rho_negative(student, teacher, labels) == 0


def test_class_flips_by_hand():
  _, student, teacher, labels = models()
  want = np.zeros(K, int)
  for y, t, s in zip(np.asarray(labels), right(teacher, labels),
                     right(student, labels)):
    want[y] += t and not s
  np.testing.assert_array_equal(
      scores.class_flips(student, teacher, labels), want)


@pytest.mark.parametrize('flips,share,want', [
    ([5, 1, 3, 1], 0.5, [0]),  # exactly half: no second class
    ([5, 1, 3, 1], 0.51, [0, 2]),
    ([5, 1, 3, 1], 0.2, [0]),
    ([5, 1, 3, 1], 0.9, [0, 1, 2]),  # of the two ones the lower index
    ([1, 1, 1, 1], 0.5, [0, 1]),
    ([0, 7, 0, 0], 1.0, [1]),  # classes without flips stay out
    ([0, 0, 0, 0], 0.2, []),
    ([1] * 100, 0.07, range(7)),  # 0.07 * 100 > 7 in floats
    ([1] * 100, 0.29, range(29)),
    ([3], 0.02, [0]),
    ([10**9, 10**9, 1], 0.5, [0, 1]),  # no overflow; 10^9 < half of 2 10^9 + 1
])
def test_areas_of_expertise(flips, share, want):
  flips = jnp.asarray(flips, jnp.int32)
  got = jax.jit(scores.areas_of_expertise, static_argnames='share')(
      flips, share=share)
  assert got.dtype == bool and got.shape == flips.shape
  assert list(np.flatnonzero(got)) == list(want)


def test_areas_of_expertise_is_smallest():
  """By trying every set of classes."""
  flips = np.random.default_rng(1).integers(0, 9, K)
  sets = (np.arange(2**K)[:, None] >> np.arange(K)) & 1
  for share in (0.02, 0.05, 0.2, 0.5, 0.8, 1.0):
    enough = sets[sets @ flips >= share * flips.sum() - 1e-9]
    got = scores.areas_of_expertise(jnp.asarray(flips), share=share)
    assert int(got.sum()) == enough.sum(1).min()
    assert flips[np.asarray(got)].sum() >= share * flips.sum() - 1e-9


def test_transfer_rate():
  eye, labels = 5 * jnp.eye(4), jnp.asarray([0, 0, 0, 1, 1, 2])
  model = lambda *right: jnp.stack(
      [eye[y if r else 3] for y, r in zip([0, 0, 0, 1, 1, 2], right)])
  initial = model(0, 0, 0, 0, 0, 0)
  teacher = model(1, 1, 0, 0, 1, 0)  # flips by class: 2, 1, 0
  # One flip in class 0 that the teacher never had counts; class 2 does not.
  student = model(0, 0, 1, 0, 0, 1)
  rate = lambda s, t: scores.transfer_rate(initial, s, t, labels)
  assert rate(student, teacher) == np.float32(1 / 3)
  assert rate(teacher, teacher) == 1
  assert rate(initial, teacher) == 0
  assert rate(model(1, 1, 1, 1, 1, 1), teacher) == np.float32(5 / 3)
  assert jnp.isnan(rate(student, initial)), 'there was nothing to transfer'


def test_nan_and_a_label_out_of_range_are_wrong():
  logits = jnp.asarray([[1.0, jnp.nan], [jnp.nan, jnp.nan], [0.0, 1.0]])
  assert scores.accuracy(logits, jnp.asarray([1, 0, 1])) == np.float32(1 / 3)
  good = jnp.asarray([[0.0, 1.0]] * 3)
  assert scores.accuracy(good, jnp.asarray([-1, 2, 1])) == np.float32(1 / 3)
  np.testing.assert_array_equal(
      scores.class_flips(-good, good, jnp.asarray([-1, 2, 1])), [0, 1])


@pytest.mark.parametrize('name', LOGIT_SCORES)
def test_where_jit_vmap_bfloat16(name):
  fn = jax.jit(public()[name])
  mask = np.random.default_rng(1).random(N) < 0.8
  seeds = [arguments(name, seed) for seed in range(3)]
  # Compiled code multiplies by 1/n where eager divides: 1 ulp.
  same = lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-7)

  # Examples that do not count may be any, and NaN.
  args = seeds[0]
  want = public()[name](**{n: v[mask] for n, v in args.items()})
  same(fn(**args, where=mask), want)
  junk = lambda v: -1 if v.dtype.kind == 'i' else np.nan
  same(fn(**{n: np.where(mask.reshape((-1,) + (1,) * (v.ndim - 1)), v,
                         np.asarray(junk(v), v.dtype))
             for n, v in args.items()}, where=mask), want)

  stacked = jax.tree.map(lambda *v: np.stack(v), *seeds)
  same(jax.jit(jax.vmap(lambda a: public()[name](**a)))(stacked),
       np.stack([fn(**a) for a in seeds]))
  short = {n: v.astype(jnp.bfloat16) if n.endswith('logits') else v
           for n, v in args.items()}
  assert jax.eval_shape(fn, **short).dtype == want.dtype
  assert want.dtype in (jnp.float32, jnp.int32)


z, y = np.zeros((4, 3), np.float32), np.zeros(4, np.int32)
BAD = [
    (lambda: scores.rho_positive(z, z[:, :2], y), 'teacher_logits'),
    (lambda: scores.rho_negative(z, z[:3], y), 'student_logits|teacher_logits'),
    (lambda: scores.rho_positive(z, z, y[:3]), 'labels'),
    (lambda: scores.rho_positive(z, z, y.astype(float)), 'labels.*float'),
    (lambda: scores.rho_positive(z, z, y, jnp.ones(3, bool)), 'where'),
    (lambda: scores.accuracy(z[0], y), 'student_logits'),
    (lambda: scores.accuracy(z[None], y), 'student_logits.*vmap'),
    (lambda: scores.knowledge_gain(z, z[:, :2], y), 'student_logits'),
    (lambda: scores.transfer_rate(z, z, z[:, :2], y), 'teacher_logits'),
    (lambda: scores.agreement(z, z[:, :2]), 'teacher_logits'),
    (lambda: scores.agreement(z[0], z[0]), 'student_logits.*vmap'),
    (lambda: scores.churn(z, z[:3]), 'student_logits'),
    (lambda: scores.churn(z, z, jnp.ones(3, bool)), 'where'),
    (lambda: scores.fidelity(z, z[:, :2]), 'teacher_logits'),
    (lambda: scores.fidelity(z, z, jnp.ones((4, 3), bool)), 'where'),
    (lambda: scores.top_k_accuracy(z, y), 'k must be .* to 3.*got 5'),
    (lambda: scores.top_k_accuracy(z, y, k=0), 'k must be'),
    (lambda: scores.top_k_accuracy(z, y, k=1.0), 'k must be'),
    (lambda: scores.top_k_accuracy(z, y[:3], k=1), 'labels'),
    (lambda: scores.areas_of_expertise(z), 'flips'),
    (lambda: scores.areas_of_expertise(z[0]), 'flips.*float'),
    (lambda: scores.areas_of_expertise(y, share=0), 'share.*0'),
    (lambda: scores.areas_of_expertise(y, share=20), 'share.*20'),
]


@pytest.mark.parametrize('case', range(len(BAD)))
def test_bad_input(case):
  call, message = BAD[case]
  with pytest.raises(ValueError, match=message):
    call()
