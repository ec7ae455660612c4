"""A loss on logits computed from hidden states, some tokens at a time."""
from collections.abc import Callable

import jax
from jax import numpy as jnp

from kt_jax import core
from kt_jax.losses.sequence._chunks import chunked
from kt_jax.losses.sequence._chunks import in_blocks
from kt_jax.losses.sequence._chunks import sum_in_blocks
from kt_jax.losses.sequence._heads import arrays_read
from kt_jax.losses.sequence._heads import check_heads


def linear_head(
    fn: Callable[..., jax.Array],
    student_hidden: jax.Array,
    student_head: jax.Array,
    teacher_hidden: jax.Array | None = None,
    teacher_head: jax.Array | None = None,
    labels: jax.Array | None = None,
    where: jax.Array | None = None,
    weight: jax.Array | None = None,
    *,
    chunk: int = 1024,
    block: int = 32,
    student_softcap: float = 0.0,
    teacher_softcap: float = 0.0,
    transposed: bool = False,
    vocabulary: int | None = None,
    **settings,
) -> tuple[jax.Array, jax.Array]:
  r"""Sum of a loss over tokens that never holds the logits of all of them.

    sum_i w_i fn(c tanh(h_i W / c), ...)

  Value and gradient are computed in one pass over chunks of tokens: four matrix
  products, the logits of two models and two gradients, without recomputation.

  Args:
    fn: a loss of this package, or another by its rules, that reads each token
      by itself: student_logits, and possibly teacher_logits and labels.
    student_hidden: `[..., W]` h, inputs of the head.
    student_head: `[W, V]`.
    teacher_hidden: `[..., W']`, if fn reads teacher_logits.
    teacher_head: `[W', V']`.
    labels: `[...]` integer, if fn reads them.
    where: `[...]` bool, the tokens that count; the others may be NaN.
    weight: `[...]` w, constants; None: 1.
    chunk: about how many tokens are in memory as logits: those of two models
      and one gradient, in the place of the student's.
    block: about how many of those fn is applied to at once; chunk: all.
    student_softcap: c of the student; 0: no cap.
    teacher_softcap: c of the teacher.
    transposed: heads are `[V, W]`, as tied embeddings are.
    vocabulary: number of classes, the first ones of both heads; None: that of
      the narrower head. Logits beyond are cut off where V and V' differ, else
      -inf, which fn must allow.
    **settings: settings of fn; arrays among them are scalars.

  Returns:
    The sum of fn's values, and how many tokens count, both at least float32.
    Gradients reach student_hidden and student_head, in reverse mode, once;
    teacher, weight and settings are constants. Factors of products keep their
    dtype, sums are in float32. On an Auto mesh tokens and vocabulary stay
    sharded; W's gradient is summed over the tokens' axis for each chunk.

  Raises:
    ValueError: fn reads other arrays, or sorts; arrays are missing or do not
      fit.
  """
  reads = arrays_read(fn)
  if 'teacher_logits' not in reads:
    teacher_hidden = teacher_head = None
  check_heads(reads, transposed, dict(
      student_hidden=student_hidden, student_head=student_head,
      teacher_hidden=teacher_hidden, teacher_head=teacher_head, labels=labels,
      where=where, weight=weight))
  core.check_positive('linear_head', chunk=chunk, block=block)
  widths = [head.shape[0 if transposed else 1]
            for head in (student_head, teacher_head) if head is not None]
  classes = min(widths)
  if vocabulary is not None and not 1 <= vocabulary <= classes:
    raise core.UserError('linear_head: vocabulary must be from 1 to '
                         f'{classes}, got {vocabulary}.')
  traced = {n: v for n, v in settings.items() if isinstance(v, jax.Array)}
  for name, value in traced.items():
    if value.ndim:
      raise core.UserError(f'linear_head: {name} must be a scalar, got shape '
                           f'{value.shape}.')

  valid = (jnp.ones(student_hidden.shape[:-1], bool) if where is None
           else where.astype(bool))
  rows = dict(valid=valid, teacher_hidden=teacher_hidden, weight=weight,
              labels=labels if 'labels' in reads else None)
  rows = {n: chunked(v, valid, chunk, block) for n, v in rows.items()
          if v is not None}
  hidden = chunked(student_hidden, valid, chunk, block)
  dtype = jnp.promote_types(hidden.dtype, jnp.float32)
  forms = ('cw,vw->cv', 'cv,vw->cw', 'cv,cw->vw') if transposed else (
      'cw,wv->cv', 'cv,wv->cw', 'cv,cw->wv')

  def product(form, a, b):
    return jnp.einsum(form, a, b, preferred_element_type=dtype)

  def shaped(z, cap):
    z = z[:, :classes]
    if cap:
      z = cap * jnp.tanh(z / cap)
    if vocabulary is not None and vocabulary < classes:
      z = jnp.where(jnp.arange(classes) < vocabulary, z, -jnp.inf)
    return z

  def chunk_of(hidden, head, row, rest):
    """Loss of a chunk, its logits, the other arrays and the block size."""
    row = dict(row)
    if teacher_head is not None:
      row['teacher'] = product(forms[0], row.pop('teacher_hidden'),
                               rest['head'])
    def loss(z, row):
      pool = {'student_logits': shaped(z, student_softcap)}
      if 'teacher' in row:
        pool['teacher_logits'] = shaped(row['teacher'], teacher_softcap)
      if 'labels' in row:
        pool['labels'] = row['labels']
      values = core.bind(fn, pool, **settings | rest['traced'])
      if 'weight' in row:
        values *= row['weight']
      return jnp.sum(values, where=row['valid'], dtype=dtype)
    return loss, product(forms[0], hidden, head), row, block

  @jax.custom_vjp
  def total(hidden, head, rows, rest):
    def step(sums, xs):
      return sums + sum_in_blocks(*chunk_of(xs[0], head, xs[1], rest)), None
    return jax.lax.scan(step, jnp.zeros((), dtype), (hidden, rows))[0]

  def forward(hidden, head, rows, rest):
    def step(sums, xs):
      value, dz = in_blocks(*chunk_of(xs[0], head, xs[1], rest))
      dz = dz.astype(head.dtype)
      sums = sums[0] + value, sums[1] + product(forms[2], dz, xs[0])
      return sums, product(forms[1], dz, head).astype(hidden.dtype)
    start = jnp.zeros((), dtype), jnp.zeros(head.shape, dtype)
    (value, dhead), dhidden = jax.lax.scan(step, start, (hidden, rows))
    return value, (dhidden, dhead.astype(head.dtype))

  def backward(grads, cotangent):
    return *[(cotangent * g).astype(g.dtype) for g in grads], None, None

  total.defvjp(forward, backward)
  rest = dict(head=teacher_head, traced=traced)
  return (total(hidden, student_head, rows, rest),
          jnp.sum(valid, dtype=dtype))
