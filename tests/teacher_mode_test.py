"""Modes of networks with BatchNorm in loss terms."""
import jax
from jax import numpy as jnp
import numpy as np

from configs import common
from kt_jax import data
from kt_jax import losses
from kt_jax import models
from kt_jax import train
from stage_test import batch
from stage_test import config
from stage_test import INFO
from stage_test import trained


def test_frozen_teachers_evaluate_and_online_teachers_train():
  c = config()
  c.model = dict(name='convnet', kw=dict(widths=(3, 4)))
  c.teachers.big = common.teacher()
  c.teachers.peer = common.teacher('online', model=dict(
      name='convnet', kw=dict(widths=(2,))))
  c.terms.task = common.term('cross_entropy')
  c.terms.peer_task = common.term('cross_entropy', learner='peer')
  c.terms.big = common.term('kd', teacher='big', temperature=2.0)
  c.terms.peer = common.term('kd', teacher='peer', temperature=3.0)
  frozen = trained('convnet', widths=(5,))
  frozen = frozen._replace(stats={  # far from those of a batch
      n: v + 0.5 + 0.3 * jnp.cos(jnp.arange(v.size)) for n, v in
      frozen.stats.items()})
  session, stage, _ = train.make_stage_session(c, INFO, dict(big=frozen))
  state = session.init()
  nets = {n: stage.networks[n].net for n in ('student', 'peer')}
  parts = {n: (nets[n], train.part(state.params, n), train.part(
      state.stats, n)) for n in nets} | {
          'big': (frozen.net, frozen.params, frozen.stats)}
  x = data.normalize(batch()['images'], INFO.mean, INFO.std)
  logits = jax.jit(lambda mode: {n: models.apply(
      *part, x, train=mode).logits for n, part in parts.items()},
                   static_argnums=0)
  training, evaluation = logits(True), logits(False)
  kd = lambda teacher, tau: losses.kd(
      training['student'], teacher, temperature=tau).mean()
  before = jax.device_get((state.stats, session.settings.frozen))
  state, metrics = session.step(state, batch(), session.settings)
  for got, want, other in (
      (metrics['big'], kd(evaluation['big'], 2.0), kd(training['big'], 2.0)),
      (metrics['peer'], kd(training['peer'], 3.0),
       kd(evaluation['peer'], 3.0))):
    np.testing.assert_allclose(got, want, rtol=1e-5)
    assert abs(want - other) > 1e-3 * want
  for name, value in before[0].items():
    assert not np.allclose(state.stats[name], value), name
  jax.tree.map(np.testing.assert_array_equal, before[1],
               jax.device_get(session.settings.frozen))
