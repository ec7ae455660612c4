"""Differences of models as patches for other models.

A patch is path -> a difference `[...]`, or a pair of factors `(left [m, r],
right [r, n])` whose product it is, such as LoRA's.
"""
from collections.abc import Sequence
import re

import jax
from jax import numpy as jnp

from kt_jax import core
from kt_jax import merge


def task_patch(tuned, base, *, rank: int | float | None = None,
               skip: Sequence[str] = ()) -> dict[str, jax.Array | tuple]:
  """The change by training: tuned - base.

  PortLLM: `apply_patch(new_base, task_patch(tuned, old_base))`. PaST: the skill
  vector is `task_patch(rl, sft)` of a source domain, and
  `apply_patch(target_sft, skill)` is the target; for its refinement over
  subsets, reinforcement learning on subset k begins at
  `apply_patch(sft_k, skill_before)`.

  Args:
    tuned: flat dict, path -> array.
    base: the model from which it was trained.
    rank: number of leading singular triplets to keep (int), or share of all
      (float), as factors, of leaves with at least two axes; with more axes they
      are `[all but the last, last]` matrices. None: whole differences.
    skip: regexes of leaves to leave out, such as heads.

  Returns:
    Path -> difference or factors, at least float32, without those of `skip` and
    leaves that are not floating.

  Raises:
    UserError: leaves or shapes that differ, with the path; a rank out of
      range.

  Departures: PortLLM's patches are LoRA factors as trained, which
    `apply_patch` takes too. A difference cut to a rank is an extra.

  References: khan2024portllm; tang2026past.
  """
  for path in sorted(tuned.keys() | base.keys()):
    _check('task_patch', path, tuned, base)
  patch: dict[str, jax.Array | tuple] = {}
  for path, leaf in base.items():
    leaf, new = jnp.asarray(leaf), jnp.asarray(tuned[path])
    if not jnp.issubdtype(leaf.dtype, jnp.inexact) or any(
        re.search(pattern, path) for pattern in skip):
      continue
    delta = core.to_float(new) - core.to_float(leaf)
    if rank is None or leaf.ndim < 2:
      patch[path] = delta
      continue
    matrix = merge.as_matrix(delta)
    u, s, v = merge.svd_factors(
        matrix, merge.rank_of('task_patch', rank, min(matrix.shape)))
    patch[path] = (u * s, v)
  return patch


def apply_patch(target, patch, *, scale: float | jax.Array = 1.0
                ) -> dict[str, jax.Array]:
  """Adds a patch to another model: target + scale patch.

  Args:
    target: flat dict, path -> array.
    patch: from `task_patch`, or LoRA factors multiplied by their scale.
    scale: of the patch; may be traced. A negative one removes a patch.

  Returns:
    A dict like `target`, in its dtypes. Where the patch is 0 or has no entry
    the leaf is the target's.

  Raises:
    UserError: a leaf that the target lacks or has in another shape.

  References: khan2024portllm; tang2026past.
  """
  out = dict(target)
  for path, delta in patch.items():
    if path not in target:
      raise core.UserError('apply_patch: ' + core.nearest(
          'leaf in target', path, target))
    leaf = jnp.asarray(target[path])
    if isinstance(delta, (tuple, list)):
      left, right = delta
      delta = jnp.matmul(left, right, precision='highest')
      if delta.size == leaf.size and delta.shape[-1:] == leaf.shape[-1:]:
        delta = delta.reshape(leaf.shape)
    if delta.shape != leaf.shape:
      raise core.UserError(f'apply_patch: the patch of {path!r} has shape '
                           f'{delta.shape}, target {leaf.shape}.')
    out[path] = (core.to_float(leaf) + scale * delta).astype(leaf.dtype)
  return out


def _check(name, path, tuned, base):
  for what, tree in (('tuned', tuned), ('base', base)):
    if path not in tree:
      raise core.UserError(f'{name}: {what} lacks leaf {path!r}.')
  if jnp.shape(tuned[path]) != jnp.shape(base[path]):
    raise core.UserError(
        f'{name}: leaf {path!r} has shape {jnp.shape(tuned[path])} in tuned, '
        f'{jnp.shape(base[path])} in base.')
