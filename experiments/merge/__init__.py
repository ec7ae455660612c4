"""Merges experts that were trained on tasks, in many ways, and measures them.

Metrics of an arm and a seed, on test examples: `accuracy_TASK`; `accuracy` and
`normalized`, their mean and that of their ratios to each task's own expert;
`pooled` and `nll`, of all tasks' examples together; with `path`, `barrier`: how
far the loss between two experts is above the line between theirs. `validation`
is `pooled` on what the tasks hold out, where they do.
"""
import json

import jax
import numpy as np

from experiments import compare
from experiments import pretrain
from experiments.merge import checks
from experiments.merge import context
from experiments.merge import plots
from experiments.merge import result
from experiments.merge.checks import check as check
from kt_jax import checkpoint
from kt_jax import merge
from kt_jax import train


def run(config, workdir):
  """Writes runs/, results.csv, report.md and plots; returns the claims."""
  plain = json.loads(config.to_json())
  workdir = checkpoint.open_workdir(workdir, plain)
  done = pretrain.finished(workdir)
  if not done:
    check(config)
    saved = {}
    (workdir / 'runs').mkdir(parents=True, exist_ok=True)
    for seed in config.seeds:
      saved |= _run_seed(config, seed, workdir)
    found = {key: one['metrics'] for key, one in saved.items()}
    table = compare.write(config, found, workdir)
    if jax.process_index() == 0:
      plots.draw(config, saved, workdir)
    done = dict(kind='experiment', status='finished', table=table,
                method=config.experiment, code=checkpoint.code_version(),
                config=checkpoint.config_hash(plain))
    checkpoint.write_json(workdir / 'card.json', done)
  return dict(table=done['table'])


def _run_seed(config, seed, workdir):
  """`{(arm, seed): dict(metrics, chosen, path)}`, read where it is there."""
  files = {name: workdir / 'runs' / f'{name}-{seed}.json'
           for name in config.arms}
  saved = {name: checkpoint.read_json(f) for name, f in files.items()
           if f.exists()}
  if len(saved) < len(files):
    scene = context.make(config, seed, workdir)
    scene.chosen.update({name: one['chosen'] for name, one in saved.items()})
    ceiling = context.accuracies(
        lambda task, x: result.expert_logits(scene, task, x),
        {task: splits.test for task, splits in scene.splits.items()})
    # Those that take another's settings come last.
    last = lambda name: (bool(config.arms[name].tuned_as), name)
    for name in sorted(set(files) - set(saved), key=last):
      arm = checks.arm_of(config, name)
      made = checks.kind_of(arm)(config, arm, scene)
      scene.chosen[name] = dict(made.chosen)
      metrics, path = measure(scene, arm, made, ceiling)
      saved[name] = dict(metrics=metrics, chosen=scene.chosen[name], path=path)
      checkpoint.write_json(files[name], saved[name])
      print(f'{name}-{seed}: pooled {metrics["pooled"]:.4f}')
  return {(name, seed): saved[name] for name in config.arms}


def measure(scene, arm, made, ceiling):
  """`(metrics, [(place on the path, loss, accuracy)])` on test data."""
  tests = {task: scene.splits[task].test for task in arm.tasks}
  labels = np.concatenate([x.labels for x in tests.values()])
  def evaluate(logits):
    every = {task: logits(task, x) for task, x in tests.items()}
    whole = train.classification_metrics(np.concatenate([*every.values()]),
                                         labels)
    return every, whole
  logits, whole = evaluate(made.logits)
  right = context.accuracies(lambda task, _: logits[task], tests)
  metrics = {f'accuracy_{task}': value for task, value in right.items()} | dict(
      accuracy=float(np.mean([*right.values()])), pooled=whole['accuracy'],
      nll=whole['nll'], normalized=float(np.mean(
          [right[t] / max(ceiling[t], 1e-9) for t in right])))
  held_out = {task: scene.splits[task].validation for task in arm.tasks}
  if all(map(len, held_out.values())):
    metrics['validation'] = context.pooled(
        context.accuracies(made.logits, held_out), scene, 'validation')
  metrics |= {f'chosen_{name}': float(value)
              for name, value in made.chosen.items()
              if isinstance(value, (int, float))}
  path = []
  if arm.path:
    for place in np.linspace(0, 1, arm.path):
      between = _between(*made.ends, place)
      _, found = evaluate(lambda _, x, model=between: scene.logits(model, x))
      path.append((float(place), found['nll'], found['accuracy']))
    places, losses, _ = np.transpose(path)
    line = (1 - places) * losses[0] + places * losses[-1]
    metrics['barrier'] = float(np.max(losses - line))
  return metrics, path


def _between(a, b, place):
  """(1 - place) a + place b."""
  return tuple(merge.over_tree(merge.linear, x, [y], [float(place)]) if x else x
               for x, y in zip(a, b))
