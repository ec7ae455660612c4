"""Argument validation of linear_head."""
import inspect

from kt_jax import core

_READ = ('student_logits', 'teacher_logits', 'labels')
# Sorting a vocabulary takes longer than all else, and undoes its sharding.
_SORT = ('partial_ranking', 'uld')


def arrays_read(fn) -> list[str]:
  """Names of the arrays that a loss reads.

  Raises:
    UserError: the loss reads more than single tokens, or sorts.
  """
  name = getattr(fn, '__name__', repr(fn))
  reads = [p.name for p in inspect.signature(fn).parameters.values()
           if p.kind is p.POSITIONAL_OR_KEYWORD]
  other = [n for n in reads if n not in _READ]
  if other or 'student_logits' not in reads:
    raise core.UserError(
        f'linear_head: {name} reads {reads}; allowed is a loss of single '
        f'tokens, which reads only {list(_READ)}.')
  if name in _SORT:
    raise core.UserError(f'linear_head: {name} sorts the vocabulary, which '
                         'needs all of it at once; call it on logits.')
  return reads


def check_heads(reads, transposed, arrays) -> None:
  """Refuses arrays of `linear_head`, by name, that are missing or do not fit.

  Raises:
    UserError: names the array.
  """
  lead = arrays['student_hidden'].shape[:-1]
  axis = 1 if transposed else 0
  for role in ('student', 'teacher'):
    hidden, head = (arrays[f'{role}_{part}'] for part in ('hidden', 'head'))
    if f'{role}_logits' not in reads:
      continue
    if hidden is None or head is None:
      raise core.UserError(f'linear_head: fn reads {role}_logits: '
                           f'{role}_hidden and {role}_head are needed.')
    if hidden.shape[:-1] != lead or head.ndim != 2 or (
        hidden.shape[-1] != head.shape[axis]):
      raise core.UserError(
          f'linear_head: {role}_hidden has shape {hidden.shape}, {role}_head '
          f'{head.shape}; they must be {lead} + (W,) and '
          + ('(V, W).' if transposed else '(W, V).'))
  if 'labels' in reads and arrays['labels'] is None:
    raise core.UserError('linear_head: fn reads labels, which are needed.')
  for name in ('labels', 'where', 'weight'):
    value = arrays[name]
    if value is not None and value.shape != lead:
      raise core.UserError(f'linear_head: {name} has shape {value.shape}; it '
                           f'must be {lead}, one entry per token.')
