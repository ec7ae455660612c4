"""Optimizer, loss terms, step, session and writer, each against NumPy."""
import contextlib
import dataclasses
import functools
import json

import chex
import jax
from jax import numpy as jnp
import numpy as np
import optax
import pytest

from kt_jax import core
from kt_jax import data
from kt_jax import models
from kt_jax import train

INFO = data.Info('tiny', 10, (4, 4, 1), (0.5,), (0.5,), (), {})
SPEC = train.Training(
    model=train.Model('mlp', dict(width=8, depth=1)), batch=train.Batch(16),
    terms=dict(task=train.LossTerm('cross_entropy')), mesh=train.Mesh(1))
CONVNET = dict(name='convnet', kw=dict(widths=(4, 8)))


def changed(**changes):
  return core.spec.change(SPEC, changes)


def batch_of(step, size=16):
  rng = np.random.default_rng(step)
  return dict(images=rng.integers(0, 256, (size, 4, 4, 1)).astype(np.uint8),
              labels=rng.integers(0, 10, size).astype(np.int32))


def session_of(**changes):
  return train.make_session(changed(**changes), INFO)


def run(session, steps, state=None, inputs=None, batch=batch_of):
  """`(state, metrics of every step)`, on the host."""
  state = session.init() if state is None else state
  shard_batch, rows = train.make_shard_batch(session.mesh), []
  for i in range(steps):
    state, metrics = session.step(
        state, shard_batch(batch(i)), inputs or session.inputs)
    rows.append(jax.device_get(metrics))
  return state, rows


def host(tree):
  return jax.tree.map(np.array, jax.device_get(tree))


def close(a, b, rtol=1e-5, atol=1e-6):
  jax.tree.map(lambda x, y: np.testing.assert_allclose(
      x, y, rtol=rtol, atol=atol), host(a), host(b))


# Schedules and optimizers.


def schedule(name, steps=100, rate=0.4, **kw):
  return train.make_schedule(train.Optimizer(
      learning_rate=rate, schedule=train.Schedule(name, kw)), steps)


@pytest.mark.parametrize('name,kw,want', [
    ('', {}, {0: 0.4, 99: 0.4}),
    ('constant_schedule', {}, {0: 0.4, 99: 0.4}),
    ('cosine_decay_schedule', {},
     {0: 0.4, 25: 0.2 + 0.2 / 2**0.5, 50: 0.2, 100: 0.0}),
    ('cosine_decay_schedule', dict(alpha=0.3), {50: 0.26, 100: 0.12}),
    ('cosine_decay_schedule', dict(decay_steps=50), {25: 0.2, 50: 0.0}),
    ('linear_schedule', dict(end_value=0.1), {0: 0.4, 30: 0.31, 100: 0.1}),
    ('polynomial_schedule', dict(end_value=0.0, power=2),
     {0: 0.4, 30: 0.196, 100: 0.0}),
    ('exponential_decay', dict(decay_rate=0.25), {0: 0.4, 50: 0.2, 100: 0.1}),
    ('exponential_decay', dict(decay_rate=0.5, transition_steps=10),
     {0: 0.4, 20: 0.1}),
    ('piecewise_constant_schedule', dict(boundaries_and_scales={30: 0.1}),
     {0: 0.4, 29: 0.4, 31: 0.04}),
    ('piecewise_constant_schedule', dict(boundaries_and_scales={'30': 0.1}),
     {0: 0.4, 29: 0.4, 31: 0.04}),
    ('warmup_cosine_decay_schedule', dict(warmup_steps=20),
     {0: 0.0, 5: 0.1, 20: 0.4, 40: 0.2 + 0.2 / 2**0.5, 100: 0.0}),
    ('warmup_cosine_decay_schedule', dict(warmup_steps=20, init_value=0.2),
     {0: 0.2, 5: 0.25, 20: 0.4}),
    ('warmup_constant_schedule', dict(warmup_steps=20),
     {0: 0.0, 5: 0.1, 20: 0.4, 99: 0.4}),
    ('warmup_exponential_decay_schedule',
     dict(warmup_steps=20, decay_rate=0.5, transition_steps=10),
     {0: 0.0, 20: 0.4, 30: 0.2}),
    ('cosine_onecycle_schedule', {}, {30: 0.4, 0: 0.4 / 25}),
])
def test_schedule_is_filled(name, kw, want):
  rate = schedule(name, **kw)
  for step, value in want.items():
    np.testing.assert_allclose(rate(step), value, atol=1e-6, err_msg=step)


def test_schedule_survives_json():
  """JSON makes strings of integer keys."""
  optimizer = train.Optimizer(schedule=train.Schedule(
      'piecewise_constant_schedule', dict(boundaries_and_scales={30: 0.2})))
  stored = core.spec.build(train.Optimizer, core.spec.to_json(optimizer))
  for o in (optimizer, stored):
    assert float(train.make_schedule(o, 9)(31)) == pytest.approx(0.02)


@pytest.mark.parametrize('name,kw,message', [
    ('cosine_decay', {}, "Did you mean 'cosine_decay_schedule'"),
    ('cosine_decay_schedule', dict(alpa=1), "Did you mean 'alpha'"),
    ('warmup_cosine_decay_schedule', {}, 'missing: warmup_steps'),
])
def test_schedule_refuses(name, kw, message):
  with pytest.raises(core.UserError, match=message):
    schedule(name, **kw)


@pytest.mark.parametrize('optimizer,message', [
    (train.Optimizer('adamm'), "Did you mean 'adam"),
    (train.Optimizer('sgd', kw=dict(momentun=0.9)), "Did you mean 'momentum'"),
    (train.Optimizer('clip_by_global_norm'), 'No optax optimizer'),
    (train.Optimizer('sgd', kw=dict(momentum=0.9), schedule=train.Schedule(
        'cosine_decay_schedule', dict(alpa=1))), "Did you mean 'alpha'"),
])
def test_optimizer_refuses(optimizer, message):
  with pytest.raises(core.UserError, match=message):
    train.make_optimizer(optimizer, 10)


@pytest.mark.parametrize('nesterov', [False, True])
def test_sgd_is_that_of_torch(nesterov):
  """Clip, then decay into the gradient, then momentum, then the rate."""
  tx = train.make_optimizer(train.Optimizer(
      'sgd', 0.5, train.Schedule('cosine_decay_schedule'), l2=0.1, clip=1.5,
      kw=dict(momentum=0.9, nesterov=nesterov)), 5)
  rng = np.random.default_rng(0)
  w = rng.normal(size=7)
  params = {'w': jnp.asarray(w, jnp.float32)}
  opt_state, velocity = tx.init(params), np.zeros(7)
  for step in range(5):
    raw = rng.normal(size=7)
    updates, opt_state = tx.update(
        {'w': jnp.asarray(raw, jnp.float32)}, opt_state, params)
    params = optax.apply_updates(params, updates)

    gradient = raw * min(1, 1.5 / np.sqrt((raw**2).sum())) + 0.1 * w
    velocity = 0.9 * velocity + gradient
    direction = gradient + 0.9 * velocity if nesterov else velocity
    w = w - 0.5 * (1 + np.cos(np.pi * step / 5)) / 2 * direction
    np.testing.assert_allclose(params['w'], w, rtol=1e-5, atol=1e-6)


def test_an_optax_transformation_is_taken_as_it_is():
  tx = optax.sgd(0.3)
  assert train.make_optimizer(tx, 10) is tx
  assert changed(optimizer=tx).optimizer is tx


# Loss terms and inputs of a step.


class Given(train.graph.TermContext):
  """The parameters of a network are its logits."""

  def run_network(self, name, params):
    return models.Output(params[name]['logits'], {}, {})


def test_terms_are_summed_and_gradients_stopped():
  terms = dict(
      task=train.LossTerm('cross_entropy'),
      self=train.LossTerm('kd', kw=dict(temperature=2.5), rename=dict(
          teacher_logits='initial_logits')))
  network = lambda kind: train.Network(None, kind, 3)
  forward = train.make_forward(train.TermGraph(
      dict(student=network('student'), initial=network('online')), {}, terms,
      train.resolve_terms(terms), Given))
  rng = np.random.default_rng(0)
  z, z0 = (jnp.asarray(rng.normal(size=(6, 3)), jnp.float32) for _ in range(2))
  labels = jnp.asarray([0, 1, 2, 0, 1, 2])
  where = jnp.asarray([True] * 4 + [False] * 2)

  def value(z, z0):
    sums, _ = forward(
        dict(student=dict(logits=z), initial=dict(logits=z0)), {},
        dict(data=dict(labels=labels, where=where)), jax.random.key(0),
        train.step.StepContext(jnp.int32(0), {}, {}))
    return sum(total for total, _ in sums.values()), sums
  (g, g0), sums = jax.grad(value, (0, 1), has_aux=True)(z, z0)
  assert float(jnp.abs(g[:4]).min(-1).max()) > 0
  assert not g0.any() and not g[4:].any()
  assert {n: float(c) for n, (_, c) in sums.items()} == dict(task=4, self=4)
  log_p = np.asarray(jax.nn.log_softmax(z))
  np.testing.assert_allclose(
      sums['task'][0], -sum(log_p[i, labels[i]] for i in range(4)), rtol=1e-5)
  p, q = (np.float64(jax.nn.softmax(x[:4] / 2.5)) for x in (z0, z))
  np.testing.assert_allclose(
      sums['self'][0], 2.5**2 * (p * np.log(p / q)).sum(), rtol=1e-5)


def test_networks_run_in_one_order():
  """Or the processes of a run, which hash names differently, would compile
  programs that differ."""
  order = []

  class Recorded(Given):

    def run_network(self, name, params):
      order.append(name)
      return super().run_network(name, params)
  terms = dict(kd=train.LossTerm('kd', teacher='a'))
  graph = train.TermGraph({n: train.Network(None, 'online', 3) for n in (
      'student', 'a', 'b')}, {}, terms, train.resolve_terms(terms), Recorded)
  params = {n: dict(logits=jnp.zeros((2, 3))) for n in graph.networks}
  names = ['teachers_logits', 'student_logits', 'teacher_logits']
  for inputs in (names, names[::-1]):
    context = Recorded(graph, frozenset(['student']), params, {}, {}, None,
                       train.step.StepContext(None, {}, {}), {}, {})
    context.arrays('kd', inputs)
  assert len(order) == 6 and order[:3] == order[3:]


@pytest.mark.parametrize('terms,message', [
    ({}, 'config.terms is empty'),
    (dict(a=train.LossTerm('cros_entropy')), "Did you mean 'cross_entropy'"),
    (dict(a=train.LossTerm('kd', kw=dict(temperatur=2.0))),
     "Did you mean 'temperature'"),
    (dict(a=train.LossTerm('kd', rename=dict(teacher_logit='x'))),
     "Did you mean 'teacher_logits'"),
])
def test_terms_refuse(terms, message):
  with pytest.raises(core.UserError, match=message):
    train.resolve_terms(terms)


def test_step_inputs():
  terms = dict(a=train.LossTerm('kd', weight=2.0),
               b=train.LossTerm('kd', weight=0.5))
  inputs = train.step_inputs(terms, seed=3, ema_decay=0.9)
  assert {n: float(w) for n, w in inputs.term_weights.items()} == dict(
      a=2.0, b=0.5)
  assert (int(inputs.seed), float(inputs.lr_scale), int(inputs.ema_every)) == (
      3, 1, 1)
  assert float(inputs.ema_decay) == pytest.approx(0.9)
  only = train.step_inputs(terms, weights=dict(b=3.0)).term_weights
  assert {n: float(w) for n, w in only.items()} == dict(a=0.0, b=3.0)
  with pytest.raises(core.UserError, match="Did you mean 'b'"):
    train.step_inputs(terms, weights=dict(bb=1.0))


def test_warm_up_of_a_term():
  session = session_of(terms=dict(task=dict(warmup=4, weight=2.0)))
  _, rows = run(session, 5)
  for row, share in zip(rows, (0.25, 0.5, 0.75, 1.0, 1.0)):
    assert row['loss'] == pytest.approx(2.0 * share * row['task'], rel=1e-6)


# The step.


@functools.cache
def plain():
  return session_of()


def test_step_is_sgd_of_the_mean_loss():
  """Three steps of a linear model against gradients by hand."""
  session = session_of(optimizer=dict(learning_rate=0.5),
                       model=dict(kw=dict(depth=0)))
  state = session.init()
  assert set(state.params) == set(state.stats) == {'student'}
  assert sorted(state.params['student']) == ['head/bias', 'head/kernel']
  w, b = (np.float64(state.params['student'][f'head/{n}'])
          for n in ('kernel', 'bias'))
  state, rows = run(session, 3, state)
  for i in range(3):
    batch = batch_of(i)
    x = (batch['images'].reshape(16, -1) / 255 - 0.5) / 0.5
    z = x @ w + b
    p = np.exp(z - z.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    y = np.eye(10)[batch['labels']]
    assert rows[i]['loss'] == pytest.approx(
        -np.log((p * y).sum(-1)).mean(), rel=1e-5)
    gw, gb = x.T @ (p - y) / 16, (p - y).mean(0)
    assert rows[i]['grad_norm'] == pytest.approx(
        np.sqrt((gw**2).sum() + (gb**2).sum()), rel=1e-4)
    w, b = w - 0.5 * gw, b - 0.5 * gb
  np.testing.assert_allclose(state.params['student']['head/kernel'], w,
                             atol=1e-5)
  assert int(state.step) == 3


def test_accumulation_changes_nothing():
  """Also where `where` leaves micro-batches with unlike counts."""
  def masked(i):
    return batch_of(i) | dict(
        where=np.arange(16) % 4 < 2 + (np.arange(16) > 9))
  for batch in (batch_of, masked):
    outcomes = []
    for parts in (1, 2, 4):
      session = plain() if parts == 1 else session_of(
          train=dict(accumulate=parts))
      state, rows = run(session, 3, batch=batch)
      outcomes.append((state.params, rows))
    close(outcomes[0], outcomes[1])
    close(outcomes[0], outcomes[2])


def test_accumulation_must_divide():
  session = session_of(train=dict(accumulate=3))
  with pytest.raises(core.UserError, match='not divisible by train.accumulate'):
    jax.eval_shape(session.step, session.abstract, session.batch,
                   session.inputs)
  with pytest.raises(core.UserError, match='train.accumulate must be'):
    session_of(train=dict(accumulate=0))


def test_moving_average():
  """`ema` of parameters and statistics; `ema_every` skips steps."""
  session = session_of(model=CONVNET, train=dict(ema=0.75))
  for every in (1, 2):
    inputs = train.step_inputs(SPEC.terms, ema_decay=0.75, ema_every=every)
    state = session.init()
    average = host(train.step.student_only(state.params, state.stats))
    for i in range(4):
      state, _ = run(session, 1, state, inputs, lambda _, i=i: batch_of(i))
      if (i + 1) % every == 0:
        average = jax.tree.map(
            lambda s, f: 0.75 * s + 0.25 * f, average,
            host(train.step.student_only(state.params, state.stats)))
    close(state.ema, average)
  assert any('mean' in n for n in average['stats'])


def test_lr_scale_multiplies_updates():
  session = plain()
  inputs = session.inputs._replace(lr_scale=jnp.float32(0.3))
  start = host(session.init().params)
  moved = [jax.tree.map(np.subtract, host(run(
      session, 1, inputs=i)[0].params), start)
           for i in (session.inputs, inputs)]
  close(jax.tree.map(lambda x: 0.3 * x, moved[0]), moved[1])


def test_bfloat16_keeps_float32_where_it_counts():
  session = session_of(model=CONVNET, train=dict(compute_dtype='bfloat16'),
                       optimizer=dict(kw=dict(momentum=0.9)))
  state, rows = run(session, 3)
  for leaf in jax.tree.leaves((state.params, state.stats, state.opt_state)):
    assert leaf.dtype in (np.float32, np.int32)
  for row in rows:
    assert all(v.dtype == np.float32 and np.isfinite(v) for v in row.values())
  logits = session.predict(state.params['student'], state.stats['student'],
                           batch_of(0)['images'])
  assert logits.dtype == np.float32
  _, exact = run(session_of(model=CONVNET), 1)
  assert rows[0]['loss'] == pytest.approx(exact[0]['loss'], rel=0.05)
  assert rows[0]['loss'] != exact[0]['loss']  # it is really narrower


def test_dropout_depends_on_seed_and_step_alone():
  session = session_of(model=dict(kw=dict(width=32, depth=1, dropout=0.5)),
                       optimizer=dict(learning_rate=0.0))
  same = lambda i: batch_of(0)
  state, rows = run(session, 3, batch=same)
  losses = [r['loss'] for r in rows]
  assert len(set(map(float, losses))) == 3  # each step draws again
  # A state that comes from elsewhere at step 2 draws what step 2 drew.
  fresh = session.init()._replace(step=jnp.int32(2))
  fresh = jax.device_put(fresh, jax.tree.map(lambda x: x.sharding, state))
  _, again = run(session, 1, fresh, batch=same)
  assert again[0]['loss'] == losses[2]
  inputs = session.inputs._replace(seed=jnp.int32(1))
  _, other = run(session, 1, inputs=inputs, batch=same)
  assert other[0]['loss'] != losses[0]
  # Evaluation drops nothing.
  logits = [session.predict(state.params['student'], state.stats['student'],
                            same(0)['images']) for _ in range(2)]
  np.testing.assert_array_equal(*logits)


@pytest.mark.parametrize('mixup,cutmix', [(1.0, 0.0), (0.0, 1.0), (1.0, 1.0)])
def test_mixing_in_the_step(mixup, cutmix):
  prepare = jax.jit(train.prepare_images(INFO, mixup=mixup, cutmix=cutmix))
  batch = batch_of(0)
  kinds = set()
  for seed in range(8):
    arrays = prepare(batch, jax.random.key(seed))['data']
    labels = np.asarray(arrays['labels'])
    assert labels.shape == (16, 10) and arrays['inputs'].shape == (16, 4, 4, 1)
    np.testing.assert_allclose(labels.sum(-1), 1, rtol=1e-6)
    old = (batch['images'] / 255 - 0.5) / 0.5
    pasted = np.isclose(np.asarray(arrays['inputs'])[:, None], old[None],
                        atol=1e-6).any(1).all()
    kinds.add('cutmix' if pasted else 'mixup')
  assert kinds == {n for n, a in dict(mixup=mixup, cutmix=cutmix).items() if a}


@contextlib.contextmanager
def compilations():
  """A list that grows with every program that is compiled."""
  names = []
  def listen(name, *_, **__):
    if name == '/jax/core/compile/backend_compile_duration':
      names.append(name)
  jax.monitoring.register_event_duration_secs_listener(listen)
  try:
    yield names
  finally:
    jax.monitoring.clear_event_listeners()


def test_nothing_compiles_on_the_second_call():
  with compilations() as compiled:
    session = session_of(
        model=CONVNET, batch=dict(mixup=0.2), train=dict(ema=0.9),
        mesh=dict(data=-1), optimizer=dict(kw=dict(momentum=0.9)))
    shard_batch = train.make_shard_batch(session.mesh)
    arrays = data.Arrays(**batch_of(0, 40), ids=np.arange(40))
    state, other = session.init(), train.step_inputs(
        SPEC.terms, seed=1, ema_decay=0.5, lr_scale=0.1,
        constants=session.inputs.constants)
    predict = lambda: train.predict_all(
        session.predict, state.params['student'], state.stats['student'],
        arrays, batch_size=16, mesh=session.mesh)
    state, _ = session.step(state, shard_batch(batch_of(0)), session.inputs)
    predict()
    assert compiled
    compiled.clear()
    for inputs in (session.inputs, other):
      state, _ = session.step(state, shard_batch(batch_of(1)), inputs)
    predict()
    assert not compiled
    assert session.step._cache_size() == 1


# Sessions and runs.


def test_frozen_parameters_do_not_move():
  session = session_of(model=CONVNET, trainable='^head/', optimizer=dict(
      name='adam', l2=0.1))
  state = session.init()
  before = host(state.params['student'])
  names = [n for n in core.flatten(state.opt_state) if '/conv' in n]
  assert not names and any('head/kernel' in n
                           for n in core.flatten(state.opt_state))
  state, rows = run(session, 3, state)
  for name, value in host(state.params['student']).items():
    assert (value == before[name]).all() == (not name.startswith('head/')), name
  # Nor have they a gradient: the norm is that of the others.
  _, all_of = run(session_of(model=CONVNET), 1)
  assert 0 < rows[0]['grad_norm'] < 0.9 * all_of[0]['grad_norm']
  with pytest.raises(core.UserError, match='matches no parameter'):
    session_of(model=CONVNET, trainable='^tail/')


RUN = changed(model=CONVNET, batch=dict(size=32), data=dict(
    subset=96, validation=32, test_limit=40), loop=dict(
        steps=2, log_every=1, save_every=1, keep=3))


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
  """The workdir of a finished run on digits."""
  workdir = tmp_path_factory.mktemp('train') / 'a'
  train.run(RUN, workdir)
  return workdir


def same(a, b):
  """Names of arrays that are equal."""
  return {n for n in a if np.array_equal(a[n], b[n])}


def test_a_run_starts_from_another(trained, tmp_path):
  """`init_from`, `init.load` and `trainable`, frozen bit for bit."""
  spec = dataclasses.replace(
      RUN, seed=1, init_from=str(trained), trainable='^head/',
      init=train.Init(load='^blocks/'))
  train.run(spec, tmp_path / 'b')
  old, new = train.load_trained(trained), train.load_trained(tmp_path / 'b')
  assert same(old.params, new.params) == {
      n for n in old.params if n.startswith('blocks/')}
  card = json.loads((tmp_path / 'b' / 'card.json').read_text())
  assert card['parents'] == [dict(source=old.source, digest=old.digest)]


def test_init_step_names_the_checkpoint(trained, tmp_path):
  spec = dataclasses.replace(
      RUN, init_from=str(trained), trainable='^head/bias',
      loop=train.Loop(steps=1))
  for step in (1, 2):
    at = dataclasses.replace(spec, init=train.Init(step=step))
    train.check(at)
    train.run(at, tmp_path / str(step))
    old = train.load_trained(trained, step)
    new = train.load_trained(tmp_path / str(step))
    assert same(old.params, new.params) == {*old.params} - {'head/bias'}
    card = json.loads((tmp_path / str(step) / 'card.json').read_text())
    assert card['parents'] == [dict(source=old.source, digest=old.digest)]
  with pytest.raises(core.UserError, match='step 7'):
    train.check(dataclasses.replace(spec, init=train.Init(step=7)))


def test_a_start_of_other_sizes_is_refused(trained):
  def refused(message, model=SPEC.model, **init):
    with pytest.raises(core.UserError, match=message):
      train.check(dataclasses.replace(
          RUN, init_from=str(trained), model=core.spec.build(
              train.Model, model), init=train.Init(**init)))
  wide = dict(name='convnet', kw=dict(widths=(4, 16)))
  refused(r'is \(3, 3, 4, 8\) in .*\(3, 3, 4, 16\) in this model; leave it out '
          'with init.load', wide)
  refused('which this model lacks', dict(name='convnet', kw=dict(widths=(4,))),
          load='^blocks/')
  refused('init.load narrows what is taken', dict(
      name='convnet', kw=dict(widths=(4, 8, 8))))
  # Narrowed, what fits is taken and the rest is fresh.
  session = train.make_session(
      dataclasses.replace(RUN, model=core.spec.build(train.Model, wide),
                          init=train.Init(load='^blocks/0/')),
      data.abstract(RUN.data), start=train.load_trained(trained))
  old, new = train.load_trained(trained), session.init()
  taken = same({n: old.params[n] for n in old.params
                if n.startswith('blocks/0/')}, new.params['student'])
  assert taken and taken == {n for n in old.params if n.startswith('blocks/0/')}
  assert same({n: old.stats[n] for n in old.stats if n.startswith('blocks/0/')},
              new.stats['student'])
  assert new.params['student']['head/kernel'].shape == (16, 10)


def test_state_has_no_leaf_twice():
  """What is donated twice fails at the first step."""
  _, params, stats = models.init(models.builder(
      'convnet', classes=10, input_shape=(4, 4, 1), seed=0, widths=(4,)))
  params, stats = dict(student=params), dict(student=stats)
  state = train.init_state(params, stats, optax.adam(1e-3), True)
  leaves = jax.tree.leaves((state, params, stats))
  pointers = {x.unsafe_buffer_pointer() for x in leaves}
  assert len(pointers) == len(leaves)


def test_check_computes_nothing():
  spec = changed(model=CONVNET, batch=dict(size=64), seed=9)
  with compilations() as compiled:
    (report,) = train.check(spec)
    assert not compiled
  state = train.make_session(spec, data.abstract(spec.data)).abstract
  assert report.parameters == sum(
      x.size for x in state.params['student'].values())
  assert report.state_bytes == sum(
      x.size * x.dtype.itemsize for x in jax.tree.leaves(state))
  assert report.step_flops > 0 and report.steps == spec.loop.steps == 100
  with pytest.raises(core.UserError, match='not divisible by the 8 devices'):
    train.check(changed(model=CONVNET, batch=dict(size=12), mesh=dict(data=8)))


# Evaluation and metrics.


def test_classification_metrics():
  logits = np.log([[0.8, 0.2], [0.6, 0.4], [0.3, 0.7], [0.1, 0.9]])
  labels = np.array([0, 1, 1, 1])
  metrics = train.classification_metrics(logits, labels, bins=2)
  assert metrics['accuracy'] == 0.75
  assert metrics['nll'] == pytest.approx(-np.log([0.8, 0.4, 0.7, 0.9]).mean())
  # All confidences are in the upper bin: |mean confidence - accuracy|.
  assert metrics['ece'] == pytest.approx(abs(0.75 - np.mean([.8, .6, .7, .9])))
  # Of four bins, the third has the confidences 0.7 and 0.6.
  metrics = train.classification_metrics(logits, labels, bins=4)
  assert metrics['ece'] == pytest.approx(
      (abs(1 - (0.6 + 0.7)) + abs(2 - (0.8 + 0.9))) / 4)


def test_predict_all_keeps_order_and_drops_padding():
  session = plain()
  state = session.init()
  params, stats = state.params['student'], state.stats['student']
  rng = np.random.default_rng(0)
  arrays = data.Arrays(
      rng.integers(0, 256, (23, 4, 4, 1)).astype(np.uint8),
      np.zeros(23, np.int64), np.arange(23))
  want = session.predict(params, stats, arrays.images)
  for batch_size in (7, 16, 100):
    for mesh in (session.mesh, None):
      logits = train.predict_all(session.predict, params, stats, arrays,
                                 batch_size=batch_size, mesh=mesh)
      assert logits.shape == (23, 10)
      np.testing.assert_allclose(logits, want, atol=1e-5)


def test_writer_drops_what_came_after_the_checkpoint(tmp_path):
  with train.Writer(tmp_path) as writer:
    for step in (1, 2, 3):
      writer.write(step, 'train', dict(loss=step / 3))
    writer.write(2, 'test', dict(accuracy=1.0))
  with (tmp_path / 'metrics.jsonl').open('a') as file:
    file.write('{"step": 1, ')
  with train.Writer(tmp_path, resumed_at=2) as writer:
    writer.write(3, 'train', dict(loss=9.0))
  assert train.read_metrics(tmp_path / 'metrics.jsonl') == [
      dict(step=1, split='train', loss=1 / 3),
      dict(step=2, split='train', loss=2 / 3),
      dict(step=3, split='train', loss=9.0)]
  with train.Writer(tmp_path):
    assert not train.read_metrics(tmp_path / 'metrics.jsonl')


def test_writer_does_not_hang_on_a_full_disk(tmp_path, monkeypatch):
  from tensorboardX import record_writer

  def full(*_):
    raise OSError(28, 'No space left on device')
  with train.Writer(tmp_path) as writer:
    writer.write(1, 'train', dict(loss=1.0))
    monkeypatch.setattr(record_writer.RecordWriter, 'write', full)
    with pytest.raises(core.UserError, match='No space left on device'):
      for step in range(2, 50):
        writer.write(step, 'train', dict(loss=1.0))


def test_curves(tmp_path):
  train.curves(tmp_path)  # nothing to draw
  assert not list(tmp_path.iterdir())
  with train.Writer(tmp_path) as writer:
    writer.write(1, 'train', dict(loss=1.0))
    writer.write(2, 'train', dict(loss=0.5))
  train.curves(tmp_path)
  assert (tmp_path / 'curves.png').read_bytes()[:4] == b'\x89PNG'


def test_a_step_of_ones_own_is_traced_once():
  """Whatever seed, weight or rate it is given."""
  chex.clear_trace_counter()
  session, tx = session_of(), optax.sgd(0.1)
  step = jax.jit(chex.assert_max_traces(train.make_step(
      train.make_forward(session.graph), SPEC.terms, tx,
      train.prepare_images(INFO)), n=1))
  start = host(session.init())  # off the mesh of the session
  state = train.init_state(start.params, start.stats, tx, ema=False)
  for seed in range(3):
    state, metrics = step(state, batch_of(seed), train.step_inputs(
        SPEC.terms, seed=seed, weights=dict(task=seed / 4), lr_scale=0.3))
  assert int(state.step) == 3 and metrics['loss'] > 0
