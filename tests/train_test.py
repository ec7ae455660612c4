"""Optimiser, objective, step, session and writer, each against NumPy."""
import json
import pathlib
import sys

import jax
from jax import numpy as jnp
import numpy as np
import optax
import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:
  sys.path.insert(0, str(ROOT))

from configs import common
from experiments import finetune
from experiments import pretrain
from kt_jax import core
from kt_jax import data
from kt_jax import models
from kt_jax import train

INFO = data.Info('tiny', 10, (4, 4, 1), (0.5,), (0.5,), (), {})


def config(model='mlp', **changes):
  c = common.supervised()
  c.model = dict(name=model, kw=dict(width=8, depth=1) if model == 'mlp'
                 else dict(widths=(4, 8)))
  c.batch.size = 16
  c.terms.task = common.term('cross_entropy')
  c.mesh = dict(data=1, model=1)
  c.update_from_flattened_dict(changes)
  return c


def batch_of(step, size=16):
  rng = np.random.default_rng(step)
  return dict(images=rng.integers(0, 256, (size, 4, 4, 1)).astype(np.uint8),
              labels=rng.integers(0, 10, size).astype(np.int32))


def session_of(c, **kw):
  return train.make_session(c, INFO, **kw)


def run(session, steps, state=None, settings=None, batch=batch_of):
  """`(state, metrics of every step)`, on the host."""
  state = session.init() if state is None else state
  put, rows = train.putter(session.mesh), []
  for i in range(steps):
    state, metrics = session.step(
        state, put(batch(i)), settings or session.settings)
    rows.append(jax.device_get(metrics))
  return state, rows


def host(tree):
  return jax.tree.map(np.array, jax.device_get(tree))


def close(a, b, rtol=1e-5, atol=1e-6):
  jax.tree.map(lambda x, y: np.testing.assert_allclose(
      x, y, rtol=rtol, atol=atol), host(a), host(b))


# Schedules and optimisers.


def schedule(name, steps=100, rate=0.4, **kw):
  return train.make_schedule(dict(
      learning_rate=rate, schedule=dict(name=name, kw=kw)), steps)


@pytest.mark.parametrize('name,kw,want', [
    ('', {}, {0: 0.4, 99: 0.4}),
    ('constant_schedule', {}, {0: 0.4, 99: 0.4}),
    ('cosine_decay_schedule', {}, {0: 0.4, 50: 0.2, 100: 0.0}),
    ('cosine_decay_schedule', dict(decay_steps=50), {25: 0.2, 50: 0.0}),
    ('linear_schedule', dict(end_value=0.0), {0: 0.4, 50: 0.2, 100: 0.0}),
    ('polynomial_schedule', dict(end_value=0.0, power=2),
     {0: 0.4, 50: 0.1, 100: 0.0}),
    ('exponential_decay', dict(decay_rate=0.25), {0: 0.4, 50: 0.2, 100: 0.1}),
    ('exponential_decay', dict(decay_rate=0.5, transition_steps=10),
     {0: 0.4, 20: 0.1}),
    ('piecewise_constant_schedule', dict(boundaries_and_scales={30: 0.1}),
     {0: 0.4, 29: 0.4, 31: 0.04}),
    ('piecewise_constant_schedule', dict(boundaries_and_scales={'30': 0.1}),
     {0: 0.4, 29: 0.4, 31: 0.04}),
    ('warmup_cosine_decay_schedule', dict(warmup_steps=20),
     {0: 0.0, 10: 0.2, 20: 0.4, 60: 0.2, 100: 0.0}),
    ('warmup_constant_schedule', dict(warmup_steps=20),
     {0: 0.0, 10: 0.2, 20: 0.4, 99: 0.4}),
    ('warmup_exponential_decay_schedule',
     dict(warmup_steps=20, decay_rate=0.5, transition_steps=10),
     {0: 0.0, 20: 0.4, 30: 0.2}),
    ('cosine_onecycle_schedule', {}, {30: 0.4, 0: 0.4 / 25}),
])
def test_schedule_is_filled(name, kw, want):
  made = schedule(name, **kw)
  for step, value in want.items():
    np.testing.assert_allclose(made(step), value, atol=1e-6, err_msg=step)


def test_schedule_from_a_config_survives_json():
  """ConfigDict takes integer keys and JSON makes strings of them."""
  c = config()
  c.optimizer.schedule = dict(name='piecewise_constant_schedule',
                              kw=dict(boundaries_and_scales={30: 0.1}))
  for optimizer in (c.optimizer, json.loads(c.to_json())['optimizer']):
    assert float(train.make_schedule(optimizer, 9)(31)) == pytest.approx(0.01)


@pytest.mark.parametrize('name,kw,said', [
    ('cosine_decay', {}, "Did you mean 'cosine_decay_schedule'"),
    ('cosine_decay_schedule', dict(alpa=1), "Did you mean 'alpha'"),
    ('warmup_cosine_decay_schedule', {}, 'lacking: warmup_steps'),
])
def test_schedule_refuses(name, kw, said):
  with pytest.raises(core.UserError, match=said):
    schedule(name, **kw)


def test_optimizer_refuses():
  c = config()
  c.optimizer.name = 'adamm'
  with pytest.raises(core.UserError, match="Did you mean 'adam"):
    train.make_optimizer(c.optimizer, 10)
  c.optimizer.name, c.optimizer.kw = 'sgd', dict(momentun=0.9)
  with pytest.raises(core.UserError, match="Did you mean 'momentum'"):
    train.make_optimizer(c.optimizer, 10)


@pytest.mark.parametrize('nesterov', [False, True])
def test_sgd_is_that_of_torch(nesterov):
  """Clip, then decay into the gradient, then momentum, then the rate."""
  c = config()
  c.optimizer.update(weight_decay=0.1, clip=1.0, learning_rate=0.5)
  c.optimizer.kw = dict(momentum=0.9, nesterov=nesterov)
  c.optimizer.schedule.name = 'cosine_decay_schedule'
  tx = train.make_optimizer(c.optimizer, 5)
  rng = np.random.default_rng(0)
  w = rng.normal(size=7)
  params = {'w': jnp.asarray(w, jnp.float32)}
  opt_state, velocity = tx.init(params), np.zeros(7)
  for step in range(5):
    raw = rng.normal(size=7)
    updates, opt_state = tx.update(
        {'w': jnp.asarray(raw, jnp.float32)}, opt_state, params)
    params = optax.apply_updates(params, updates)

    gradient = raw / max(1.0, np.sqrt((raw**2).sum())) + 0.1 * w
    velocity = 0.9 * velocity + gradient
    direction = gradient + 0.9 * velocity if nesterov else velocity
    w = w - 0.5 * (1 + np.cos(np.pi * step / 5)) / 2 * direction
    np.testing.assert_allclose(params['w'], w, rtol=1e-5, atol=1e-6)


# Objective and settings.


def test_objective_adds_terms_and_stops_gradients():
  terms = dict(
      task=common.term('cross_entropy'),
      self=common.term('kd', rename=dict(teacher_logits='initial_logits'),
                       temperature=2.0))
  objective = train.make_objective(terms)
  rng = np.random.default_rng(0)
  z, z0 = (jnp.asarray(rng.normal(size=(6, 3)), jnp.float32) for _ in range(2))
  labels = jnp.asarray([0, 1, 2, 0, 1, 2])
  where = jnp.asarray([True] * 4 + [False] * 2)

  def value(z, z0):
    found = objective(dict(student_logits=z, initial_logits=z0, labels=labels,
                           where=where))
    return sum(total for total, _ in found.values()), found
  (g, g0), found = jax.grad(value, (0, 1), has_aux=True)(z, z0)
  assert float(jnp.abs(g[:4]).min(-1).max()) > 0
  assert not g0.any() and not g[4:].any()
  assert {n: float(c) for n, (_, c) in found.items()} == dict(task=4, self=4)
  log_p = np.asarray(jax.nn.log_softmax(z))
  np.testing.assert_allclose(
      found['task'][0], -sum(log_p[i, labels[i]] for i in range(4)), rtol=1e-5)


@pytest.mark.parametrize('terms,said', [
    ({}, 'config.terms is empty'),
    (dict(a=common.term('cros_entropy')), "Did you mean 'cross_entropy'"),
    (dict(a=common.term('kd', temperatur=2.0)), "Did you mean 'temperature'"),
    (dict(a=common.term('kd', rename=dict(teacher_logit='x'))),
     "Did you mean 'teacher_logits'"),
])
def test_objective_refuses(terms, said):
  with pytest.raises(core.UserError, match=said):
    train.make_objective(terms)


def test_make_settings():
  terms = dict(a=dict(weight=2.0), b=dict(weight=0.5))
  found = train.make_settings(terms, seed=3, decay=0.9)
  assert {n: float(w) for n, w in found.weights.items()} == dict(a=2.0, b=0.5)
  assert (int(found.seed), float(found.rate), int(found.every)) == (3, 1, 1)
  only = train.make_settings(terms, weights=dict(b=3.0)).weights
  assert {n: float(w) for n, w in only.items()} == dict(a=0.0, b=3.0)
  with pytest.raises(core.UserError, match="Did you mean 'b'"):
    train.make_settings(terms, weights=dict(bb=1.0))


def test_warm_up_of_a_term():
  c = config(**{'terms.task.warmup': 4, 'terms.task.weight': 2.0})
  _, rows = run(session_of(c), 5)
  for row, share in zip(rows, (0.25, 0.5, 0.75, 1.0, 1.0)):
    assert row['loss'] == pytest.approx(2.0 * share * row['task'], rel=1e-6)


# The step.


def test_step_is_sgd_of_the_mean_loss():
  """Three steps of a linear model against gradients by hand."""
  c = config(**{'optimizer.learning_rate': 0.5})
  c.model.kw = dict(depth=0)
  session = session_of(c)
  state = session.init()
  assert sorted(state.params) == ['head/bias', 'head/kernel']
  w, b = (np.float64(state.params[f'head/{n}']) for n in ('kernel', 'bias'))
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
  np.testing.assert_allclose(state.params['head/kernel'], w, atol=1e-5)
  assert int(state.step) == 3


@pytest.mark.parametrize('masked', [False, True])
def test_accumulation_changes_nothing(masked):
  """Also where `where` leaves micro-batches with unlike counts."""
  def batch(i):
    where = np.arange(16) % 4 < 2 + (np.arange(16) > 9)
    return batch_of(i) | (dict(where=where) if masked else {})
  found = []
  for parts in (1, 2, 4):
    session = session_of(config(**{'train.accumulate': parts}))
    state, rows = run(session, 3, batch=batch)
    found.append((state.params, rows))
  close(found[0], found[1])
  close(found[0], found[2])


def test_accumulation_must_divide():
  session = session_of(config(**{'train.accumulate': 3}))
  with pytest.raises(core.UserError, match='not divisible by train.accumulate'):
    run(session, 1)


def test_moving_average():
  """`ema` of parameters and statistics; `every` skips steps."""
  c = config('convnet', **{'train.ema': 0.75})
  session = session_of(c)
  for every in (1, 2):
    settings = train.make_settings(c.terms, decay=0.75, every=every)
    state = session.init()
    slow = host(dict(params=state.params, stats=state.stats))
    for i in range(4):
      state, _ = run(session, 1, state, settings, lambda _, i=i: batch_of(i))
      if (i + 1) % every == 0:
        slow = jax.tree.map(lambda s, f: 0.75 * s + 0.25 * f, slow, host(
            dict(params=state.params, stats=state.stats)))
    close(state.slow, slow)
  assert any('mean' in n for n in slow['stats'])


def test_rate_multiplies_updates():
  session = session_of(config())
  settings = session.settings._replace(rate=jnp.float32(0.5))
  start = host(session.init().params)
  moved = [jax.tree.map(np.subtract, host(run(
      session, 1, settings=s)[0].params), start)
           for s in (session.settings, settings)]
  close(jax.tree.map(lambda x: x / 2, moved[0]), moved[1])


def test_bfloat16_keeps_float32_where_it_counts():
  c = config('convnet', **{'train.compute_dtype': 'bfloat16'})
  c.optimizer.kw = dict(momentum=0.9)
  session = session_of(c)
  state, rows = run(session, 3)
  for leaf in jax.tree.leaves((state.params, state.stats, state.opt_state)):
    assert leaf.dtype in (np.float32, np.int32)
  for row in rows:
    assert all(v.dtype == np.float32 and np.isfinite(v) for v in row.values())
  logits = session.predict(state.params, state.stats, batch_of(0)['images'])
  assert logits.dtype == np.float32
  _, exact = run(session_of(config('convnet')), 1)
  assert rows[0]['loss'] == pytest.approx(exact[0]['loss'], rel=0.05)
  assert rows[0]['loss'] != exact[0]['loss']  # it is really narrower


def dropping():
  return config(**{'model.kw': dict(width=32, depth=1, dropout=0.5),
                   'optimizer.learning_rate': 0.0})


def test_dropout_hangs_on_seed_and_step_alone():
  c = dropping()
  session = session_of(c)
  same = lambda i: batch_of(0)
  state, rows = run(session, 3, batch=same)
  losses = [r['loss'] for r in rows]
  assert len(set(map(float, losses))) == 3  # each step draws anew
  # A state that comes from elsewhere at step 2 draws what step 2 drew.
  fresh = session.init()._replace(step=jnp.int32(2))
  fresh = jax.device_put(fresh, jax.tree.map(lambda x: x.sharding, state))
  _, again = run(session, 1, fresh, batch=same)
  assert again[0]['loss'] == losses[2]
  settings = train.make_settings(c.terms, seed=1)
  _, other = run(session, 1, settings=settings, batch=same)
  assert other[0]['loss'] != losses[0]
  # Evaluation drops nothing.
  logits = [session.predict(state.params, state.stats, same(0)['images'])
            for _ in range(2)]
  np.testing.assert_array_equal(*logits)


@pytest.mark.parametrize('mixup,cutmix', [(1.0, 0.0), (0.0, 1.0), (1.0, 1.0)])
def test_mixing_in_the_step(mixup, cutmix):
  prepare = jax.jit(train.classification(INFO, mixup=mixup, cutmix=cutmix))
  batch = batch_of(0)
  seen = set()
  for seed in range(8):
    pool = prepare(batch, jax.random.key(seed))
    labels = np.asarray(pool['labels'])
    assert labels.shape == (16, 10) and pool['inputs'].shape == (16, 4, 4, 1)
    np.testing.assert_allclose(labels.sum(-1), 1, rtol=1e-6)
    old = (batch['images'] / 255 - 0.5) / 0.5
    pasted = np.isclose(np.asarray(pool['inputs'])[:, None], old[None],
                        atol=1e-6).any(1).all()
    seen.add('cutmix' if pasted else 'mixup')
  assert seen == {n for n, a in dict(mixup=mixup, cutmix=cutmix).items() if a}


def test_nothing_compiles_on_the_second_call():
  compiled = []
  def listen(name, *_, **__):
    if name == '/jax/core/compile/backend_compile_duration':
      compiled.append(name)
  jax.monitoring.register_event_duration_secs_listener(listen)
  try:
    c = config('convnet', **{'batch.mixup': 0.2, 'train.ema': 0.9,
                             'mesh.data': -1})
    c.optimizer.kw = dict(momentum=0.9)
    session = session_of(c)
    put = train.putter(session.mesh)
    arrays = data.Arrays(**{k: v for k, v in batch_of(0, 40).items()},
                         ids=np.arange(40))
    state, other = session.init(), train.make_settings(
        c.terms, seed=1, decay=0.5, rate=0.1)
    state, _ = session.step(state, put(batch_of(0)), session.settings)
    train.predict_all(session.predict, state.params, state.stats, arrays,
                      batch_size=16, mesh=session.mesh)
    assert compiled
    compiled.clear()
    for settings in (session.settings, other):
      state, _ = session.step(state, put(batch_of(1)), settings)
    train.predict_all(session.predict, state.params, state.stats, arrays,
                      batch_size=16, mesh=session.mesh)
    assert not compiled
    assert session.step._cache_size() == 1
  finally:
    jax.monitoring.clear_event_listeners()


# Sessions.


def test_frozen_parameters_do_not_move():
  c = config('convnet', **{'optimizer.weight_decay': 0.1})
  c.optimizer.name, c.optimizer.kw = 'adam', {}
  session = session_of(c, trainable='^head/')
  state = session.init()
  before = host(state.params)
  names = [n for n in core.flatten(state.opt_state) if '/conv' in n]
  assert not names and any('head/kernel' in n
                           for n in core.flatten(state.opt_state))
  state, _ = run(session, 3, state)
  for name, value in host(state.params).items():
    assert (value == before[name]).all() == (not name.startswith('head/')), name
  with pytest.raises(core.UserError, match='matches no parameter'):
    session_of(c, trainable='^tail/')


def test_finetune_loads_and_freezes(tmp_path):
  """`init.load` and `init.train` through the protocols."""
  c = config('convnet')
  c.loop.steps, c.batch.size = 2, 32
  pretrain.run(c, tmp_path / 'a')
  old = train.load_trained(tmp_path / 'a')
  f = common.finetune()
  f.update(c)
  f.experiment, f.seed = 'finetune', 1
  f.init.checkpoint, f.init.train = str(tmp_path / 'a'), '^head/'
  f.init.load = '^blocks/'
  finetune.run(f, tmp_path / 'b')
  new = train.load_trained(tmp_path / 'b')
  for name in old.params:
    same = (np.asarray(old.params[name]) == np.asarray(new.params[name])).all()
    assert same == name.startswith('blocks/'), name
  card = json.loads((tmp_path / 'b' / 'card.json').read_text())
  assert card['parents'] == [dict(source=old.source, digest=old.digest)]


def test_state_has_no_leaf_twice():
  """What is donated twice fails at the first step."""
  net, params, stats = models.init(models.builder(
      'convnet', classes=10, input_shape=(4, 4, 1), seed=0, widths=(4,)))
  del net
  state = train.init_state(params, stats, optax.adam(1e-3), True)
  leaves = jax.tree.leaves((state, params, stats))
  pointers = {x.unsafe_buffer_pointer() for x in leaves}
  assert len(pointers) == len(leaves)


def test_check_computes_nothing():
  c = config('convnet', **{'batch.size': 64})
  report = train.check(c, INFO)
  state = session_of(c).init()
  assert report.parameters == sum(x.size for x in state.params.values())
  assert report.step_flops > 0 and report.steps == c.loop.steps
  c.mesh.data = 8
  c.batch.size = 12
  with pytest.raises(core.UserError, match='not divisible by the 8 devices'):
    train.check(c, INFO)


# Evaluation and metrics.


def test_classification_metrics():
  logits = np.log([[0.8, 0.2], [0.6, 0.4], [0.3, 0.7], [0.1, 0.9]])
  labels = np.array([0, 1, 1, 1])
  found = train.classification_metrics(logits, labels, bins=2)
  assert found['accuracy'] == 0.75
  assert found['nll'] == pytest.approx(-np.log([0.8, 0.4, 0.7, 0.9]).mean())
  # All confidences are in the upper bin: |mean confidence - accuracy|.
  assert found['ece'] == pytest.approx(abs(0.75 - np.mean([.8, .6, .7, .9])))


def test_predict_all_keeps_order_and_drops_padding():
  session = session_of(config())
  state = session.init()
  rng = np.random.default_rng(0)
  arrays = data.Arrays(
      rng.integers(0, 256, (23, 4, 4, 1)).astype(np.uint8),
      np.zeros(23, np.int64), np.arange(23))
  want = session.predict(state.params, state.stats, arrays.images)
  for batch_size in (7, 16, 100):
    for mesh in (session.mesh, None):
      found = train.predict_all(
          session.predict, state.params, state.stats, arrays,
          batch_size=batch_size, mesh=mesh)
      assert found.shape == (23, 10)
      np.testing.assert_allclose(found, want, atol=1e-5)


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
