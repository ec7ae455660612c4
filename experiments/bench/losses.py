"""What each loss adds to a step: its value and gradient, alone."""
import inspect

import jax
from jax import numpy as jnp
import numpy as np

from experiments.bench import turns
from kt_jax import core
from kt_jax import data
from kt_jax import losses
from kt_jax import models
from kt_jax import train
from kt_jax.launch import report

LIMIT = 20  # percent of a step that a loss may take without a reason
# Why some take more, where that lies in what they are.
REASONS = {
    'token_graph': 'a median of M^2 distances for sigma, M = 8 tokens x batch'}
# Loss -> the features that it compares: 'all' maps, the 'middle' or the 'last'
# of them. Others compare 'pool'.
FEATURES = dict.fromkeys((
    'activation_boundary', 'attention_transfer', 'fsp', 'inter_layer_relation',
    'intra_layer_pattern', 'nst', 'overhaul', 'review_kd', 'vid'), 'all'
) | dict.fromkeys((
    'class_attention', 'factor_transfer', 'ickd', 'knowledge_token',
    'similarity_preserving', 'token_graph'), 'last') | {'hint': 'middle'}
# As the configs of their papers have them on CIFAR.
SETTINGS = {'token_graph': dict(tokens=8)}
NEGATIVES, WIDTH = 1024, 128  # what a memory hands to crd


def measure(name, work, settings):
  """Raw times, table and metrics, as `distill.measure` joins them."""
  info = data.abstract(work.data)
  session = train.make_session(work, info)
  stream = train.open_stream(work, data.load(work.data).train, session.mesh)
  put = train.make_shard_batch(session.mesh)
  batch = jax.block_until_ready(put(next(stream)))
  stream.close()
  state = session.init()
  def step():
    nonlocal state
    state, _ = session.step(state, batch, session.inputs)
    return state

  cases = {'step': turns.timed(step)}
  shapes = outputs(work, info, settings.maps)
  for loss in settings.losses or public():
    cases[loss] = turns.timed(jax.jit(gradient(loss)), arrays(loss, shapes))
  cases['step again'] = cases['step']  # a turn is long: one at each end of it
  for run in cases.values():
    run(1)  # compiles
  calls = {case: int(np.clip(1e3 * settings.seconds / run(1), 1, 100))
           for case, run in cases.items()}
  times = turns.in_turns(name, cases, calls, settings.repeats)

  step_ms = np.add(times['step'], times['step again']) / 2
  share = {case: 100 * np.divide(times[case], step_ms) for case in cases
           if case not in ('step', 'step again')}
  share = dict(sorted(share.items(), key=lambda x: -np.median(x[1])))
  high = [loss for loss, v in share.items() if np.median(v) > LIMIT]
  rows = [[loss, f'{np.median(times[loss]):.3f}', f'{np.median(v):.2f} %',
           turns.quartiles(v, '.2f'),
           REASONS.get(loss, 'no reason yet') if loss in high else '']
          for loss, v in share.items()]
  text = (f'{name}: value and gradient of each loss alone, over the label step '
          f'of {work.model.name}, batch {work.batch.size}: '
          f'{np.median(step_ms):.1f} ms; {settings.repeats} turns\n\n')
  head = ['loss', 'ms', 'share', 'quartiles', f'why above {LIMIT} %']
  return times, text + report.table([head, *rows], bars=True), dict(
      step_ms=float(np.median(step_ms)), losses=len(share),
      largest_percent=float(np.median(next(iter(share.values())))),
      above_limit=len(high), without_reason=len(set(high) - set(REASONS)))


def public() -> list[str]:
  """Names of all losses."""
  return [n for n, f in vars(losses).items() if inspect.isfunction(f)
          and f is not losses.linear_head]  # it runs another loss


def outputs(work, info, maps):
  """Shapes of what the model of a step has: 'all' maps, 'pool', 'logits', and
  the kernel of its 'head'."""
  build = models.builder(work.model.name, classes=info.classes,
                         input_shape=info.input_shape, **work.model.kw)
  net = models.abstract(build)
  params, stats = jax.eval_shape(lambda: models.arrays(net, build()))
  tapped = models.taps(net, params, stats, jax.ShapeDtypeStruct(
      (work.batch.size, *info.input_shape), np.float32))
  return dict(all=[tapped[tap] for tap in maps], pool=tapped['pool'],
              logits=tapped['head'], head=params['head/kernel'])


def arrays(loss, shapes):
  """The arrays that a loss takes, in such shapes; a teacher's are as wide."""
  rng = np.random.default_rng(0)
  maps, (examples, classes) = shapes['all'], shapes['logits'].shape
  features = (shapes | dict(middle=maps[len(maps) // 2], last=maps[-1])
             )[FEATURES.get(loss, 'pool')]
  if loss == 'crd':
    features = jax.ShapeDtypeStruct((examples, WIDTH), np.float32)
  normal = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
  like_features = lambda: jax.tree.map(lambda x: normal(*x.shape), features)
  channels = lambda value: jax.tree.map(
      lambda x: jnp.full(x.shape[-1:], value), features)
  make = dict(
      features=like_features, targets=like_features,
      logits=lambda: normal(examples, classes),
      weak_logits=lambda: normal(examples, classes),
      head=lambda: normal(*shapes['head'].shape),
      negatives=lambda: normal(examples, NEGATIVES, WIDTH),
      aspects=lambda: jax.nn.sigmoid(normal(examples, len(data.ASPECTS))),
      labels=lambda: jnp.arange(examples) % classes,
      index=lambda: jnp.arange(examples), key=lambda: jax.random.key(0),
      variance=lambda: channels(1.0), margin=lambda: channels(-1.0))
  values = {}
  for name in inspect.signature(core.resolve(losses, loss, 'loss')).parameters:
    role, _, what = name.partition('_')
    what = what if role in ('student', 'teacher', 'initial') else name
    if what in make:
      values[name] = make[what]()
  if loss == 'class_relation':  # its teacher has some of the classes
    values['teacher_logits'] = values['teacher_logits'][:, :classes // 2]
  return values


def gradient(loss):
  """`arrays -> (mean, its gradient by the student's)`, of a loss."""
  fn = core.resolve(losses, loss, 'loss')
  def call(arrays):
    # What a memory holds is constant.
    ours = {n: v for n, v in arrays.items()
            if n.startswith('student_') and n != 'student_negatives'}
    return jax.value_and_grad(lambda ours: core.masked_mean(core.bind(
        fn, arrays | ours, **SETTINGS.get(loss, {}))))(ours)
  return call
