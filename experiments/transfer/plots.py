"""Plots of a report of transfers; a pair is (student, teacher)."""
import numpy as np

from kt_jax.core import statistics
from kt_jax.train import plots

BLUE, ORANGE, GRAY = '#0072B2', '#D55E00', '#777777'  # Okabe and Ito's
NOTE = """\
Line: means of bins of equally many pairs; the authors' public curve averages
the upper quarter of each bin, so it lies higher. An axis that reaches beyond 20
points is logarithmic beyond 5."""  # on delta.png


def draw(workdir, deltas, gaps, rho, models) -> None:
  """Writes complementary.png, delta.png and success.png.

  Args:
    workdir: of the run.
    deltas: method -> pair -> delta, in points.
    gaps: pair -> teacher minus student accuracy before, in points.
    rho: pair -> rho_positive, in percent.
    models: model -> accuracy in percent, in the order of the axes.
  """
  plots.save(complementary(rho, models), workdir / 'complementary.png')
  plots.save(delta(deltas, gaps), workdir / 'delta.png')
  plots.save(success(deltas), workdir / 'success.png')


def complementary(rho, models):
  """Matrix of rho_positive, one row per student."""
  students, teachers = ([m for m in models if any(m == p[i] for p in rho)]
                        for i in (0, 1))
  grid = np.array([[rho.get((s, t), np.nan) for t in teachers]
                   for s in students])
  width, height = (min(7.5, 3.2 + .75 * n) for n in grid.T.shape)
  fig, axis = plots.figure(figsize=(width, .8 * height), layout='constrained')
  image = axis.imshow(grid, cmap='cividis', aspect='auto', vmin=0)
  for (i, j), v in np.ndenumerate(grid):
    if not np.isnan(v):
      axis.text(j, i, f'{v:.1f}', ha='center', va='center',
                fontsize=10 if len(models) <= 10 else 7,
                color='black' if image.norm(v) > .55 else 'white')
  label = lambda m: f'{m}  {models[m]:.1f}%'
  axis.set_xticks(range(len(teachers)), map(label, teachers), rotation=35,
                  ha='right', rotation_mode='anchor')
  axis.set_yticks(range(len(students)), map(label, students))
  axis.set(xlabel='teacher', ylabel='student',
           title='rho_positive: teacher right, student wrong (%)')
  fig.colorbar(image, label='% of test examples')
  return fig


def delta(deltas, gaps):
  """Delta against the gap: one panel per method that has teachers."""
  panels = [m for m, d in deltas.items() if any(p in gaps for p in d)]
  columns = min(3, len(panels))
  lines = -(-len(panels) // columns)
  fig, axes = plots.figure(
      lines, columns, sharex=True, sharey=True, squeeze=False,
      figsize=(max(4.5, 2.5 * columns), .6 + 2.4 * lines), layout='constrained')
  handles = []
  for axis, method in zip(axes.flat, panels):
    x, y = np.array([(gaps[p], v) for p, v in deltas[method].items()
                     if p in gaps]).T
    axis.axhline(0, color=GRAY, lw=1)
    axis.axvline(0, color=GRAY, lw=1, ls=':')
    dots = axis.scatter(x, y, s=18, color=BLUE, alpha=.6, lw=0, label='pair')
    bins = np.array_split(np.argsort(x), max(1, min(5, len(x) // 3)))
    line, = axis.plot(*zip(*((x[b].mean(), y[b].mean()) for b in bins)), 'o-',
                      ms=5, color=ORANGE, label='mean of a bin of pairs')
    handles = [dots, line]
    axis.set_title(f'{method} ({y.mean():+.2f})', fontsize=10)
  # One collapse would flatten every other panel on linear axes.
  for x, marks in ('x', (-40, -10, 0, 10, 40)), ('y', (-50, -20, -5, 0, 5, 20)):
    low, high = getattr(axes[0, 0], f'get_{x}lim')()
    if max(-low, high) > 20:
      ticks = [t for t in marks if low <= t <= high]
      getattr(axes[0, 0], f'set_{x}scale')('symlog', linthresh=5)
      getattr(axes[0, 0], f'set_{x}ticks')(ticks, list(map(str, ticks)))
  for i, axis in enumerate(axes.flat):
    axis.set_visible(i < len(panels))
    axis.tick_params(labelbottom=i + columns >= len(panels))
  fig.legend(handles=handles, loc='outside upper right', ncols=2,
             fontsize=9, frameon=False)
  fig.supxlabel('teacher accuracy - student accuracy (points)', fontsize=10)
  fig.supylabel('delta (points)', fontsize=10)
  return fig


def success(deltas):
  """Share of pairs that improve: one bar per method."""
  fig, axis = plots.figure(figsize=(7.5, 1.2 + .42 * len(deltas)),
                           layout='constrained')
  names, medians = [], []
  for i, (method, pairs) in enumerate(deltas.items()):
    d, alone = np.array(list(pairs.values())), all(not t for _, t in pairs)
    share = np.mean(d > 0)
    ends = np.array(statistics.wilson(int(np.sum(d > 0)), len(d)))
    axis.barh(i, 100 * share, height=.62, color=GRAY if alone else BLUE,
              alpha=.55, capsize=4, ecolor='black',
              xerr=100 * np.abs(ends - share)[:, None])  # abs: an ulp below 0
    names.append(method + ' (no teacher)' * alone)
    if not alone:
      medians.append((statistics.success_rate(d, [s for s, _ in pairs]), i))
  axis.plot(*zip(*medians), 'D', color=ORANGE, ms=7, mec='white', clip_on=False,
            zorder=5, label='median over students')
  axis.set_yticks(range(len(names)), names)
  axis.invert_yaxis()
  axis.set(xlim=(0, 100),
           xlabel='pairs with delta > 0 (%), 95% Wilson interval')
  axis.legend(loc='lower left', bbox_to_anchor=(0, 1), frameon=False)
  return fig
