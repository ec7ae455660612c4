"""Merges experts that were trained on tasks, in many ways, and measures them.

Metrics of an arm and a seed, on test examples: `accuracy_TASK`; `accuracy` and
`normalized`, the means over tasks of the accuracy and of its ratio to that of
the task's own expert; `pooled` and `nll`, of all tasks' examples together; with
`path`, `barrier`: the largest excess of the loss between two experts over the
line between theirs. `validation` is `pooled` on the held-out examples, where
there are such.
"""
import jax
import numpy as np

from experiments import compare
from experiments.merge import checks
from experiments.merge import context as contexts
from experiments.merge import kinds
from experiments.merge import plots
from experiments.merge.checks import check as check
from experiments.merge.spec import Arm as Arm
from experiments.merge.spec import Spec as Spec
from experiments.merge.spec import Task as Task
from kt_jax import checkpoint
from kt_jax import core
from kt_jax import merge
from kt_jax import train


def run(spec: Spec, workdir):
  """Writes runs/, results.csv, report.md and plots; returns the claims."""
  workdir = checkpoint.open_workdir(workdir, core.spec.to_json(spec))
  card = train.finished(workdir)
  if card:
    return dict(table=card['table'])
  check(spec)
  runs = {}
  (workdir / 'runs').mkdir(parents=True, exist_ok=True)
  for seed in spec.seeds:
    runs |= _run_seed(spec, seed, workdir)
  if jax.process_index() == 0:
    plots.draw(spec, runs, workdir)
  results = {key: run['metrics'] for key, run in runs.items()}
  return dict(table=compare.finish(spec, results, workdir))


def _run_seed(spec, seed, workdir):
  """`{(arm, seed): dict(metrics, chosen, path)}`; what is on disk is read."""
  files = {name: workdir / 'runs' / f'{name}-{seed}.json'
           for name in spec.arms}
  runs = {name: checkpoint.read_json(f) for name, f in files.items()
          if f.exists()}
  if len(runs) < len(files):
    context = contexts.make(spec, seed, workdir)
    context.chosen.update({name: run['chosen'] for name, run in runs.items()})
    ceiling = contexts.accuracies(
        context.expert_logits,
        {task: splits.test for task, splits in context.splits.items()})
    # Arms that take another's settings come last.
    last = lambda name: (bool(spec.arms[name].tuned_as), name)
    for name in sorted(set(files) - set(runs), key=last):
      arm = checks.arm_of(spec, name)
      result = kinds.kind_of(arm).make(arm, context)
      context.chosen[name] = dict(result.chosen)
      metrics, path = measure(arm, context, result, ceiling)
      runs[name] = dict(metrics=metrics, chosen=context.chosen[name], path=path)
      checkpoint.write_json(files[name], runs[name])
      print(f'{name}-{seed}: pooled {metrics["pooled"]:.4f}')
  return {(name, seed): runs[name] for name in spec.arms}


def measure(arm, context, result, ceiling):
  """`(metrics, [(place on the path, loss, accuracy)])` on test data."""
  tests = {task: context.splits[task].test for task in arm.tasks}
  labels = np.concatenate([x.labels for x in tests.values()])
  def evaluate(logits):
    by_task = {task: logits(task, x) for task, x in tests.items()}
    return by_task, train.classification_metrics(
        np.concatenate([*by_task.values()]), labels)
  logits, pooled = evaluate(result.logits)
  accuracy = contexts.accuracies(lambda task, _: logits[task], tests)
  metrics = {f'accuracy_{task}': a for task, a in accuracy.items()} | dict(
      accuracy=float(np.mean([*accuracy.values()])), pooled=pooled['accuracy'],
      nll=pooled['nll'], normalized=float(np.mean(
          [accuracy[t] / max(ceiling[t], 1e-9) for t in accuracy])))
  validation = {task: context.splits[task].validation for task in arm.tasks}
  if all(map(len, validation.values())):
    metrics['validation'] = context.pooled(
        contexts.accuracies(result.logits, validation))
  metrics |= {f'chosen_{name}': float(value)
              for name, value in result.chosen.items()
              if isinstance(value, (int, float))}
  path = []
  if arm.path:
    for place in np.linspace(0, 1, arm.path):
      between = _between(result.ends, place)
      _, at = evaluate(lambda _, x, model=between: context.logits(model, x))
      path.append((float(place), at['nll'], at['accuracy']))
    places, losses, _ = np.transpose(path)
    line = (1 - places) * losses[0] + places * losses[-1]
    metrics['barrier'] = float(np.max(losses - line))
  return metrics, path


def _between(ends, place):
  """(1 - place) a + place b, of two models."""
  return tuple(merge.over_tree(merge.linear, x, [y], [float(place)]) if x else x
               for x, y in zip(*ends))
