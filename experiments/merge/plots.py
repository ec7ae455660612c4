"""Plots of `merge`: accuracy by arm, loss along paths."""
import numpy as np

from kt_jax.core import statistics
from kt_jax.train import plots

BLUE = '#0072B2'


def draw(spec, runs, workdir) -> None:
  """Writes accuracy.png and, if an arm has one, path.png."""
  plots.save(bars(spec, runs), workdir / 'accuracy.png')
  if any(run['path'] for run in runs.values()):
    plots.save(paths(spec, runs), workdir / 'path.png')


def bars(spec, runs):
  """Pooled accuracy: one bar per arm, one dot per seed, standard errors."""
  arms = list(spec.arms)
  fig, axis = plots.figure(figsize=(6.5, 0.8 + 0.3 * len(arms)),
                           layout='constrained')
  for y, arm in enumerate(arms):
    values = [100 * runs[arm, seed]['metrics']['pooled']
              for seed in spec.seeds]
    mean, se, _ = statistics.mean(values)
    axis.barh(y, mean, xerr=se, color=BLUE, alpha=0.35, capsize=3)
    axis.plot(values, [y] * len(values), '.', color=BLUE)
  axis.set_yticks(range(len(arms)), arms)
  axis.invert_yaxis()
  axis.set(xlabel='accuracy on the test examples of all tasks of the arm (%)')
  return fig


def paths(spec, runs):
  """Loss and accuracy on the line from one expert to the other."""
  fig, axes = plots.figure(1, 2, figsize=(8, 3.2), layout='constrained')
  for arm in spec.arms:
    if not runs[arm, spec.seeds[0]]['path']:
      continue
    places, *values = np.mean([np.transpose(runs[arm, seed]['path'])
                               for seed in spec.seeds], axis=0)
    for axis, value in zip(axes, values):
      axis.plot(places, value, '.-', label=arm)
  for axis, name in zip(axes, ('loss (nats)', 'accuracy')):
    axis.set(xlabel='first expert 0, second 1', ylabel=name)
  axes[0].legend(frameon=False)
  return fig
