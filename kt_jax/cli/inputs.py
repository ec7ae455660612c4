"""Inputs of a merge: how many, which of them a tensor has, whether they fit."""
from collections.abc import Mapping, Sequence
import inspect
from typing import Any

import jax
from jax import numpy as jnp
import ml_dtypes
import numpy as np

from kt_jax import checkpoint
from kt_jax import core
from kt_jax.cli import embeddings
from kt_jax.cli import methods
from kt_jax.cli import problems as problems_lib

Tensors = Mapping[str, checkpoint.Tensor]  # by model


class Zeros(checkpoint.Tensor):
  """The base of an operator where the method has none."""

  is_zero = True  # costs no reading

  def read(self, start, out):
    del start
    out[:] = 0


def check_inputs(recipe) -> None:
  """Checks that the method exists and takes the inputs of every slice.

  Raises:
    UserError: an input listed twice, no base where one is required, too few or
      too many inputs.
  """
  method = methods.get(recipe.method)
  for number, part in enumerate(recipe.slices):
    where = 'models' if recipe.uncut else f'slices[{number}]'
    models = [each.model for each in part.inputs]
    base = part.base_model or recipe.base_model
    for model in models:
      if models.count(model) > 1:
        raise core.UserError(f'{where} has {model!r} twice.')
    if method.base == 'ignored':
      base = None
    if base and base not in models:
      raise core.UserError(f'{where}: base_model {base!r} must be one of the '
                           f'sources {models}.')
    _check_count(method, where, len(models), bool(base))


def is_floating(tensor: checkpoint.Tensor) -> bool:
  """Whether it can be merged rather than copied."""
  return jnp.issubdtype(tensor.dtype, jnp.floating)


def choose_treatment(method: methods.Method, output, tensors: Tensors,
                     base: str | None, missing: str,
                     problems: problems_lib.Problems) -> str:
  """'merge', 'copy' or 'skip', for the inputs that have a tensor.

  Where some lack it, this is what mergekit does with optional tensors.

  Args:
    method: of the recipe.
    output: `layers.OutputTensor`.
    tensors: of the inputs that have it.
    base: of the slice or the recipe.
    missing: 'error' or 'present'.
    problems: takes what is left out.

  Raises:
    UserError: some lack it and missing='error', or the method needs them all.
  """
  lacking = [s.model for s in output.part.inputs if s.model not in tensors]
  if not lacking:
    return 'merge'
  if missing == 'error':
    raise core.UserError(
        f'{lacking[0]} lacks {output.name!r}, which {next(iter(tensors))} has. '
        'With missing set to present, those that have it are merged.')
  problems.add('note', f'{output.name} is merged without {", ".join(lacking)}, '
               'which lack it.')
  based = method.base != 'ignored' and base in tensors
  alone = len(tensors) == 1
  if alone and (method.missing == 'single'
                or method.missing == 'base' and based):
    return 'copy'
  if method.missing == 'skip' and len(tensors) < method.inputs[0]:
    if alone and based:
      return 'copy'
    problems.add('warning', f'{output.name} is left out: too few inputs have '
                 'it.')
    return 'skip'
  if base and method.base != 'ignored' and not based:
    raise core.UserError(f'{base}, the base, lacks {output.name!r}.')
  _check_count(method, output.name, len(tensors), based)
  return 'merge'


def check_shapes(name: str, tensors: Tensors) -> None:
  """Refuses inputs of several shapes."""
  (first, tensor), *others = tensors.items()
  for model, other in others:
    if other.shape != tensor.shape:
      hint = ''
      if embeddings.is_vocabulary(name) and tensor.shape[1:] == other.shape[1:]:
        hint = ('; their vocabularies differ: set tokenizer_source to union or '
                'base')
      raise core.UserError(
          f'{name} has shape {list(tensor.shape)} in {first}, '
          f'{list(other.shape)} in {model}{hint}.')


def choose_dtypes(recipe, name: str, tensors: Tensors,
                  problems: problems_lib.Problems
                  ) -> tuple[np.dtype | None, np.dtype]:
  """The dtype inputs are rounded to (None: as they are), and the result's."""
  dtypes = {t.dtype for t in tensors.values()}
  if len(dtypes) > 1:
    several = ', '.join(sorted(map(str, dtypes)))
    problems.add('note', f'{name} has dtypes {several} in the inputs.')
  common = jnp.dtype(recipe.dtype) if recipe.dtype else _widest(dtypes)
  if common == np.float64:
    problems.add('warning', f'{name} is float64; it is merged and written in '
                 'float32.')
    common = np.dtype(np.float32)
  if any(d.itemsize > common.itemsize and d != np.float64 for d in dtypes):
    problems.add('note', f'{name} is rounded to {common} before it is merged; '
                 'out_dtype rounds the result only.')
  return (None if dtypes == {common} else common,
          jnp.dtype(recipe.out_dtype or common))


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
  """Traces an operator on shapes alone, to find settings that it refuses.

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
    raise core.UserError(f'{job.name}: {job.op.__name__} must return one array '
                         f'of shape {list(job.base.shape)}.')


def _check_count(method: methods.Method, where: str, count: int, based: bool
                 ) -> None:
  """Refuses too few or too many inputs, the base included."""
  if method.base == 'required' and not based:
    raise core.UserError(f'{where}: {method.name} needs a base_model.')
  for number, (least, most), word in (
      (count, method.inputs, 'inputs, the base included'),
      (count - based, method.others, 'models beside the base')):
    if number < least or most is not None and number > most:
      need = (f'exactly {least}' if least == most else
              f'at least {least}' if number < least else f'at most {most}')
      hint = ('; base_model is an input here' if method.base == 'ignored'
              and most == 1 else '')
      raise core.UserError(f'{where}: {method.name} takes {need} {word}, got '
                           f'{number}{hint}.')


def _widest(dtypes) -> np.dtype:
  """The smallest dtype that contains all of several."""
  if len(dtypes) == 1:
    return next(iter(dtypes))
  if np.dtype(np.float64) in dtypes:
    return np.dtype(np.float64)
  half = {np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16)} & dtypes
  if len(half) == 1 and all(d in half or d.itemsize == 1 for d in dtypes):
    return half.pop()
  return np.dtype(np.float32)
