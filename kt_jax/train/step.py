"""The state of a training run and the one step that moves it."""
from collections.abc import Callable, Mapping
import functools
from typing import Any, NamedTuple

import jax
from jax import numpy as jnp
import optax

from kt_jax import core
from kt_jax import merge
from kt_jax.train import specs

Arrays = dict[str, jax.Array]
Sums = dict[str, tuple[jax.Array, jax.Array]]  # loss term -> (sum, count)


class State(NamedTuple):
  step: jax.Array  # int32, updates made
  params: dict[str, Arrays]  # network or module -> path -> parameter
  stats: dict[str, Arrays]  # likewise: BatchNorm's statistics and the like
  opt_state: optax.OptState
  ema: dict[str, Arrays]  # moving average of the student; {} without one


class StepInputs(NamedTuple):
  """Numbers that may change from run to run without compiling again."""
  term_weights: dict[str, jax.Array]
  lr_scale: jax.Array  # multiplies every update
  ema_decay: jax.Array  # share of the old average kept at each averaging
  ema_every: jax.Array  # int32, updates between two averagings
  seed: jax.Array  # int32, of every random number in the step
  constants: dict[str, Any]  # arrays that no step moves: frozen teachers, ...


class StepContext(NamedTuple):
  """What a forward pass reads besides what it differentiates."""
  step: jax.Array
  ema: dict[str, Arrays]
  constants: dict[str, Any]


# `(params, stats, batches, key, step_context) -> (Sums, stats)`
Forward = Callable[..., tuple[Sums, dict[str, Arrays]]]


def step_inputs(terms: Mapping[str, specs.LossTerm], *, seed=0, weights=None,
                lr_scale=1.0, ema_decay=0.0, ema_every=1, constants=None
               ) -> StepInputs:
  """`StepInputs` of loss terms.

  Args:
    terms: of the objective.
    seed: of the run.
    weights: term -> weight, in place of those of the terms; 0 if absent.
    lr_scale: multiplies every update.
    ema_decay: of the moving average.
    ema_every: updates between two averagings.
    constants: see `StepInputs`.
  """
  if weights is None:
    weights = {name: term.weight for name, term in terms.items()}
  for name in weights:
    if name not in terms:
      raise core.UserError(core.nearest('term', name, terms))
  return StepInputs(
      {n: jnp.float32(weights.get(n, 0.0)) for n in terms},
      jnp.float32(lr_scale), jnp.float32(ema_decay), jnp.int32(ema_every),
      jnp.int32(seed), constants or {})


def init_state(params: dict[str, Arrays], stats: dict[str, Arrays],
               tx: optax.GradientTransformation, ema: bool) -> State:
  """A state at step 0. No leaf of it is another: the step donates them all."""
  copy = lambda tree: jax.tree.map(jnp.copy, tree)
  average = {}
  if ema:
    average = copy(student_only(params, stats))
  return State(jnp.zeros((), jnp.int32), copy(params), copy(stats),
               tx.init(params), average)


def student_only(params, stats) -> dict[str, Arrays]:
  """The student's arrays, as checkpoints and evaluation take them."""
  return dict(params=params[specs.STUDENT], stats=stats[specs.STUDENT])


def make_cast(compute_dtype: str) -> Callable[[Any], Any]:
  """A cast of the float32 leaves of a pytree."""
  return lambda tree: jax.tree.map(
      lambda x: x.astype(compute_dtype) if x.dtype == jnp.float32 else x, tree)


def warmed(terms: Mapping[str, specs.LossTerm],
           weights: Mapping[str, jax.Array], step) -> dict[str, Any]:
  """`weights` times each term's linear warm-up at update `step` (from 0)."""
  return {name: weights[name] * jnp.minimum(
      1.0, (step + 1) / max(1, term.warmup)) for name, term in terms.items()}


def make_step(forward: Forward, terms: Mapping[str, specs.LossTerm],
              tx: optax.GradientTransformation,
              prepare: Callable[[Mapping[str, Any], jax.Array],
                                dict[str, Any]], *,
              accumulate: int = 1,
              outer: Callable[..., dict[str, Arrays]] | None = None,
              sample: Callable[..., tuple[Any, Arrays]] | None = None,
              observe: Callable[..., dict[str, Arrays]] | None = None
             ) -> Callable[[State, Mapping[str, Any], StepInputs],
                           tuple[State, dict[str, jax.Array]]]:
  """`step(state, batch, inputs) -> (state, metrics)`, pure, to be jitted.

  All randomness is derived from `(inputs.seed, state.step)` only.

  Args:
    forward: `make_forward(...)`.
    terms: for their warm-up.
    tx: the optimizer.
    prepare: `(batch, key) -> {'data': arrays}`; mixup and normalization are
      there. Losses take these arrays by name.
    accumulate: micro-batches that a step is cut into. Losses and gradients do
      not change (sums and counts are added up); BatchNorm sees micro-batches.
    outer: `(loss, params, stats, batches, key, step_context) -> gradients` that
      replace those of some networks; `loss(params, stats, batches, key)` is the
      step's.
    sample: `(params, stats, batches, key, step_context) -> (batches, metrics)`,
      applied before the batch is cut; no gradient runs through it.
    observe: `(params, stats, {term: mean}) -> stats`, once per step, after it;
      a mean of no entries is NaN.

  Returns:
    The step. Its metrics are the mean of each term, `loss` and `grad_norm`.
  """
  def step(state, batch, inputs):
    key = jax.random.fold_in(jax.random.key(inputs.seed), state.step)
    key_prepare, key_model = jax.random.split(key)
    batches = prepare(batch, key_prepare)
    weights = warmed(terms, inputs.term_weights, state.step)
    step_context = StepContext(state.step, state.ema, inputs.constants)
    sums = functools.partial(forward, step_context=step_context)
    sample_metrics = {}
    if sample:
      batches, sample_metrics = jax.lax.stop_gradient(sample(
          state.params, state.stats, batches, core.fold_path(key, 'sample'),
          step_context))

    def loss_fn(params, stats, batches, key, counts=None):
      pairs, stats = sums(params, stats, batches, key)
      totals = {n: total for n, (total, _) in pairs.items()}
      counts = counts or {n: count for n, (_, count) in pairs.items()}
      loss = sum(w * totals[n] / jnp.maximum(counts[n], 1)
                 for n, w in weights.items())
      return loss, (totals, counts, stats)

    if accumulate == 1:
      grads, (totals, counts, stats) = jax.grad(loss_fn, has_aux=True)(
          state.params, state.stats, batches, key_model)
    else:
      grads, totals, counts, stats = _accumulate(
          loss_fn, sums, state, batches, key_model, accumulate)
    if outer:
      grads = grads | outer(lambda *args: loss_fn(*args)[0], state.params,
                            state.stats, batches, key_model, step_context)

    updates, opt_state = tx.update(grads, state.opt_state, state.params)
    updates = jax.tree.map(lambda u: inputs.lr_scale * u, updates)
    params: Any = optax.apply_updates(state.params, updates)
    ema = state.ema and _average(state.ema, student_only(params, stats),
                                 inputs, state.step + 1)
    metrics = {n: totals[n] / jnp.maximum(counts[n], 1) for n in totals}
    if observe:
      stats = observe(params, stats, {
          n: jnp.where(counts[n] > 0, metrics[n], jnp.nan) for n in metrics})
    metrics |= sample_metrics | {
        'loss': sum(w * metrics[n] for n, w in weights.items()),
        'grad_norm': optax.tree.norm(grads)}
    return State(state.step + 1, params, stats, opt_state, ema), metrics

  return step


def _average(ema, model, inputs, step):
  """Moving average: `ema <- decay ema + (1 - decay) model`."""
  share = jnp.where(step % inputs.ema_every == 0, 1.0 - inputs.ema_decay, 0.0)
  return merge.over_tree(merge.linear, ema, [model], share[None])


def _accumulate(loss_fn, sums, state, batches, key, parts):
  """Gradients of the whole batch, one micro-batch at a time."""
  def cut(x):  # strided, so that a batch sharded by rows stays where it is
    if x.shape[0] % parts:
      raise core.UserError(f'batch_size {x.shape[0]} is not divisible by '
                           f'train.accumulate {parts}.')
    return x.reshape(-1, parts, *x.shape[1:]).swapaxes(0, 1)
  batches = jax.tree.map(cut, batches)
  keys = jax.random.split(key, parts)

  # Counts depend on `where` alone: the compiler drops the forward pass here.
  def count(total, inputs):
    pairs, _ = sums(state.params, state.stats, *inputs)
    return jax.tree.map(jnp.add, total, {n: c for n, (_, c) in pairs.items()}
                       ), None
  shapes = jax.eval_shape(
      lambda: sums(state.params, state.stats,
                   jax.tree.map(lambda x: x[0], batches), key)[0])
  zeros = {n: jnp.zeros((), c.dtype) for n, (_, c) in shapes.items()}
  counts, _ = jax.lax.scan(count, zeros, (batches, keys))

  def micro(carry, inputs):
    grads, totals, stats = carry
    new, (sum_of, _, stats) = jax.grad(loss_fn, has_aux=True)(
        state.params, stats, *inputs, counts)
    return (jax.tree.map(jnp.add, grads, new),
            jax.tree.map(jnp.add, totals, sum_of), stats), None
  carry = jax.tree.map(jnp.zeros_like, state.params), zeros, state.stats
  (grads, totals, stats), _ = jax.lax.scan(micro, carry, (batches, keys))
  return grads, totals, counts, stats
