"""The state of a training run and the one step that moves it."""
from collections.abc import Callable, Mapping
import functools
from typing import Any, NamedTuple

import jax
from jax import numpy as jnp
import optax

from kt_jax import core
from kt_jax import data
from kt_jax import merge
from kt_jax import models
from kt_jax.train import objective as objectives

Arrays = dict[str, jax.Array]
COMPUTE_DTYPES = 'float32', 'bfloat16'


class State(NamedTuple):
  step: jax.Array  # int32, updates made
  params: Arrays
  stats: Arrays  # BatchNorm's running statistics and the like
  opt_state: optax.OptState
  slow: dict[str, Arrays]  # moving average of the model; {} without one


class Settings(NamedTuple):
  """Numbers that may change from run to run without compiling again."""
  weights: dict[str, jax.Array]  # term -> weight
  rate: jax.Array  # multiplies every update
  decay: jax.Array  # share of the old average kept at each averaging
  every: jax.Array  # int32, updates between two averagings
  seed: jax.Array  # int32, of every random number in the step
  frozen: dict[str, Any]  # arrays that no step moves, such as a teacher's


class Shared(NamedTuple):
  """What a forward pass may look at besides what it differentiates."""
  step: jax.Array
  slow: dict[str, Arrays]
  frozen: dict[str, Any]


# `(params, stats, pool, key, shared) -> ({term: (sum, count)}, stats)`
Forward = Callable[..., tuple[objectives.Sums, Arrays]]


def make_settings(terms, *, seed=0, weights=None, rate=1.0, decay=0.0, every=1,
                  frozen=None) -> Settings:
  """`Settings` of a config's terms; `weights` overrides theirs, 0 if absent."""
  if weights is None:
    weights = {name: term['weight'] for name, term in terms.items()}
  for name in weights:
    if name not in terms:
      raise core.UserError(core.nearest('term', name, terms))
  return Settings({n: jnp.float32(weights.get(n, 0.0)) for n in terms},
                  jnp.float32(rate), jnp.float32(decay), jnp.int32(every),
                  jnp.int32(seed), frozen or {})


def init_state(params: Arrays, stats: Arrays,
               tx: optax.GradientTransformation, average: bool) -> State:
  """A state at step 0. No leaf of it is another: the step donates them all."""
  copy = lambda tree: jax.tree.map(jnp.copy, tree)
  slow = {}
  if average:
    slow = copy(dict(params=own(params), stats=own(stats)))
  return State(jnp.zeros((), jnp.int32), copy(params), copy(stats),
               tx.init(params), slow)


def narrower(compute_dtype: str) -> Callable[[Any], Any]:
  """A cast of the float32 leaves of a pytree."""
  if compute_dtype not in COMPUTE_DTYPES:
    raise core.UserError(core.nearest(
        'dtype (train.compute_dtype)', compute_dtype, COMPUTE_DTYPES))
  return lambda tree: jax.tree.map(
      lambda x: x.astype(compute_dtype) if x.dtype == jnp.float32 else x, tree)


def own(arrays: Mapping[str, Any]) -> dict[str, Any]:
  """What is the model's: other networks and modules have paths `@name/...`."""
  return {path: v for path, v in arrays.items() if not path.startswith('@')}


def supervised(net: models.Net, terms, compute_dtype: str = 'float32'
              ) -> Forward:
  """The forward pass of one model and the losses that read its logits.

  Args:
    net: the model.
    terms: `config.terms`.
    compute_dtype: of activations and of the parameters they meet; parameters,
      statistics and losses stay in float32.
  """
  objective = objectives.make_objective(terms)
  narrow = narrower(compute_dtype)

  def forward(params, stats, pool, key, shared):
    del shared
    out = models.apply(net, narrow(params), stats, narrow(pool['inputs']),
                       train=True, key=key)
    stats = jax.tree.map(lambda new, old: new.astype(old.dtype),
                         out.stats, stats)
    return objective(pool | {'student_logits': out.logits}), stats
  return forward


def make_step(forward: Forward, terms, tx: optax.GradientTransformation,
              prepare: Callable[[Mapping[str, Any], jax.Array],
                                dict[str, Any]], *,
              accumulate: int = 1, outer: Callable[..., Arrays] | None = None,
              sample: Callable[..., tuple[Any, Arrays]] | None = None,
              observe: Callable[..., Arrays] | None = None
             ) -> Callable[[State, Mapping[str, Any], Settings],
                           tuple[State, dict[str, jax.Array]]]:
  """`step(state, batch, settings) -> (state, metrics)`, pure, to be jitted.

  Every random number in it hangs on (settings.seed, state.step) alone.

  Args:
    forward: `supervised(...)` and the like.
    terms: `config.terms`, for their warm-up.
    tx: the optimiser.
    prepare: `(batch, key) -> pool`, whose `inputs` the student sees; mixup and
      normalisation are there. The rest of the pool feeds the losses by name.
    accumulate: micro-batches a step is cut into. Losses and gradients do not
      change (sums and counts are added up); BatchNorm sees micro-batches.
    outer: `(loss, params, stats, pool, key, shared) -> gradients` that replace
      those of some parameters; `loss(params, stats, pool, key)` is the step's.
    sample: `(params, stats, pool, key, shared) -> (pool, metrics)`, what the
      whole batch becomes before it is cut; no gradient runs through it.
    observe: `(params, stats, {term: mean}) -> stats`, once a step, after it;
      a mean of no entries is NaN.

  Returns:
    The step. Its metrics are the mean of each term, `loss` and `grad_norm`.
  """
  def step(state, batch, settings):
    key = jax.random.fold_in(jax.random.key(settings.seed), state.step)
    key_prepare, key_model = jax.random.split(key)
    pool = prepare(batch, key_prepare)
    weights = objectives.warmed(terms, settings.weights, state.step)
    shared = Shared(state.step, state.slow, settings.frozen)
    sums = functools.partial(forward, shared=shared)
    said = {}
    if sample:
      pool, said = jax.lax.stop_gradient(sample(
          state.params, state.stats, pool, core.fold_path(key, 'sample'),
          shared))

    def loss_fn(params, stats, pool, key, counts=None):
      found, stats = sums(params, stats, pool, key)
      totals = {n: total for n, (total, _) in found.items()}
      counts = counts or {n: count for n, (_, count) in found.items()}
      loss = sum(w * totals[n] / jnp.maximum(counts[n], 1)
                 for n, w in weights.items())
      return loss, (totals, counts, stats)

    if accumulate == 1:
      grads, (totals, counts, stats) = jax.grad(loss_fn, has_aux=True)(
          state.params, state.stats, pool, key_model)
    else:
      grads, totals, counts, stats = _accumulate(
          loss_fn, sums, state, pool, key_model, accumulate)
    if outer:
      grads = grads | outer(lambda *args: loss_fn(*args)[0], state.params,
                            state.stats, pool, key_model, shared)

    updates, opt_state = tx.update(grads, state.opt_state, state.params)
    updates = jax.tree.map(lambda u: settings.rate * u, updates)
    params = optax.apply_updates(state.params, updates)
    fast = dict(params=own(params), stats=own(stats))
    slow = state.slow and _average(
        state.slow, fast, settings, state.step + 1)
    metrics = {n: totals[n] / jnp.maximum(counts[n], 1) for n in totals}
    if observe:
      stats = observe(params, stats, {
          n: jnp.where(counts[n] > 0, metrics[n], jnp.nan) for n in metrics})
    metrics |= said | {
        'loss': sum(w * metrics[n] for n, w in weights.items()),
        'grad_norm': optax.tree.norm(grads)}
    return State(state.step + 1, params, stats, opt_state, slow), metrics

  return step


def _average(slow, fast, settings, step):
  """Momentum interpolation: `slow <- decay slow + (1 - decay) fast`."""
  share = jnp.where(step % settings.every == 0, 1.0 - settings.decay, 0.0)
  return merge.over_tree(merge.linear, slow, [fast], share[None])


def _accumulate(loss_fn, sums, state, pool, key, parts):
  """Gradients of the whole batch, one micro-batch at a time."""
  def cut(x):  # strided, so that a batch sharded by rows stays where it is
    if x.shape[0] % parts:
      raise core.UserError(f'batch_size {x.shape[0]} is not divisible by '
                           f'train.accumulate {parts}.')
    return x.reshape(-1, parts, *x.shape[1:]).swapaxes(0, 1)
  pools = jax.tree.map(cut, pool)
  keys = jax.random.split(key, parts)

  # Counts hang on `where` alone: the compiler drops the forward pass here.
  def count(total, inputs):
    found, _ = sums(state.params, state.stats, *inputs)
    return jax.tree.map(jnp.add, total, {n: c for n, (_, c) in found.items()}
                       ), None
  shapes = jax.eval_shape(
      lambda: sums(state.params, state.stats,
                   jax.tree.map(lambda x: x[0], pools), key)[0])
  zeros = {n: jnp.zeros((), c.dtype) for n, (_, c) in shapes.items()}
  counts, _ = jax.lax.scan(count, zeros, (pools, keys))

  def micro(carry, inputs):
    grads, totals, stats = carry
    new, (found, _, stats) = jax.grad(loss_fn, has_aux=True)(
        state.params, stats, *inputs, counts)
    return (jax.tree.map(jnp.add, grads, new),
            jax.tree.map(jnp.add, totals, found), stats), None
  carry = jax.tree.map(jnp.zeros_like, state.params), zeros, state.stats
  (grads, totals, stats), _ = jax.lax.scan(micro, carry, (pools, keys))
  return grads, totals, counts, stats


def classification(info: data.Info, *, mixup: float = 0.0, cutmix: float = 0.0):
  """`prepare` for images: normalised inputs; mixup and cutmix, soft labels.

  With both, each step draws one of them with equal chance.
  """
  def prepare(batch, key):
    pool = {k: v for k, v in batch.items() if k != 'images'}
    x = data.normalize(batch['images'], info.mean, info.std)
    if mixup or cutmix:
      soft = jax.nn.one_hot(batch['labels'], info.classes)
      key_choice, key = jax.random.split(key)
      mix = lambda: data.mixup(key, x, soft, mixup)
      cut = lambda: data.cutmix(key, x, soft, cutmix)
      if mixup and cutmix:
        x, soft = jax.lax.cond(
            jax.random.bernoulli(key_choice), mix, cut)
      else:
        x, soft = mix() if mixup else cut()
      pool['labels'] = soft
    return pool | {'inputs': x}
  return prepare
