"""Runs a recipe: plans, streams; the result appears when it is whole."""
from collections.abc import Mapping, Sequence
import logging
import os
import pathlib
from typing import NamedTuple

import jax
import numpy as np
import tqdm

from kt_jax import checkpoint
from kt_jax.checkpoint import content
from kt_jax.checkpoint import place
from kt_jax.cli import card
from kt_jax.cli import plan as plan_lib
from kt_jax.cli import problems
from kt_jax.cli import sources as sources_lib
from kt_jax.cli import stages
from kt_jax.cli import tokens as tokens_lib
from kt_jax.merge import stream

_LOG = logging.getLogger('kt_jax')


class Stage(NamedTuple):
  """A recipe laid out, and what was opened for it."""
  plan: plan_lib.Plan
  sources: Mapping[str, sources_lib.Source]
  contents: Mapping[str, content.Content]  # reference -> what was read of it
  tokens: tokens_lib.Tokens


def merge_recipe(recipe, out, *, seed: int = 0, missing: str = 'error',
                 threads: int = 2, shard_bytes: int = 5_000_000_000,
                 overwrite: bool = False, quiet: bool = False,
                 command: Sequence[str] = ()) -> None:
  """Merges as a recipe says.

  `out` appears by one rename when all of it is on disk. What a killed run left
  lies beside it, hidden, and goes when the merge is run again.

  Args:
    recipe: path of the YAML file.
    out: directory to make.
    seed: of operators that draw.
    missing: see `plan.make_plan`.
    threads: workers.
    shard_bytes: largest file of weights.
    overwrite: whether an `out` that is there is replaced.
    quiet: no progress bar.
    command: argv, for the card.

  Raises:
    UserError: whatever is wrong with recipe, models or disk; `out` is as it
      was.
  """
  recipe = pathlib.Path(os.path.expanduser(recipe))
  recipes = stages.read_file(recipe)
  stages.check_paths(recipes)
  out = place.choose(out, overwrite, [recipe, *(
      part for one in recipes for model in stages.mentions(one)
      for part in (model, *model.split('+')))])
  with place.workspace(out) as folder:
    made, result = {}, folder
    for number, one in enumerate(recipes):
      result = folder / f'{number}-{one.name or "out"}'
      result.mkdir()
      stage = plan_stage(stages.replace(one, made), {}, missing)
      seen = _run(stage, result, seed, threads, shard_bytes, quiet)
      _finish(stage, result, seen, method=one.method, recipe=recipe.read_text(),
              command=command, title=out.name, seed=seed)
      made[one.name] = str(result)
    place.put(result, out, overwrite)


def plan_stage(recipe, made: Mapping[str, sources_lib.Source],
               missing: str) -> Stage:
  """Opens the models of a recipe and lays it out; reads headers only.

  Args:
    recipe: one stage.
    made: earlier stages that are not on disk, by name.
    missing: see `plan.make_plan`.
  """
  used = recipe.references
  sources = {m: sources_lib.open_model(m, made)
             for m in dict.fromkeys([*used, *stages.mentions(recipe)])}
  contents = {m: content.Content() for m in used}
  for model in used:
    sources[model] = sources[model]._replace(tensors={
        name: content.Watched(tensor, name, contents[model], model)
        for name, tensor in sources[model].tensors.items()})
  tokens = tokens_lib.plan_tokens(
      sources, recipe.base_model if recipe.base_model in sources else None,
      recipe.tokenizer, recipe.chat_template)
  plan = plan_lib.make_plan(recipe, sources, tokens, missing=missing)
  return Stage(plan, sources, contents, tokens)


def planned(name: str | None, plan) -> sources_lib.Source:
  """What a stage will have made, as far as headers go."""
  return sources_lib.Source(
      pathlib.Path(name or 'out'),
      {job.name: checkpoint.Tensor(
          job.name, job.base.shape, stream.dtype_of(job))
       for job in plan.jobs}, plan.config, 'huggingface')


def _run(stage, folder, seed, threads, shard_bytes, quiet) -> content.Content:
  """Streams the jobs of a stage into safetensors files."""
  for problem in stage.plan.problems:
    if problem.level == 'warning':
      _LOG.warning('%s', problems.one_line(problem.text))
  problems.refuse(stage.plan.problems)
  jobs = stage.plan.jobs
  entries = [(job.name, job.base.shape, stream.dtype_of(job)) for job in jobs]
  writer = checkpoint.TensorWriter(
      folder, entries, shard_bytes=shard_bytes, metadata=dict(format='pt'))
  seen = content.Content()

  def write(name, start, values):
    seen.see(name, start, values)
    writer.write(name, start, values)

  total = sum(job.base.size * stream.dtype_of(job).itemsize for job in jobs)
  with tqdm.tqdm(total=total, unit='B', unit_scale=True, desc='merging',
                 disable=quiet or None) as bar:
    # A key is compiled; most recipes need none.
    key = jax.random.key(seed) if stream.draws(jobs) else None
    stream.run(jobs, write, key=key, threads=threads, progress=bar.update)
  writer.close()
  _compare_copies(stage.plan.copies)
  return seen


def _finish(stage, folder, seen, **card_of):
  """Everything but the weights."""
  config = stage.plan.config
  if config is not None:
    checkpoint.write_json(folder / 'config.json', config)
  for name, data in stage.tokens.files.items():
    checkpoint.write_atomic(folder / name, data)
  made = checkpoint.open_tensors(folder)
  parents = {}
  for model, read in stage.contents.items():
    parents[model] = read.hexdigest({
        name: tensor for name, tensor in stage.sources[model].tensors.items()
        if read.knows(name)})
  card.write_card(folder, parents=parents, content=seen.hexdigest(made),
                  **card_of)


def _compare_copies(copies):
  """Warns of tensors that are copied from one input and differ in another."""
  for name, tensors in copies.items():
    first = tensors[0].array()
    if any(not np.array_equal(first, t.array()) for t in tensors[1:]):
      _LOG.warning('%s is copied and differs between inputs.', name)
