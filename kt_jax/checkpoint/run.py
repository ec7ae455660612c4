"""Checkpoints of a run: asynchronous, atomic, verified on the way back.

A checkpoint has three items: `model` (for every use: `params` and `stats`),
`training` (for a resumption only) and `meta` (JSON: digests of the two and of
itself, position in the data, metrics). A digest depends on names, shapes,
dtypes and bits, not on sharding, so it holds on another device count.
"""
from collections.abc import Mapping
import contextlib
import hashlib
import json
import logging
from typing import Any, NamedTuple

from etils import epath
import jax
from jax.experimental import multihost_utils
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as policies

from kt_jax import core
from kt_jax.checkpoint.workdir import read_json

FOLDER = 'checkpoints'


class Restored(NamedTuple):
  step: int  # number of updates
  model: Any
  training: Any  # None where only the model was read
  meta: dict[str, Any]


def digest(tree) -> str:
  """Hex digest of every leaf of a pytree of arrays, and of their paths."""
  total = hashlib.blake2b(digest_size=16)
  for name, leaf in core.flatten(tree).items():
    if isinstance(leaf, jax.Array) and not (
        leaf.is_fully_addressable or leaf.is_fully_replicated):
      leaf = multihost_utils.process_allgather(leaf, tiled=True)
    leaf = np.ascontiguousarray(leaf)
    total.update(f'{name} {leaf.shape} {leaf.dtype}'.encode())
    total.update(leaf.reshape(-1).view(np.uint8).data)
  return total.hexdigest()


class _Best:
  """Orbax preservation policy: the step of the highest score stays.

  Orbax's own `BestN` loses its scores when a run resumes.
  """

  def __init__(self, scores: dict[int, float]):
    self._scores = scores

  def of(self, steps) -> int | None:
    """The best of `steps`, the newest where several are equal."""
    scored = [s for s in steps if s in self._scores]
    return max(scored, key=lambda s: (self._scores[s], s)) if scored else None

  def should_preserve(self, checkpoints, *, context) -> list[bool]:
    del context
    best = self.of(c.step for c in checkpoints)
    return [c.step == best for c in checkpoints]


class Run:
  """The checkpoints under `workdir`. A context manager: leaving it waits."""

  def __init__(self, workdir, *, keep: int = 2, best: str = '',
               config: str = ''):
    """Opens them.

    Args:
      workdir: of the run.
      keep: how many of the newest stay.
      best: metric whose largest value's checkpoint stays too; '' for none.
      config: `config_hash` of the run; `latest` refuses what another config
        left here.
    """
    self._folder = epath.Path(workdir) / FOLDER
    self._config = config
    self._scores = {}  # step -> its `best` metric
    self._best, self._of_best = best, _Best(self._scores)
    # The half-written remains of a kill are removed; they would fill the disk.
    self._manager = self._reporting(lambda: ocp.CheckpointManager(
        self._folder, options=ocp.CheckpointManagerOptions(
            cleanup_tmp_directories=True,
            preservation_policy=policies.AnyPreservationPolicy(
                [policies.LatestN(keep), self._of_best]))))
    for step in self.steps():
      with contextlib.suppress(core.UserError):  # which `latest` reports
        self._note(step, self.meta(step))

  def __enter__(self):
    return self

  def __exit__(self, kind, *_):
    if kind is None:
      self._reporting(self._manager.close)
    else:
      with contextlib.suppress(Exception):  # the first error counts
        self._manager.close()

  def save(self, step: int, model, training, *, data_state: Any = None,
           metrics: Mapping[str, float] | None = None, log: Any = None) -> None:
    """Starts writing a checkpoint; does nothing if the step has one.

    Args:
      step: number of updates.
      model: pytree for every use.
      training: pytree for a resumption only.
      data_state: of the stream; JSON values, as the next two.
      metrics: of this checkpoint; `best` is one of them.
      log: sums of the loop since its last row of metrics.

    Raises:
      UserError: this one or the one before could not be written.
    """
    if step in self._manager.all_steps():
      return
    meta = dict(config=self._config, model=digest(model),
                training=digest(training), data_state=data_state,
                metrics=dict(metrics or {}), log=log)
    # A copy: another thread writes it while the loop goes on.
    meta = json.loads(json.dumps(meta))
    meta['meta'] = _meta_digest(meta)
    self._note(step, meta)
    self._reporting(lambda: self._manager.save(
        step, args=ocp.args.Composite(
            model=ocp.args.StandardSave(model),
            training=ocp.args.StandardSave(training),
            meta=ocp.args.JsonSave(meta))))

  def wait(self) -> None:
    """Returns when everything is on disk."""
    self._reporting(self._manager.wait_until_finished)

  def steps(self) -> list[int]:
    return sorted(self._manager.all_steps())

  def best_step(self) -> int | None:
    """Of the best metric, the newest where several are equal."""
    return self._of_best.of(self.steps())

  def meta(self, step: int) -> dict[str, Any]:
    """The `meta` item of one checkpoint, without reading its arrays."""
    return _verified(lambda: self._manager.restore(
        step, args=ocp.args.Composite(meta=ocp.args.JsonRestore())),
                     self._folder / str(step)).meta

  def at(self, step: int, model, training) -> Restored:
    """The checkpoint of one step; arguments and errors as `latest`."""
    return _restore(self._manager, self._folder, step, model, training)

  def latest(self, model, training) -> Restored | None:
    """The newest intact checkpoint, or None without any checkpoint.

    Args:
      model: arrays or `ShapeDtypeStruct`s with shape, dtype and sharding.
      training: likewise.

    Raises:
      UserError: no checkpoint is intact, or the newest intact one belongs to
        another config.
    """
    broken = []
    for step in reversed(self.steps()):
      try:
        restored = _restore(self._manager, self._folder, step, model, training)
      except core.UserError as e:
        logging.getLogger('kt_jax').warning('Skipping a checkpoint: %s', e)
        broken.append(step)
        continue
      if restored.meta.get('config') != self._config:
        raise core.UserError(
            f'Checkpoint {self._folder / str(step)} was saved by a run of '
            'another config, which may have ended late. Remove '
            f'{self._folder} or name a new --workdir.')
      for bad in broken:  # the run will reach this step again
        self._manager.delete(bad)
        self._scores.pop(bad, None)
      return restored
    if broken:
      raise core.UserError(
          f'No checkpoint under {self._folder} is whole (tried {broken}). '
          'Restore one from a copy, or start again in a new --workdir.')
    return None

  def _note(self, step, meta):
    if self._best in meta['metrics']:
      self._scores[step] = meta['metrics'][self._best]

  def _reporting(self, action):
    """Runs `action`; a failure to write becomes one clear line."""
    try:
      return action()
    except (OSError, ValueError, RuntimeError) as e:
      safe = _committed(self._folder)
      last = f'step {safe[-1]} is intact' if safe else 'none yet'
      raise core.UserError(
          f'Cannot write a checkpoint under {self._folder}: {_first_line(e)}. '
          f'Last good checkpoint: {last}.') from e


def read(workdir, step: int | None = None) -> Restored:
  """The model of one checkpoint of a run, verified.

  Args:
    workdir: of the run.
    step: of the checkpoint; None for the one in the run's card, else the
      newest.

  Returns:
    `Restored` with NumPy arrays, and None for `training`.

  Raises:
    UserError: no such checkpoint, or it is damaged.
  """
  folder = epath.Path(workdir) / FOLDER
  if not folder.exists():
    raise core.UserError(f'No checkpoints under {workdir}: it is not the '
                         '--workdir of a run.')
  steps = _committed(folder)
  if not steps:
    raise core.UserError(f'No finished checkpoint under {folder}.')
  if step is None:
    card = epath.Path(workdir) / 'card.json'
    step = steps[-1]
    if card.exists():
      step = read_json(card).get('step', step)
  if step not in steps:
    raise core.UserError(f'No checkpoint of step {step} under {folder}; '
                         f'there are {steps}.')
  path = folder.resolve() / str(step)
  arrays = ocp.PyTreeCheckpointHandler()

  def load():
    tree = arrays.metadata(path / 'model').tree
    kinds = jax.tree.map(
        lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
    return dict(
        model=arrays.restore(path / 'model', args=ocp.args.PyTreeRestore(
            restore_args=kinds)),
        meta=ocp.JsonCheckpointHandler().restore(path / 'meta'))

  return _verified(load, path)


def _restore(manager, folder, step, model, training) -> Restored:
  """One checkpoint, onto the devices that the templates name."""
  return _verified(lambda: manager.restore(step, args=ocp.args.Composite(
      model=ocp.args.StandardRestore(model),
      training=ocp.args.StandardRestore(training),
      meta=ocp.args.JsonRestore())), folder / str(step))


def _verified(load, path) -> Restored:
  """The items that `load` returns, compared with their saved digests."""
  try:
    items = dict(load().items())
    meta = items.pop('meta')
    if _meta_digest(meta) != meta.get('meta'):
      raise ValueError("the content of 'meta' is not what was saved")
    for item, tree in items.items():
      if digest(tree) != meta[item]:
        raise ValueError(f'the content of {item!r} is not what was saved '
                         '(its digest differs)')
  except Exception as e:  # Orbax and TensorStore raise many kinds
    raise core.UserError(
        f'Checkpoint {path} is damaged or does not fit this model: '
        f'{_first_line(e)}.') from e
  return Restored(int(path.name), items.get('model'), items.get('training'),
                  meta)


def _meta_digest(meta) -> str:
  rest = {k: v for k, v in meta.items() if k != 'meta'}
  text = json.dumps(rest, sort_keys=True)
  return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _committed(folder) -> list[int]:
  """Steps with a completely written checkpoint, ascending."""
  marks = 'commit_success.txt', '_CHECKPOINT_METADATA'
  with contextlib.suppress(OSError):
    return sorted(int(p.name) for p in folder.iterdir() if p.name.isdigit()
                  and any((p / m).exists() for m in marks))
  return []


def _first_line(e: BaseException) -> str:
  return (str(e).strip().splitlines() or [type(e).__name__])[0][:300]
