"""The one loop: step, log, evaluate, save; it stops at NaN and at SIGTERM."""
from collections.abc import Callable
import contextlib
import signal
import sys
import threading
from typing import Any

import jax
from jax.experimental import multihost_utils
import numpy as np
import tqdm

from kt_jax import checkpoint
from kt_jax import core
from kt_jax.train.specs import STUDENT
from kt_jax.train.step import State
from kt_jax.train.step import StepInputs
from kt_jax.train.step import student_only
from kt_jax.train.writer import Writer


def fit(step: Callable, state: State, stream, inputs: StepInputs, *,
        steps: int, shard_batch: Callable[[Any], Any] = lambda batch: batch,
        log_every: int = 0, save_every: int = 0,
        evaluate: Callable[[State], dict[str, float]] | None = None,
        run: checkpoint.Run | None = None, writer: Writer | None = None,
        name: str = '') -> State:
  """Runs `state, metrics = step(state, batch, inputs)` up to update `steps`.

  Args:
    step: jitted; donates its state.
    state: where to start; `state.step` says how far it is.
    stream: iterator of host batches from `state.step` on; with `run` it has
      `get_state()`.
    inputs: handed to every step.
    steps: number of the last update.
    shard_batch: host batch -> device arrays.
    log_every: updates between two rows of metrics, each the mean since the row
      before; 0: only the last.
    save_every: updates between two checkpoints; 0: only the last.
    evaluate: called before each checkpoint that is due; its numbers go into it.
    run: where checkpoints go; None keeps none.
    writer: where metrics go.
    name: shown in the progress bar.

  Returns:
    The last state.

  Raises:
    UserError: a loss or gradient is not finite; names the first such update.
    SystemExit: SIGTERM came; a checkpoint was saved first.
  """
  first = saved = updates(state)
  pending = []
  # Sums since the last row. They go into checkpoints, so that an interruption
  # leaves no trace in the metrics.
  log: dict[str, Any] = dict(count=0, sums={})
  if run and first in run.steps():
    log = run.meta(first)['log'] or log

  def flush(at):
    """Fetches pending metrics and refuses NaN; the device idles only here."""
    rows = jax.device_get(pending)
    begin = at - len(rows)
    for i, metrics in enumerate(rows):
      bad = [k for k, v in metrics.items() if not np.isfinite(v)]
      if bad:
        good = f'step {saved}' if run and saved else 'none'
        raise core.UserError(
            f'{bad[0]} is {metrics[bad[0]]} at step {begin + i + 1} of '
            f'{name or "the run"}. Last good checkpoint: {good}. Lower '
            'optimizer.learning_rate or set optimizer.clip.')
      log['count'] += 1
      log['sums'] = {k: log['sums'].get(k, 0.0) + float(v)
                     for k, v in metrics.items()}
    pending.clear()
    return rows

  def save(at, due):
    flush(at)
    # A checkpoint upon SIGTERM is not evaluated: time is short, and an
    # uninterrupted run could not choose it as the best.
    assert run is not None
    scores = evaluate(state) if evaluate and due else {}
    if scores and writer:
      writer.write(at, 'validation', scores)
    run.save(at, *to_items(state), data_state=stream.get_state(),
             metrics=scores, log=log)

  bar = tqdm.tqdm(total=steps, initial=first, disable=None if name else True,
                  desc=name, unit='step', mininterval=0.5)
  with _sigterm() as asked, bar:
    for at in range(first + 1, steps + 1):
      state, metrics = step(state, shard_batch(next(stream)), inputs)
      pending.append(metrics)
      row = at == steps or (log_every and at % log_every == 0)
      if row or len(pending) == 1000:
        rows = flush(at)
        if 'loss' in rows[-1]:
          bar.set_postfix(loss=f'{rows[-1]["loss"]:.4f}', refresh=False)
      if row:
        if writer:
          writer.write(at, 'train', {
              k: total / log['count'] for k, total in log['sums'].items()})
        log = dict(count=0, sums={})
      bar.update()
      leaving = asked(at)
      due = at == steps or (save_every and at % save_every == 0)
      if run and (due or leaving):
        save(at, due)
        saved = at
      if leaving:
        if run:
          run.wait()
        print(f'SIGTERM at step {at}: '
              + ('saved; the same command resumes.' if run
                 else 'nothing of this fit is kept.'),
              file=sys.stderr)
        raise SystemExit(128 + signal.SIGTERM)
  return state


def updates(state: State) -> int:
  """Updates made; of a state that holds many runs, those of the first."""
  return int(np.ravel(jax.tree.leaves(state.step)[0])[0])


def to_items(state: State) -> tuple[dict, dict]:
  """`(model, training)`: what others use of a state, and the rest.

  The model is the moving average, where there is one, else the student.
  """
  training = dict(step=state.step, opt_state=state.opt_state)
  if state.ema:
    model, skip = state.ema, ()
  else:
    model, skip = student_only(state.params, state.stats), (STUDENT,)
  for kind in ('params', 'stats'):  # Orbax does not store empty dicts
    rest = {n: x for n, x in getattr(state, kind).items()
            if n not in skip and x}
    training |= {kind: rest} if rest else {}
  return model, training


def from_items(model, training, like: State) -> State:
  """The inverse of `to_items`, for a state of the names of `like`."""
  own = {} if like.ema else {STUDENT: model}
  params, stats = (
      {n: own[n][kind] if n in own else training.get(kind, {}).get(n, {})
       for n in getattr(like, kind)} for kind in ('params', 'stats'))
  return State(training['step'], params, stats, training['opt_state'],
               model if like.ema else {})


def resume(run: checkpoint.Run, state: State, stream) -> State:
  """`state` and `stream` as the newest whole checkpoint left them.

  Args:
    run: where to look; if it is empty, the arguments are left as they are.
    state: gives shapes and shardings.
    stream: its state is set.
  """
  like = lambda tree: jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding),
      tree)
  saved = run.latest(*map(like, to_items(state)))
  if saved is None:
    return state
  stream.set_state(saved.meta['data_state'])
  return from_items(saved.model, saved.training, state)


@contextlib.contextmanager
def _sigterm():
  """Yields `asked(step)`: has this run, on any process, been asked to stop?"""
  if jax.process_count() > 1:  # the processes must agree on the step
    yield multihost_utils.reached_preemption_sync_point
    return
  if threading.current_thread() is not threading.main_thread():
    yield lambda step: False
    return
  came = []
  before = signal.signal(signal.SIGTERM, lambda *_: came.append(True))
  try:
    yield lambda step: bool(came)
  finally:
    signal.signal(signal.SIGTERM, before)
