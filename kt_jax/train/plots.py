"""Curves of a run."""
import collections

from kt_jax import checkpoint
from kt_jax.train.writer import read_metrics


def figure(*args, **kw):
  """`matplotlib.pyplot.subplots` on a backend that needs no screen."""
  import matplotlib  # here: it is slow to import
  matplotlib.use('Agg')
  from matplotlib import pyplot
  return pyplot.subplots(*args, **kw)


def save(fig, path) -> None:
  """Writes a figure as PNG and closes it."""
  import io

  from matplotlib import pyplot
  buffer = io.BytesIO()
  fig.savefig(buffer, format='png', dpi=120, bbox_inches='tight')
  pyplot.close(fig)
  checkpoint.write_atomic(path, buffer.getvalue())


def curves(workdir) -> None:
  """Draws `metrics.jsonl` as `curves.png`: a panel a metric, a line a split."""
  lines = collections.defaultdict(lambda: collections.defaultdict(list))
  for row in read_metrics(workdir / 'metrics.jsonl'):
    for name in row.keys() - {'step', 'split'}:
      lines[name][row['split']].append((row['step'], row[name]))
  if not lines:
    return
  fig, axes = figure(1, len(lines), figsize=(4 * len(lines), 3), squeeze=False)
  for axis, (name, splits) in zip(axes[0], sorted(lines.items())):
    for split, points in splits.items():
      axis.plot(*zip(*points), marker='.' if len(points) < 20 else '',
                label=split)
    axis.set(title=name, xlabel='step')
    axis.legend()
  save(fig, workdir / 'curves.png')
