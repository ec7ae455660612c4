"""Runs a recipe: plans, streams, publishes the complete result."""
from collections.abc import Mapping, Sequence
import logging
import os
import pathlib
from typing import NamedTuple

import jax
import numpy as np
import tqdm

from kt_jax import checkpoint
from kt_jax.checkpoint import output_dir
from kt_jax.checkpoint.content_hash import ContentHash
from kt_jax.checkpoint.content_hash import HashedTensor
from kt_jax.cli import card
from kt_jax.cli import plan as plan_lib
from kt_jax.cli import problems
from kt_jax.cli import stages
from kt_jax.cli import tokens as tokens_lib
from kt_jax.cli.open_model import open_model
from kt_jax.cli.open_model import OpenedModel
from kt_jax.merge import stream

_LOG = logging.getLogger('kt_jax')


class PlannedStage(NamedTuple):
  """A recipe planned, and what was opened for it."""
  plan: plan_lib.Plan
  models: Mapping[str, OpenedModel]
  hashes: Mapping[str, ContentHash]  # reference -> of what was read of it
  tokens: tokens_lib.Tokens


def merge_recipe(recipe, out, *, seed: int = 0, missing: str = 'error',
                 threads: int = 2, shard_bytes: int = 5_000_000_000,
                 overwrite: bool = False, quiet: bool = False,
                 command: Sequence[str] = ()) -> None:
  """Merges models by a recipe.

  `out` appears by one rename when all of it is on disk. The remains of a killed
  run lie beside it, hidden, and are removed when the merge is run again.

  Args:
    recipe: path of the YAML file.
    out: directory to make.
    seed: of operators that draw.
    missing: see `plan.make_plan`.
    threads: workers.
    shard_bytes: largest file of weights.
    overwrite: whether an existing `out` is replaced.
    quiet: no progress bar.
    command: argv, for the card.

  Raises:
    UserError: a problem of recipe, models or disk; `out` is as it was.
  """
  recipe = pathlib.Path(os.path.expanduser(recipe))
  recipes = stages.read_file(recipe)
  stages.check_paths(recipes)
  out = output_dir.choose_output(out, overwrite, [recipe, *(
      part for one in recipes for model in stages.mentions(one)
      for part in (model, *model.split('+')))])
  with output_dir.workspace(out) as folder:
    paths, result = {}, folder
    for number, one in enumerate(recipes):
      result = folder / f'{number}-{one.name or "out"}'
      result.mkdir()
      stage = plan_stage(stages.replace(one, paths), {}, missing)
      digest = _run(stage, result, seed, threads, shard_bytes, quiet)
      _finish(stage, result, digest, method=one.method,
              recipe=recipe.read_text(), command=command, title=out.name,
              seed=seed)
      if one.name:
        paths[one.name] = str(result)
    output_dir.publish(result, out, overwrite)


def plan_stage(recipe, earlier: Mapping[str, OpenedModel],
               missing: str) -> PlannedStage:
  """Opens the models of a recipe and plans it; reads headers only.

  Args:
    recipe: one stage.
    earlier: results of stages that are not on disk, by name.
    missing: see `plan.make_plan`.
  """
  references = recipe.references
  models = {m: open_model(m, earlier)
            for m in dict.fromkeys([*references, *stages.mentions(recipe)])}
  hashes = {m: ContentHash() for m in references}
  for name in references:
    models[name] = models[name]._replace(tensors={
        key: HashedTensor(tensor, key, hashes[name], name)
        for key, tensor in models[name].tensors.items()})
  tokens = tokens_lib.plan_tokens(
      models, recipe.base_model if recipe.base_model in models else None,
      recipe.tokenizer, recipe.chat_template)
  plan = plan_lib.make_plan(recipe, models, tokens, missing=missing)
  return PlannedStage(plan, models, hashes, tokens)


def planned_model(name: str | None, plan) -> OpenedModel:
  """The result of a stage, as far as headers go."""
  return OpenedModel(
      pathlib.Path(name or 'out'),
      {job.name: checkpoint.Tensor(
          job.name, job.base.shape, stream.dtype_of(job))
       for job in plan.jobs}, plan.config, 'huggingface')


def _run(stage, folder, seed, threads, shard_bytes, quiet) -> ContentHash:
  """Streams the jobs of a stage into safetensors files."""
  for problem in stage.plan.problems:
    if problem.level == 'warning':
      _LOG.warning('%s', problems.one_line(problem.text))
  problems.refuse(stage.plan.problems)
  jobs = stage.plan.jobs
  entries = [(job.name, job.base.shape, stream.dtype_of(job)) for job in jobs]
  writer = checkpoint.TensorWriter(
      folder, entries, shard_bytes=shard_bytes, metadata=dict(format='pt'))
  digest = ContentHash()

  def write(name, start, values):
    digest.update(name, start, values)
    writer.write(name, start, values)

  total = sum(job.base.size * stream.dtype_of(job).itemsize for job in jobs)
  with tqdm.tqdm(total=total, unit='B', unit_scale=True, desc='merging',
                 disable=quiet or None) as bar:
    def progress(count: int) -> None:
      bar.update(count)

    # Making a key compiles; most recipes need none.
    key = jax.random.key(seed) if stream.draws(jobs) else None
    stream.run(jobs, write, key=key, threads=threads, progress=progress)
  writer.close()
  _compare_copies(stage.plan.copies)
  return digest


def _finish(stage, folder, digest, **card_of):
  """Everything but the weights."""
  config = stage.plan.config
  if config is not None:
    checkpoint.write_json(folder / 'config.json', config)
  for name, data in stage.tokens.files.items():
    checkpoint.write_atomic(folder / name, data)
  parents = {
      model: parent.hexdigest({
          name: tensor for name, tensor in stage.models[model].tensors.items()
          if parent.covers(name)})
      for model, parent in stage.hashes.items()}
  content = digest.hexdigest(checkpoint.open_tensors(folder))
  card.write_card(folder, parents=parents, content=content, **card_of)


def _compare_copies(copies):
  """Warns of tensors that are copied from one input and differ in another."""
  for name, tensors in copies.items():
    first = tensors[0].array()
    if any(not np.array_equal(first, t.array()) for t in tensors[1:]):
      _LOG.warning('%s is copied and differs between inputs.', name)
