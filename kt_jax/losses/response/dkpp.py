"""Dark knowledge with permuted predictions."""
import jax
from jax import numpy as jnp

from kt_jax import core
from kt_jax.losses.response.kd import kd


def dkpp(
    student_logits: jax.Array,
    teacher_logits: jax.Array,
    key: jax.Array,
    index: jax.Array | None = None,
) -> jax.Array:
  r"""Distils the teacher's top probability and, of the others, only the values.

    KL(p' || q),   p' = p with all but its largest entry permuted at random.

  What is left of distillation without what it says of single other classes.

  Args:
    student_logits: `[..., K]` raw logits of q.
    teacher_logits: `[..., K]` raw logits of p; no gradient is stopped here.
    key: of the permutations; a new one each step draws new ones.
    index: `[...]` integer, where the examples stand in the training set. With
      it an example's permutation hangs on (key, index) alone, not on its place
      in the batch; None: on (key, place).

  Returns:
    `[...]` losses in nats at temperature 1, at least float32; not 0 at equality
    of the logits, as the target is permuted.

  Departures: the paper writes a cross entropy, which differs from this by the
  teacher's entropy: the same gradient.

  References: furlanello2018born, Sec. 3 (DKPP).
  """
  core.check_logits('dkpp', student_logits=student_logits,
                    teacher_logits=teacher_logits)
  *lead, classes = student_logits.shape
  if index is None:
    index = jnp.arange(student_logits.size // classes).reshape(lead)
  if index.shape != tuple(lead):
    raise ValueError(f'dkpp: index has shape {index.shape}; it must be '
                     f'{tuple(lead)}, one entry an example.')

  def permuted(z, index):
    drawn = jax.random.uniform(jax.random.fold_in(key, index), (classes,))
    top = jnp.arange(classes) == jnp.argmax(z)
    # Both orders begin with the top class, so that it keeps its place.
    source = jnp.argsort(jnp.where(top, -1, drawn))
    target = jnp.argsort(jnp.where(top, -1, jnp.arange(classes)))
    return z[source][jnp.argsort(target)]

  flat = jax.vmap(permuted)(teacher_logits.reshape(-1, classes), index.ravel())
  return kd(student_logits, flat.reshape(student_logits.shape), temperature=1.0)
