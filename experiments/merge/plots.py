"""Plots of `merge`: accuracy of the arms, loss along paths."""
import numpy as np

from kt_jax.core import statistics
from kt_jax.train import plots

BLUE = '#0072B2'


def draw(config, saved, workdir) -> None:
  """Writes accuracy.png and, if an arm has one, path.png."""
  plots.save(bars(config, saved), workdir / 'accuracy.png')
  if any(one['path'] for one in saved.values()):
    plots.save(paths(config, saved), workdir / 'path.png')


def bars(config, saved):
  """Pooled accuracy, a bar an arm, a dot a seed, with standard errors."""
  arms = list(config.arms)
  fig, axis = plots.figure(figsize=(6.5, 0.8 + 0.3 * len(arms)),
                           layout='constrained')
  for y, arm in enumerate(arms):
    values = [100 * saved[arm, seed]['metrics']['pooled']
              for seed in config.seeds]
    mean, se, _ = statistics.mean(values)
    axis.barh(y, mean, xerr=se, color=BLUE, alpha=0.35, capsize=3)
    axis.plot(values, [y] * len(values), '.', color=BLUE)
  axis.set_yticks(range(len(arms)), arms)
  axis.invert_yaxis()
  axis.set(xlabel='accuracy on the test examples of all tasks of the arm (%)')
  return fig


def paths(config, saved):
  """Loss and accuracy on the way from one expert to the other."""
  fig, axes = plots.figure(1, 2, figsize=(8, 3.2), layout='constrained')
  for arm in config.arms:
    if not saved[arm, config.seeds[0]]['path']:
      continue
    places, *values = np.mean([np.transpose(saved[arm, seed]['path'])
                               for seed in config.seeds], axis=0)
    for axis, value in zip(axes, values):
      axis.plot(places, value, '.-', label=arm)
  for axis, name in zip(axes, ('loss (nats)', 'accuracy')):
    axis.set(xlabel='first expert 0, second 1', ylabel=name)
  axes[0].legend(frameon=False)
  return fig
