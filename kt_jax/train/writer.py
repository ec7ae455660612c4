"""Metrics of a run: `metrics.jsonl` and TensorBoard."""
import contextlib
import json

from etils import epath
import jax

from kt_jax import core
from kt_jax import checkpoint


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
    rows = [r for r in read_metrics(self._path) if r['step'] <= resumed_at]
    if not resumed_at:
      rows = []
    checkpoint.write_atomic(
        self._path, ''.join(json.dumps(r) + '\n' for r in rows))
    from tensorboardX import SummaryWriter  # here: it is slow to import
    self._board = SummaryWriter(
        str(epath.Path(workdir) / 'tensorboard'), purge_step=resumed_at + 1)

  def __enter__(self):
    return self

  def __exit__(self, *_):
    if self._board:
      with contextlib.suppress(OSError):
        self._board.close()

  def write(self, step: int, split: str, values: dict[str, float]) -> None:
    """Adds a row. Raises UserError where the disk is full."""
    if not self._active:
      return
    row = dict(step=step, split=split) | {k: float(v) for k, v in values.items()}
    try:
      with self._path.open('a') as f:
        f.write(json.dumps(row) + '\n')
    except OSError as e:
      raise core.UserError(
          f'Cannot write {self._path}: {e.strerror or e}.') from e
    for name, value in values.items():
      self._board.add_scalar(f'{split}/{name}', float(value), step)


def read_metrics(path) -> list[dict]:
  """Rows of a `metrics.jsonl`; a last line cut short by a kill is left out."""
  path, rows = epath.Path(path), []
  for line in path.read_text().splitlines() if path.exists() else []:
    with contextlib.suppress(json.JSONDecodeError):
      rows.append(json.loads(line))
  return rows
