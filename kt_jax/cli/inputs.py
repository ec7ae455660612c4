"""The inputs of one tensor: which count, and whether they fit."""
from collections.abc import Mapping, Sequence
import inspect
from typing import Any

import jax
from jax import numpy as jnp
import ml_dtypes
import numpy as np

from kt_jax import checkpoint
from kt_jax import core
from kt_jax.cli import check_inputs
from kt_jax.cli import embeddings
from kt_jax.cli import methods
from kt_jax.cli import problems as problems_lib

Tensors = Mapping[str, checkpoint.Tensor]  # by model


class Zeros(checkpoint.Tensor):
  """What an operator has as base where the method has none."""

  is_zero = True  # costs no reading

  def read(self, start, out):
    del start
    out[:] = 0


def is_floating(tensor) -> bool:
  return jnp.issubdtype(tensor.dtype, jnp.floating)


def choose_present(method: methods.Method, place, there: Tensors,
                   base: str | None, missing: str,
                   problems: problems_lib.Problems) -> str:
  """What to do with a tensor that `there` has: 'merge', 'copy' or 'skip'.

  Where inputs lack it this is what mergekit does with optional tensors.

  Raises:
    UserError: some lack it and missing='error', or the method cannot do
      without them.
  """
  lacking = [s.model for s in place.part.sources if s.model not in there]
  if not lacking:
    return 'merge'
  if missing == 'error':
    raise core.UserError(
        f'{lacking[0]} lacks {place.name!r}, which {next(iter(there))} has. '
        'With missing set to present, those that have it are merged.')
  problems.add('note', f'{place.name} is merged without {", ".join(lacking)}, '
               'which lack it.')
  based, alone = method.base != 'ignored' and base in there, len(there) == 1
  if alone and (method.missing == 'single'
                or method.missing == 'base' and based):
    return 'copy'
  if method.missing == 'skip' and len(there) < method.inputs[0]:
    if alone and based:
      return 'copy'
    problems.add('warning', f'{place.name} is left out: too few inputs have '
                 'it.')
    return 'skip'
  if base and method.base != 'ignored' and not based:
    raise core.UserError(f'{base}, the base, lacks {place.name!r}.')
  check_inputs.check_count(method, place.name, len(there), based)
  return 'merge'


def check_shapes(name: str, there: Tensors) -> None:
  """Refuses inputs of several shapes."""
  (first, tensor), *others = there.items()
  for model, other in others:
    if other.shape != tensor.shape:
      hint = ''
      if embeddings.is_vocabulary(name) and tensor.shape[1:] == other.shape[1:]:
        hint = ('; their vocabularies differ: set tokenizer_source to union or '
                'base')
      raise core.UserError(
          f'{name} has shape {list(tensor.shape)} in {first}, '
          f'{list(other.shape)} in {model}{hint}.')


def choose_dtypes(recipe, name: str, there: Tensors,
                  problems: problems_lib.Problems
                  ) -> tuple[np.dtype | None, np.dtype]:
  """What inputs are rounded to (None: as they are), and the result's dtype."""
  held = {t.dtype for t in there.values()}
  if len(held) > 1:
    several = ', '.join(sorted(map(str, held)))
    problems.add('note', f'{name} has dtypes {several} in the inputs.')
  both = jnp.dtype(recipe.dtype) if recipe.dtype else _widest(held)
  if both == np.float64:
    problems.add('warning', f'{name} is float64; it is merged and written in '
                 'float32.')
    both = np.dtype(np.float32)
  if any(d.itemsize > both.itemsize and d != np.float64 for d in held):
    problems.add('note', f'{name} is rounded to {both} before it is merged; '
                 'out_dtype rounds the result only.')
  return (None if held == {both} else both), jnp.dtype(recipe.out_dtype or both)


def check_values(weight: Sequence[float], settings: Mapping[str, Any],
                 problems: problems_lib.Problems) -> None:
  """Looks for what an operator would refuse when it runs."""
  if settings.get('normalize') and abs(sum(weight)) < 1e-8:
    problems.add('warning', f'weights {list(weight)} sum to 0 and are not '
                 'normalized.')
  pairs = np.broadcast_arrays(settings.get('density', 1.0),
                              settings.get('epsilon', 0.0))
  for density, epsilon in zip(*map(np.ravel, pairs)):
    if 0 < density < 1 and not epsilon <= density <= 1 - epsilon:
      raise core.UserError(
          f'epsilon {epsilon:g} at density {density:g}: density - epsilon and '
          'density + epsilon must be in [0, 1].')


def try_operator(job) -> None:
  """Traces an operator on shapes alone, for what it says of its settings.

  Raises:
    UserError: what the operator would raise when it runs.
  """
  dtype = job.cast or job.base.dtype
  shape = lambda *lead: jax.ShapeDtypeStruct(lead + job.base.shape, dtype)
  settings = dict(job.settings)
  if 'key' in inspect.signature(job.op).parameters:
    settings['key'] = jax.random.key(0)
  try:
    out = jax.eval_shape(
        lambda b, m: job.op(b, m, np.asarray(job.weight, np.float32),
                            **settings), shape(), shape(len(job.models)))
  except core.UserError as e:
    raise core.UserError(f'{job.name}: {e}') from e
  except Exception as e:  # of the user's own operator, or a setting's kind
    line = (str(e).strip().splitlines() or [''])[0]
    raise core.UserError(f'{job.name}: {job.op.__name__} with '
                         f'{dict(job.settings)}: {type(e).__name__}: {line}'
                         ) from e
  if getattr(out, 'shape', None) != job.base.shape:
    raise core.UserError(f'{job.name}: {job.op.__name__} must give one array '
                         f'of shape {list(job.base.shape)}.')


def _widest(dtypes) -> np.dtype:
  """The smallest dtype that holds all of several."""
  if len(dtypes) == 1:
    return next(iter(dtypes))
  if np.dtype(np.float64) in dtypes:
    return np.dtype(np.float64)
  half = {np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16)} & dtypes
  if len(half) == 1 and all(d in half or d.itemsize == 1 for d in dtypes):
    return half.pop()
  return np.dtype(np.float32)
