"""Two checkpoints compared leaf by leaf, without holding either."""
from collections.abc import Callable, Mapping
from concurrent import futures
import math
import os
from typing import NamedTuple

import numpy as np

from kt_jax import checkpoint
from kt_jax import core
from kt_jax.cli import problems

_CHUNK = 2 ** 20  # entries read at a time
_SORTS = ('name', 'difference')
_COLUMNS = ('max abs', 'rel L2', 'cosine', 'differing', 'not finite')


class LeafDiff(NamedTuple):
  name: str
  status: str  # equal, differs, shape, dtype, only in a, only in b
  detail: str = ''  # the two shapes or dtypes
  max_abs: float = 0.0  # of b - a, over finite entries
  relative: float = 0.0  # ||b - a|| / ||a||
  cosine: float = 1.0  # NaN where one of the two is all zero
  differing: float = 0.0  # share of entries that are not the same bits
  not_finite: tuple[int, int] = (0, 0)  # NaN and Inf in a, in b
  size: int = 0
  sums: tuple[float, float, float, float] = (0.0,) * 4  # aa, bb, ab, (b-a)^2


def diff(a: Mapping[str, checkpoint.Tensor],
         b: Mapping[str, checkpoint.Tensor],
         progress: Callable[[str], None] = lambda name: None,
         threads: int | None = None) -> list[LeafDiff]:
  """Compares two models.

    ||b - a|| / ||a||,  <a, b> / (||a|| ||b||)  over the finite entries

  Args:
    a: name -> tensor, the reference.
    b: name -> tensor.
    progress: called with each name when it is compared.
    threads: number of workers; None for one per core.

  Returns:
    A row for each name in either, in the order of `a`, then `b`. Values are
    compared where shapes agree, also across dtypes; sums are in float64.
  """
  names = [*a, *(n for n in b if n not in a)]
  with futures.ThreadPoolExecutor(threads or os.cpu_count()) as pool:
    rows = []
    for row in pool.map(lambda name: _compare(name, a, b), names):
      rows.append(row)
      progress(row.name)
  return rows


def _compare(name, a, b) -> LeafDiff:
  if name not in b or name not in a:
    side = 'a' if name in a else 'b'
    tensor = (a if side == 'a' else b)[name]
    return LeafDiff(name, f'only in {side}',
                    f'{tensor.dtype}{list(tensor.shape)}')
  if a[name].shape != b[name].shape:
    return LeafDiff(name, 'shape', f'{list(a[name].shape)} '
                    f'{list(b[name].shape)}')
  return _leaf(name, a[name], b[name])


def differ(rows: list[LeafDiff]) -> bool:
  """Whether anything differs; the exit status of `kt-merge --diff`."""
  return any(row.status != 'equal' for row in rows)


def format_diff(rows: list[LeafDiff], sort: str = 'name') -> str:
  """A table: a line for each leaf that is not equal, and one for all.

  Args:
    rows: of `diff`.
    sort: 'name', or 'difference': what has no counterpart first, then the
      largest relative difference.

  Raises:
    UserError: any other `sort`.
  """
  if sort not in _SORTS:
    raise core.UserError(core.nearest('sort', sort, _SORTS))
  key = (lambda r: r.name) if sort == 'name' else (
      lambda r: (bool(r.size), -_number(r.relative), r.name))
  unequal = [r._replace(name=problems.one_line(r.name)) for r in sorted(
      (r for r in rows if r.status != 'equal'), key=key)]
  compared = [r for r in rows if r.size]
  width = max([5, *(len(r.name) for r in unequal)])
  lines = [f'{"leaf":{width}} ' + ' '.join(f'{c:>10}' for c in _COLUMNS)]
  for row in unequal:
    lines.append(f'{row.name:{width}} ' + (_values(row) if row.size else '')
                 + (f' {row.status}: {row.detail}' if row.detail else ''))
  if compared:
    total = _row('total', 'total', '', [r.sums for r in compared],
                 max(_number(r.max_abs) for r in compared),
                 sum(r.differing * r.size for r in compared),
                 np.sum([r.not_finite for r in compared], 0),
                 sum(r.size for r in compared))
    lines.append(f'{"total":{width}} {_values(total)}')
  lines.append(f'{len(rows)} leaves, {len(unequal)} not equal' + ''.join(
      f', {n} {status}'
      for status in ('only in a', 'only in b', 'shape', 'dtype')
      if (n := sum(r.status == status for r in rows))) + '.')
  return '\n'.join(line.rstrip() for line in lines)


def _leaf(name, a, b) -> LeafDiff:
  sums, most, differing, bad = [], 0.0, 0, np.zeros(2, int)
  for start in range(0, a.size, _CHUNK):
    count = min(_CHUNK, a.size - start)
    x, y = np.empty(count, a.dtype), np.empty(count, b.dtype)
    a.read(start, x)
    b.read(start, y)
    same = _same_bits(x, y) if a.dtype == b.dtype else None
    x = _real(x)
    y = x if same is not None and same.all() else _real(y)
    if same is None:
      same = (x == y) | (np.isnan(x) & np.isnan(y))
    differing += count - int(same.sum())
    finite = np.isfinite(x), np.isfinite(y)
    bad += [count - int(f.sum()) for f in finite]
    if not (finite[0].all() and finite[1].all()):
      both = finite[0] & finite[1]
      x, y = np.where(both, x, 0), np.where(both, y, 0)
    xx = _dot(x, x)
    if x is y:
      sums.append((xx, xx, xx, 0.0))
      continue
    d = y - x
    most = max(most, float(d.max(initial=0)), -float(d.min(initial=0)))
    sums.append((xx, _dot(y, y), _dot(x, y), _dot(d, d)))
  status = ('dtype' if a.dtype != b.dtype else
            'differs' if differing else 'equal')
  detail = f'{a.dtype} {b.dtype}' if status == 'dtype' else ''
  return _row(name, status, detail, sums, most, differing, bad, a.size)


def _dot(x, y) -> float:
  return float(np.einsum('i,i->', x, y))  # BLAS would use all cores


def _same_bits(x, y) -> np.ndarray:
  size = x.dtype.itemsize
  if size <= 8:
    return x.view(f'u{size}') == y.view(f'u{size}')
  return (x.view('u8') == y.view('u8')).reshape(len(x), -1).all(1)


def _real(x) -> np.ndarray:
  if x.dtype.kind == 'V':  # bfloat16 and the like: much faster in two steps
    x = x.astype(np.float32)
  return x.astype(np.float64)


def _row(name, status, detail, sums, most, differing, bad, size) -> LeafDiff:
  aa, bb, ab, dd = map(math.fsum, zip(*sums)) if sums else (0.0,) * 4
  norms = math.sqrt(aa) * math.sqrt(bb)
  if dd == 0:
    relative, cosine = 0.0, 1.0
  else:
    relative = math.sqrt(dd / aa) if aa else math.inf
    cosine = min(1.0, max(-1.0, ab / norms)) if norms else math.nan
  a_bad, b_bad = map(int, bad)
  return LeafDiff(name, status, detail, most, relative, cosine,
                  differing / size if size else 0.0, (a_bad, b_bad), size,
                  (aa, bb, ab, dd))


def _number(x) -> float:
  return math.inf if math.isnan(x) else x


def _values(row) -> str:
  bad = '/'.join(map(str, row.not_finite)) if any(row.not_finite) else '0'
  return (f'{row.max_abs:10.3g} {row.relative:10.3g} {row.cosine:10.6f} '
          f'{row.differing:10.2%} {bad:>10}')
