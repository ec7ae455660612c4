"""Steps of language models: quantized matrices, drawn responses, schedules."""
from distill_lm_test import _batch
from distill_lm_test import _session
from distill_lm_test import student
import jax
from jax import numpy as jnp
import numpy as np
import pytest
from scipy import special

from configs import common
from configs import common_language as language
from kt_jax import train


@pytest.mark.parametrize('bits', [2, 3, 5])
def test_matrices_are_rounded_by_column(bits):
  """Levels are even, symmetric and scaled to the largest entry of a column."""
  w = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
  w *= [1, 10, 0.1, 0]
  params = {'a/kernel': jnp.asarray(w), 'a/bias': jnp.asarray(w[0]),
            'embed/embedding': jnp.asarray(w)}
  got = train.quantize(params, bits)
  top = 2**(bits - 1) - 1
  for column, rounded in zip(w.T, np.asarray(got['a/kernel']).T):
    largest = max(abs(column)) or 1
    levels = largest * np.arange(-top, top + 1) / top
    nearest = [levels[np.argmin(abs(levels - x))] for x in column]
    np.testing.assert_allclose(rounded, nearest, rtol=1e-5, atol=1e-7)
  for name in ('a/bias', 'embed/embedding'):
    np.testing.assert_array_equal(got[name], params[name])
  assert train.quantize(params, 0) is params
  # The gradient passes as if nothing were rounded.
  grads = jax.grad(lambda p: jnp.sum(jnp.asarray(w) * train.quantize(
      p, bits)['a/kernel']))(params)
  np.testing.assert_array_equal(grads['a/kernel'], w)


def test_schedule_follows_the_term_over_steps():
  """A batch without targets has no mean: only the lower bound moves."""
  start, alpha, beta, steps = 0.2, 0.3, 0.8, 400
  c = student(language.token_term('taid', teacher='teacher', module='taid',
                                  weight=0.7))
  c.modules.taid = common.module('TaidSchedule', start=start, alpha=alpha,
                                 beta=beta, steps=steps)
  session, batch = _session(c), _batch(c)
  empty = batch | dict(targets=np.zeros_like(batch['targets']))
  state, t, m, last = session.init(), start, 0.0, None
  for n, kind in enumerate([batch, batch, empty, batch, batch]):
    state, metrics = session.step(state, kind, session.settings)
    if kind is batch:
      loss = float(metrics['term0'])
      if last:
        m = beta * m + (1 - beta) * (last - loss) / last
        t += alpha * special.expit(m) * (1 - t)
      last = loss
    t = max(t, start + (1 - start) * n / steps)
    np.testing.assert_allclose(state.stats['@taid/share'], t, rtol=1e-5)
    np.testing.assert_allclose(state.stats['@taid/momentum'], m, rtol=1e-3,
                               atol=1e-6)


def misplaced(student_logits, teacher_logits, labels, sample_log_probs):
  """Square of the sampled token's log-probability less what was recorded."""
  p, q = (jax.nn.softmax(z) for z in (teacher_logits, student_logits))
  mixed = jnp.log(0.3 * p + 0.7 * q)
  log_prob = jnp.take_along_axis(mixed, labels[..., None], -1)[..., 0]
  return (log_prob - sample_log_probs)**2


def test_sampled_log_probs_are_those_of_the_labels():
  c = student(language.token_term(f'{__name__}:misplaced', teacher='teacher'))
  c.sampling = language.sampling('blend', share=0.3)
  session = _session(c)
  _, metrics = session.step(session.init(), _batch(c), session.settings)
  assert metrics['response_length'] > 2
  assert metrics['term0'] < 1e-8
