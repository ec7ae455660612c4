"""Metrics of a run: `metrics.jsonl` and TensorBoard."""
import contextlib
import json
import time
from typing import Any

from etils import epath
import jax

from kt_jax import checkpoint
from kt_jax import core


class Writer:
  """Appends one JSON object a line; process 0 writes, the others do not.

  The lines hold no times, so that a resumed run leaves the same file.
  """

  def __init__(self, workdir, resumed_at: int = 0):
    """Opens it; what an interrupted run wrote after `resumed_at` is dropped."""
    self._path = epath.Path(workdir) / 'metrics.jsonl'
    self._active = jax.process_index() == 0
    self._board = None
    if not self._active:
      return
    # The test row is the last of a run, which writes it again.
    rows = [r for r in read_metrics(self._path)
            if r['step'] <= resumed_at and r['split'] != 'test']
    if not resumed_at:
      rows = []
    checkpoint.write_atomic(
        self._path, ''.join(json.dumps(r) + '\n' for r in rows))
    self._board = _Board(epath.Path(workdir) / 'tensorboard', resumed_at + 1)

  def __enter__(self):
    return self

  def __exit__(self, *_):
    if self._board:
      with contextlib.suppress(OSError):
        self._board.close()

  def write(self, step: int, split: str, values: dict[str, float]) -> None:
    """Adds a row. Raises UserError where the disk is full."""
    if self._board is None:
      return
    row = dict(step=step, split=split) | {
        k: float(v) for k, v in values.items()}
    try:
      with self._path.open('a') as f:
        f.write(json.dumps(row) + '\n')
      for name, value in values.items():
        self._board.write(step, f'{split}/{name}', float(value))
    except OSError as e:
      raise core.UserError(
          f'Cannot write {self._path}: {e.strerror or e}.') from e


class _Board:
  """Scalars for TensorBoard, written by the calling thread.

  tensorboardX's `SummaryWriter` leaves that to a thread; where the disk is full
  the thread dies, and the run waits for it forever.
  """
  FLUSH_SECONDS = 30.0

  def __init__(self, folder, purge_step):
    from tensorboardX import event_file_writer  # here: slow to import
    from tensorboardX import summary
    from tensorboardX.proto import event_pb2
    proto: Any = event_pb2  # its classes are made at run time
    try:
      folder.mkdir(parents=True, exist_ok=True)
      self._file = event_file_writer.EventsWriter(str(folder / 'events'),
                                                f'.{purge_step}')
    except OSError as e:
      raise core.UserError(
          f'Cannot write {folder}: {e.strerror or e}.') from e
    self._event, self._scalar = proto.Event, summary.scalar
    start = proto.SessionLog(status=proto.SessionLog.START)
    self._put(step=purge_step, session_log=start)
    self._flushed = time.monotonic()

  def write(self, step, name, value):
    self._put(step=step, summary=self._scalar(name, value))
    if time.monotonic() - self._flushed > self.FLUSH_SECONDS:
      self._flushed = time.monotonic()
      self._file.flush()

  def close(self):
    self._file.close()

  def _put(self, **fields):
    self._file.write_event(self._event(wall_time=time.time(), **fields))


def read_metrics(path) -> list[dict]:
  """Rows of a `metrics.jsonl`; a last line cut short by a kill is left out."""
  path, rows = epath.Path(path), []
  for line in path.read_text().splitlines() if path.exists() else []:
    with contextlib.suppress(json.JSONDecodeError):
      rows.append(json.loads(line))
  return rows
