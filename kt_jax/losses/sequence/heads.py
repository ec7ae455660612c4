"""What linear_head takes: which losses, which arrays."""
import inspect

from kt_jax import core

_READ = ('student_logits', 'teacher_logits', 'labels')
# To sort a vocabulary takes longer than all else, and undoes its sharding.
_SORT = ('partial_ranking', 'uld')


def arrays_read(fn) -> list[str]:
  """Names of the arrays that a loss reads.

  Raises:
    UserError: it reads more than single tokens, or sorts.
  """
  name = getattr(fn, '__name__', repr(fn))
  reads = [p.name for p in inspect.signature(fn).parameters.values()
           if p.kind is p.POSITIONAL_OR_KEYWORD]
  other = [n for n in reads if n not in _READ]
  if other or 'student_logits' not in reads:
    raise core.UserError(
        f'linear_head: {name} reads {reads}; allowed is a loss of single '
        f'tokens, which reads of {list(_READ)} only.')
  if name in _SORT:
    raise core.UserError(f'linear_head: {name} sorts the vocabulary, which has '
                         'to be there as a whole; call it on logits.')
  return reads


def check_heads(reads, transposed, arrays) -> None:
  """Refuses arrays of `linear_head`, by name, that lack or do not fit.

  Raises:
    UserError: names the array.
  """
  lead = arrays['student_hidden'].shape[:-1]
  axis = 1 if transposed else 0
  for who in ('student', 'teacher'):
    hidden, head = (arrays[f'{who}_{part}'] for part in ('hidden', 'head'))
    if f'{who}_logits' not in reads:
      continue
    if hidden is None or head is None:
      raise core.UserError(f'linear_head: fn reads {who}_logits: {who}_hidden '
                           f'and {who}_head are needed.')
    if hidden.shape[:-1] != lead or head.ndim != 2 or (
        hidden.shape[-1] != head.shape[axis]):
      raise core.UserError(
          f'linear_head: {who}_hidden has shape {hidden.shape}, {who}_head '
          f'{head.shape}; they must be {lead} + (W,) and '
          + ('(V, W).' if transposed else '(W, V).'))
  if 'labels' in reads and arrays['labels'] is None:
    raise core.UserError('linear_head: fn reads labels, which are needed.')
  for name in ('labels', 'where', 'weight'):
    value = arrays[name]
    if value is not None and value.shape != lead:
      raise core.UserError(f'linear_head: {name} has shape {value.shape}; it '
                           f'must be {lead}, one entry a token.')
